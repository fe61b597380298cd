package status

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
)

// ReasonInternalError says that Tulle itself is at fault.
const ReasonInternalError = "InternalError"

// Unknown is the status of a Mesh of which nothing can be said, because of err.
func Unknown(report model.MeshReport, err error) v1alpha1.MeshStatus {
	s := v1alpha1.MeshStatus{ObservedGeneration: report.Generation}
	for _, condition := range []string{
		v1alpha1.ConditionAccepted, v1alpha1.ConditionResolvedRefs, v1alpha1.ConditionIssued,
		v1alpha1.ConditionInjected, v1alpha1.ConditionProgrammed, v1alpha1.ConditionEncrypted, v1alpha1.ConditionReady,
	} {
		s.Conditions = append(s.Conditions, metav1.Condition{
			Type: condition, Status: metav1.ConditionUnknown, Reason: ReasonInternalError,
			Message: shorten(err.Error(), maxMessage), ObservedGeneration: report.Generation,
		})
	}
	return s
}

package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// Event is a change that people are told of.
type Event struct {
	// Type is corev1.EventTypeNormal or corev1.EventTypeWarning.
	Type string
	// Condition that changed, with its new reason and message.
	Condition, Reason, Message string
}

// Merge gives the conditions of next the times of their transition: those of old, or now where the status differs. It returns
// an event for each condition that became False or became so for another reason, for each that recovered, and for Ready and Encrypted:
// that Strict is safe is news, too.
func Merge(old, next v1alpha1.MeshStatus, now metav1.Time) (v1alpha1.MeshStatus, []Event) {
	var events []Event
	next.Conditions = slices.Clone(next.Conditions)
	for i := range next.Conditions {
		c := &next.Conditions[i]
		c.LastTransitionTime = now
		before := meta.FindStatusCondition(old.Conditions, c.Type)
		if before != nil && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		if e, ok := transition(before, c); ok {
			events = append(events, e)
		}
	}
	return next, events
}

func transition(before, after *metav1.Condition) (Event, bool) {
	e := Event{Type: corev1.EventTypeNormal, Condition: after.Type, Reason: after.Reason, Message: after.Message}
	ready := after.Type == v1alpha1.ConditionReady
	switch after.Status {
	case metav1.ConditionTrue:
		was := before != nil && before.Status == metav1.ConditionTrue
		recovered := before != nil && before.Status == metav1.ConditionFalse
		news := after.Type == v1alpha1.ConditionEncrypted && before != nil && !was
		return e, recovered || ready && !was || news
	case metav1.ConditionFalse:
		e.Type = corev1.EventTypeWarning
		same := before != nil && before.Status == metav1.ConditionFalse && before.Reason == after.Reason
		// Ready repeats what another condition says, and to have no monitors is a choice.
		chosen := after.Reason == ReasonNever || after.Reason == ReasonMonitoringCRDsMissing || after.Reason == ReasonNotEnrolled
		return e, !same && !ready && !chosen
	}
	return e, false
}

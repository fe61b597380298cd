package status

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// Reasons of the condition Monitored, besides Pending, Conflicted and NotEnrolled.
const (
	ReasonMonitored             = "Monitored"
	ReasonNever                 = "Never"
	ReasonMonitoringCRDsMissing = "MonitoringCRDsMissing"
	ReasonNotSelected           = "NotSelected"
)

// Monitoring is what came of the monitors of a namespace; in the operator's, of those of Tulle itself.
type Monitoring struct {
	Mode v1alpha1.MonitorMode
	// Made are the objects that exist, such as "PodMonitor tulle".
	Made []string
	// Missing are the CustomResourceDefinitions that the cluster lacks, or whose version is not served.
	Missing []string
	// Conflict names an object of somebody else in the place of ours; Err says what else went wrong.
	Conflict, Err error
	// Prometheuses are those that take up all that was made, as namespace/name.
	Prometheuses []string
	// Unselected says of objects why none of the Prometheuses takes them up.
	Unselected []string
}

// monitored says whether a Prometheus finds the metrics. counts says that the Mesh is not Ready without: that it asks for Always.
func (in Input) monitored() (o outcome, counts bool) {
	m := in.Monitoring
	o = outcome{Condition: metav1.Condition{Type: v1alpha1.ConditionMonitored, Status: metav1.ConditionFalse}}
	switch {
	case !in.Report.Root && !in.Namespace.Meshed:
		o.Reason, o.Message = ReasonNotEnrolled, "the namespace is not part of the mesh"
		return o, false
	case m.Mode == v1alpha1.MonitorsNever:
		o.Reason, o.Message = ReasonNever, "there are no monitors, as spec.observability.metrics.serviceMonitor of this Mesh or the root Mesh is Never"
	case m.Conflict != nil:
		o.Reason, o.Message = ReasonConflicted, m.Conflict.Error()
	case len(m.Missing) > 0:
		o.Reason = ReasonMonitoringCRDsMissing
		o.summary = "the cluster has no " + strings.Join(m.Missing, ", ")
		o.Message = fmt.Sprintf("the cluster does not serve %s (%s): install the Prometheus Operator, or scrape as docs/monitoring.md says; Tulle goes on by itself then",
			strings.Join(m.Missing, ", "), present(m.Made))
	case m.Err != nil:
		o.Status, o.Reason, o.Message = metav1.ConditionUnknown, ReasonPending, m.Err.Error()
	case len(m.Unselected) > 0:
		o.Reason, o.Message = ReasonNotSelected, samples(m.Unselected, "; ")
	case len(m.Prometheuses) == 0:
		o.Status, o.Reason = metav1.ConditionTrue, ReasonMonitored
		o.Message = present(m.Made) + "; there is no Prometheus object that could say who reads them"
	default:
		o.Status, o.Reason = metav1.ConditionTrue, ReasonMonitored
		o.Message = present(m.Made) + "; selected by Prometheus " + samples(m.Prometheuses, ", ")
	}
	return o, m.Mode == v1alpha1.MonitorsAlways
}

func present(objects []string) string {
	switch len(objects) {
	case 0:
		return "none of the monitors exists"
	case 1:
		return objects[0] + " exists"
	}
	return strings.Join(objects[:len(objects)-1], ", ") + " and " + objects[len(objects)-1] + " exist"
}

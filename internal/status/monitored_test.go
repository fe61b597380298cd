package status

import (
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// What Monitored says, and what Ready makes of it when monitors are asked for Always.
func TestMonitored(t *testing.T) {
	t.Parallel()
	made := []string{"PodMonitor tulle", "ServiceMonitor tulle"}
	missing := []string{"podmonitors.monitoring.coreos.com"}
	for name, test := range map[string]struct {
		monitoring Monitoring
		unmeshed   bool
		want       string
		ready      string // when Always
	}{
		"made": {
			monitoring: Monitoring{Made: made},
			want:       "True Monitored: PodMonitor tulle and ServiceMonitor tulle exist; there is no Prometheus object that could say who reads them",
			ready:      "True Ready: all proxies hold generation 4",
		},
		"selected": {
			monitoring: Monitoring{Made: made[:1], Prometheuses: []string{"monitoring/k8s"}},
			want:       "True Monitored: PodMonitor tulle exists; selected by Prometheus monitoring/k8s",
			ready:      "True Ready: all proxies hold generation 4",
		},
		"not selected": {
			monitoring: Monitoring{Made: made[:1], Unselected: []string{"PodMonitor tulle: Prometheus monitoring/k8s selects no PodMonitor"}},
			want:       "False NotSelected: PodMonitor tulle: Prometheus monitoring/k8s selects no PodMonitor",
			ready:      "False NotSelected: PodMonitor tulle: Prometheus monitoring/k8s selects no PodMonitor",
		},
		"missing": {
			monitoring: Monitoring{Missing: missing},
			want:       "False MonitoringCRDsMissing: the cluster does not serve podmonitors.monitoring.coreos.com (none of the monitors exists): install the Prometheus Operator, or scrape as docs/monitoring.md says; Tulle goes on by itself then",
			ready:      "False MonitoringCRDsMissing: the cluster has no podmonitors.monitoring.coreos.com; see condition Monitored",
		},
		"in the way": {
			monitoring: Monitoring{Conflict: errors.New("PodMonitor bookinfo/tulle exists and was not made by Tulle"), Missing: missing},
			want:       "False Conflicted: PodMonitor bookinfo/tulle exists and was not made by Tulle",
			ready:      "False Conflicted: PodMonitor bookinfo/tulle exists and was not made by Tulle",
		},
		"failed": {
			monitoring: Monitoring{Err: errors.New("apply PodMonitor bookinfo/tulle: forbidden")},
			want:       "Unknown Pending: apply PodMonitor bookinfo/tulle: forbidden",
			ready:      "Unknown Pending: apply PodMonitor bookinfo/tulle: forbidden",
		},
		"not enrolled": {
			monitoring: Monitoring{}, unmeshed: true,
			want: "False NotEnrolled: the namespace is not part of the mesh",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range []v1alpha1.MonitorMode{v1alpha1.MonitorsAuto, v1alpha1.MonitorsAlways} {
				in := good()
				test.monitoring.Mode = mode
				in.Monitoring, in.Namespace.Meshed = &test.monitoring, !test.unmeshed
				s := Of(in)
				if got := conditionText(s, v1alpha1.ConditionMonitored); got != test.want {
					t.Errorf("%s: got %s", mode, got)
				}
				ready := "True Ready: all proxies hold generation 4"
				if mode == v1alpha1.MonitorsAlways && test.ready != "" {
					ready = test.ready
				}
				if got := conditionText(s, v1alpha1.ConditionReady); got != ready {
					t.Errorf("%s: Ready is %s", mode, got)
				}
			}
		})
	}
}

// Never is nothing to warn of, also not as an event; a Prometheus that selects nothing is.
func TestMonitoredEvents(t *testing.T) {
	t.Parallel()
	in := good()
	before := Of(in)
	for reason, m := range map[string]Monitoring{
		ReasonNever:       {Mode: v1alpha1.MonitorsNever},
		ReasonNotSelected: {Mode: v1alpha1.MonitorsAuto, Unselected: []string{"PodMonitor tulle"}},
	} {
		in.Monitoring = &m
		_, events := Merge(before, Of(in), metav1.Time{})
		warned := len(events) == 1 && events[0].Type == "Warning" && events[0].Reason == reason
		if warned != (reason == ReasonNotSelected) || len(events) > 1 {
			t.Errorf("%s: events %+v", reason, events)
		}
	}
}

func conditionText(s v1alpha1.MeshStatus, kind string) string {
	c := meta.FindStatusCondition(s.Conditions, kind)
	if c == nil {
		return "none"
	}
	return string(c.Status) + " " + c.Reason + ": " + c.Message
}

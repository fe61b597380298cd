package integration

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/plan"
	"github.com/tulle-mesh/tulle/internal/smi"
)

const divided = `apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: shop, namespace: smi}
spec:
  services:
  - name: reviews
    versions: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
    routes: [{name: canary, to: [{version: v1, weight: 90}, {version: v2, weight: 10}]}]
`

const alsoRatings = `  - name: ratings
    versions: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
    routes: [{name: canary, to: [{version: v1, weight: 1}, {version: v2, weight: 1}]}]
`

const rollout = `apiVersion: split.smi-spec.io/v1alpha1
kind: TrafficSplit
metadata: {name: rollout, namespace: smi}
spec: {service: reviews.smi, backends: [{service: reviews-v2, weight: 500m}, {service: reviews-v1, weight: 500m}]}
`

// testPlannedSplits: what becomes of Tulle's TrafficSplits and of the Services beside them when a rule, a split of somebody else or a taken name comes or goes.
func testPlannedSplits(t *testing.T, p *planner) {
	p.eventually("TrafficSplits are served", func() error { return p.served(smi.TrafficSplits()) })
	p.namespace("smi")
	service := outputService("reviews")
	p.create(service, outputService("ratings"))
	p.endpoints(service, "192.0.2.1")

	made := p.plan(0, divided)
	p.plansSplits(made, "Create Service reviews-v1", "Create Service reviews-v2", "Create TrafficSplit reviews")
	p.apply(divided)
	p.splitsComeTrue(made)

	made = p.plan(0, rollout)
	p.plansSplits(made, "Delete TrafficSplit reviews")
	p.apply(rollout)
	p.splitsComeTrue(made)

	made = p.plan(0, rollout, "--delete")
	p.plansSplits(made, "Create TrafficSplit reviews")
	if out, errs, code := p.kubectl(true, rollout, "delete", "-f", "-"); code != 0 {
		t.Fatalf("kubectl delete: %s%s", out, errs)
	}
	p.splitsComeTrue(made)

	taken := outputService("ratings-v2")
	p.create(taken)
	made = p.plan(0, divided+alsoRatings)
	p.plansSplits(made)
	if c := plan.Condition(made.Meshes[0].After, v1alpha1.ConditionAccepted); c.Status != metav1.ConditionFalse || c.Reason != "Conflicted" {
		t.Errorf("Accepted %+v", c)
	}
	p.apply(divided + alsoRatings)
	p.splitsComeTrue(made)
}

// testPlannedMonitors: the monitors of a namespace are planned once the cluster has their kinds.
func testPlannedMonitors(t *testing.T, p *planner) {
	p.installMonitoring()
	p.monitor("base", "PodMonitor") // the operator has seen them
	p.namespace("watched")
	const watched = "apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: watched, namespace: watched}\n"
	planned := func(spec string) (monitors []string) {
		t.Helper()
		manifest := watched + spec
		made := p.plan(0, manifest)
		for _, o := range made.Objects {
			if o.Kind == "PodMonitor" || o.Kind == "ServiceMonitor" || o.Kind == "PrometheusRule" {
				monitors = append(monitors, fmt.Sprintf("%s %s %s/%s", o.Action, o.Kind, o.Namespace, o.Name))
			}
		}
		p.apply(manifest)
		p.comesTrue(made)
		return monitors
	}
	p.create(p.service("watched", "web", "http-metrics"))
	want := []string{"Create PodMonitor watched/tulle", "Create ServiceMonitor watched/tulle"}
	if diff := cmp.Diff(want, planned("spec: {}\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, kind := range []string{"PodMonitor", "ServiceMonitor"} {
		p.monitor("watched", kind)
	}
	want = []string{"Delete PodMonitor watched/tulle", "Delete ServiceMonitor watched/tulle"}
	if diff := cmp.Diff(want, planned("spec: {observability: {metrics: {serviceMonitor: Never}}}\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, kind := range []string{"PodMonitor", "ServiceMonitor"} {
		p.eventually(kind+" goes", func() error { return p.gone(newMonitor("watched", kind)) })
	}
}

// plansSplits compares what a plan says of Services and TrafficSplits.
func (p *planner) plansSplits(made *plan.Plan, want ...string) {
	p.t.Helper()
	var got []string
	for _, o := range made.Objects {
		if o.Kind == "Service" || o.Kind == "TrafficSplit" {
			got = append(got, fmt.Sprintf("%s %s %s", o.Action, o.Kind, o.Name))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("(-want +got):\n%s", diff)
	}
}

// splitsComeTrue is comesTrue, also for Services and TrafficSplits.
func (p *planner) splitsComeTrue(made *plan.Plan) {
	p.t.Helper()
	for _, o := range made.Objects {
		var live client.Object = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name}}
		switch o.Kind {
		case "Service":
		case "TrafficSplit":
			live = smiObject(p.t, smi.TrafficSplits(), "v1alpha4", o.Name, "{}")
		default:
			continue
		}
		p.eventually(fmt.Sprintf("%s %s %s", o.Action, o.Kind, o.Name), func() error {
			if o.Action == plan.Delete {
				return p.gone(live)
			}
			return p.get(live)
		})
	}
	p.comesTrue(made)
}

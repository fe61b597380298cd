package integration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// TestSMIOutput: a weighted rule becomes a TrafficSplit and a Service of each version, which are kept as the rule says, give way to others' and go with the Mesh.
func TestSMIOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	w.start(nil)
	w.eventually("the operator is ready", w.ready)
	w.eventually("TrafficSplits are served", func() error { return w.served(smi.TrafficSplits()) })
	w.namespace("smi")
	w.create(outputService("reviews"), outputService("ratings"))
	m := mesh("smi", "shop", v1alpha1.MeshSpec{Services: []v1alpha1.ServiceSpec{weighted("reviews", 90, 10)}})
	w.create(m)
	for _, step := range []struct {
		name string
		test func(*testing.T, *world, *v1alpha1.Mesh)
	}{
		{"made", testSplitIsMade},
		{"follows the Mesh", testSplitFollows},
		{"edited and deleted by a person", testSplitIsReverted},
		{"a split of somebody else", testForeignSplitWins},
		{"names that are taken", testTakenNames},
		{"gone with the Mesh", testSplitGoes},
	} {
		t.Run(step.name, func(t *testing.T) { step.test(t, w.in(t), m) })
	}
}

func outputService(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "smi", Name: name},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}, {Name: "mysql", Port: 3306},
		}},
	}
}

func weighted(name string, v1, v2 int32) v1alpha1.ServiceSpec {
	return v1alpha1.ServiceSpec{
		Name:     name,
		Versions: []v1alpha1.VersionSpec{{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "v2", Labels: map[string]string{"version": "v2"}}},
		Routes:   []v1alpha1.RouteSpec{{Name: "canary", To: []v1alpha1.RouteTarget{{Version: "v1", Weight: &v1}, {Version: "v2", Weight: &v2}}}},
	}
}

// split reads a TrafficSplit in the stored version; nil when there is none.
func (w *world) split(name string) (*unstructured.Unstructured, error) {
	u := smiObject(w.t, smi.TrafficSplits(), "v1alpha4", name, "{}")
	out, err := w.getIn(u, "v1alpha4")
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if err != nil {
		return nil, nil
	}
	return out, nil
}

// splits is nil once a split that Tulle made divides as it should; without weights, once there is none.
func (w *world) splits(name string, weights ...int64) func() error {
	return func() error {
		split, err := w.split(name)
		if err != nil {
			return err
		}
		if len(weights) == 0 {
			if split != nil {
				return fmt.Errorf("there is %v", split.Object)
			}
			return nil
		}
		if split == nil {
			return fmt.Errorf("there is none")
		}
		want := map[string]any{"service": name, "backends": []any{
			map[string]any{"service": name + "-v1", "weight": weights[0]}, map[string]any{"service": name + "-v2", "weight": weights[1]},
		}}
		if diff := cmp.Diff(want, split.Object["spec"]); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	}
}

func (w *world) versionService(name string) *corev1.Service {
	w.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "smi", Name: name}}
	w.eventually("Service "+name, func() error { return w.get(s) })
	return s
}

func testSplitIsMade(t *testing.T, w *world, m *v1alpha1.Mesh) {
	w.eventually("the split", w.splits("reviews", 90, 10))
	split, err := w.split("reviews")
	if err != nil {
		t.Fatal(err)
	}
	w.event("smi", "TrafficSplit", "reviews", "Created", "for the mesh")
	service := w.versionService("reviews-v2")
	for _, o := range []client.Object{split, service} {
		owner := metav1.GetControllerOf(o)
		if owner == nil || owner.UID != m.UID || o.GetLabels()["app.kubernetes.io/managed-by"] != "tulle" {
			t.Errorf("%s is owned by %+v, with labels %v", o.GetName(), owner, o.GetLabels())
		}
	}
	if diff := cmp.Diff(map[string]string{"app": "reviews", "version": "v2"}, service.Spec.Selector); diff != "" {
		t.Errorf("it selects (-want +got): %s", diff)
	}
	var ports []string
	for _, p := range service.Spec.Ports {
		ports = append(ports, fmt.Sprintf("%s %d to %s speaks %s", p.Name, p.Port, p.TargetPort.String(), *p.AppProtocol))
	}
	if diff := cmp.Diff([]string{"http 80 to web speaks http", "mysql 3306 to 3306 speaks tcp"}, ports); diff != "" {
		t.Errorf("ports (-want +got): %s", diff)
	}
	if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone {
		t.Errorf("its address is %q", service.Spec.ClusterIP)
	}
}

func testSplitFollows(_ *testing.T, w *world, m *v1alpha1.Mesh) {
	w.update(m, func() { m.Spec.Services[0] = weighted("reviews", 50, 50) })
	w.eventually("the new weights", w.splits("reviews", 50, 50))
	w.update(m, func() { m.Spec.Services[0].Routes[0].To = m.Spec.Services[0].Routes[0].To[:1] })
	w.eventually("a rule that divides nothing has none", w.splits("reviews"))
	w.eventually("and no Services", func() error {
		return w.gone(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "smi", Name: "reviews-v1"}})
	})
	w.update(m, func() { m.Spec.Services[0] = weighted("reviews", 0, 100) })
	w.eventually("a weight of zero", w.splits("reviews", 0, 100))
}

func testSplitIsReverted(t *testing.T, w *world, _ *v1alpha1.Mesh) {
	const instead = "change spec.services[0].routes[0] of Mesh smi/shop instead"
	split, err := w.split("reviews")
	if err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedSlice(split.Object, []any{map[string]any{"kind": "HTTPRouteGroup", "name": "mine"}}, "spec", "matches"); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedSlice(split.Object, []any{map[string]any{"service": "mine", "weight": int64(1)}}, "spec", "backends"); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Update(context.Background(), split); err != nil {
		t.Fatal(err)
	}
	w.eventually("the split is as it was", w.splits("reviews", 0, 100))
	w.event("smi", "TrafficSplit", "reviews", "Reverted", instead)

	service := w.versionService("reviews-v1")
	address := service.Spec.ClusterIP
	w.update(service, func() { service.Spec.Selector["mine"] = "true" })
	w.eventually("the Service is as it was", func() error {
		if err := w.get(service); err != nil {
			return err
		}
		if diff := cmp.Diff(map[string]string{"app": "reviews", "version": "v1"}, service.Spec.Selector); diff != "" {
			return fmt.Errorf("(-want +got): %s", diff)
		}
		return nil
	})
	if service.Spec.ClusterIP != address {
		t.Errorf("its address changed from %s to %s", address, service.Spec.ClusterIP)
	}
	w.event("smi", "Service", "reviews-v1", "Reverted", instead)

	w.delete(service)
	w.eventually("a new Service", func() error { return w.get(service) })
	w.event("smi", "Service", "reviews-v1", "Recreated", instead)
}

// testForeignSplitWins: Tulle writes no split beside one of somebody else, and never into it.
func testForeignSplitWins(t *testing.T, w *world, _ *v1alpha1.Mesh) {
	foreign := smiObject(t, smi.TrafficSplits(), "v1alpha2", "rollout", `{spec: {service: reviews.smi.svc.cluster.local, backends: [{service: reviews-v1, weight: 1}, {service: reviews-v2, weight: 0}]}}`)
	w.create(foreign)
	w.eventually("Tulle's own is gone", w.splits("reviews"))
	w.versionService("reviews-v1") // which it may use
	now, err := w.getIn(foreign, "v1alpha2")
	if err != nil {
		t.Fatal(err)
	}
	if now.GetResourceVersion() != foreign.GetResourceVersion() {
		t.Errorf("it was changed: %v", now.Object)
	}
	w.delete(foreign)
	w.eventually("Tulle's own is there again", w.splits("reviews", 0, 100))
}

// testTakenNames: what somebody else made is never adopted. The Mesh says so, and nothing is made for that rule; its neighbours are.
func testTakenNames(t *testing.T, w *world, m *v1alpha1.Mesh) {
	person := outputService("ratings-v2")
	w.create(person)
	before := person.DeepCopy()
	w.update(m, func() { m.Spec.Services = append(m.Spec.Services, weighted("ratings", 1, 1)) })
	w.accepted(m, metav1.ConditionFalse, "Conflicted", "spec.services[1].routes[0]: Service smi/ratings-v2 exists and was not made by Tulle, which needs one of that name: "+
		"rename or delete it; the rule works, and has no TrafficSplit and no Services of its versions")
	if err := w.splits("ratings")(); err != nil {
		t.Error(err)
	}
	if err := w.gone(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "smi", Name: "ratings-v1"}}); err != nil {
		t.Errorf("half of the Services: %v", err)
	}
	if err := w.splits("reviews", 0, 100)(); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	if err := w.get(person); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, person); diff != "" {
		t.Errorf("somebody's Service was changed:\n%s", diff)
	}
	w.delete(person)
	// Nothing of ours has changed then: what arrives and goes is seen.
	w.eventually("the split", w.splits("ratings", 1, 1))
	w.accepted(m, metav1.ConditionTrue, "Valid", "")

	// A TrafficSplit of that name, of another Service.
	w.update(m, func() { m.Spec.Services = m.Spec.Services[:1] })
	w.eventually("no split", w.splits("ratings"))
	other := smiObject(t, smi.TrafficSplits(), "v1alpha4", "ratings", `{spec: {service: another, backends: [{service: a, weight: 1}]}}`)
	w.create(other)
	w.update(m, func() { m.Spec.Services = append(m.Spec.Services, weighted("ratings", 1, 1)) })
	w.accepted(m, metav1.ConditionFalse, "Conflicted", "spec.services[1].routes[0]: TrafficSplit smi/ratings exists and was not made by Tulle")
	now, err := w.getIn(other, "v1alpha4")
	if err != nil || now.GetResourceVersion() != other.GetResourceVersion() {
		t.Errorf("somebody's TrafficSplit was changed: %v, %v", now.Object, err)
	}
	w.delete(other)
	w.eventually("the split", w.splits("ratings", 1, 1))
}

func (w *world) accepted(m *v1alpha1.Mesh, status metav1.ConditionStatus, reason, message string) {
	w.t.Helper()
	w.eventually("Accepted="+string(status), func() error {
		if err := w.get(m); err != nil {
			return err
		}
		c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionAccepted)
		if c == nil || c.Status != status || c.Reason != reason || c.ObservedGeneration != m.Generation || !strings.Contains(c.Message, message) {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// testSplitGoes: there is no garbage collector here, so the operator takes away what it made.
func testSplitGoes(t *testing.T, w *world, m *v1alpha1.Mesh) {
	w.delete(m)
	w.eventually("no split", w.splits("reviews"))
	w.eventually("none of the other Service", w.splits("ratings"))
	w.eventually("the users' Services alone", func() error {
		var services corev1.ServiceList
		w.list(&services, client.InNamespace("smi"))
		names := map[string]bool{}
		for _, s := range services.Items {
			names[s.Name] = true
		}
		if got := slices.Sorted(maps.Keys(names)); !slices.Equal(got, []string{"ratings", "reviews"}) {
			return fmt.Errorf("there are %v", got)
		}
		return nil
	})
}

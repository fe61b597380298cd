package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// wrongSplit is a TrafficSplit of somebody else that can't be followed, or not all of it.
type wrongSplit struct {
	name, spec string
	// condition of the Mesh that is False, with a reason; the event has the same one.
	condition, reason string
	// field and text are in both.
	field, text string
}

// wrongSplits are of every kind. The Service that each is of has its name, and nothing else is wrong with it.
func wrongSplits() []wrongSplit {
	const accepted, resolved = v1alpha1.ConditionAccepted, v1alpha1.ConditionResolvedRefs
	return []wrongSplit{
		{"zero", `{service: zero, backends: [{service: one, weight: 0}, {service: two, weight: 0}]}`, accepted, "InvalidSplit",
			"spec.backends", "all weights are 0, so the split sends nowhere; raise one"},
		{"nowhere", `{service: nowhere, backends: []}`, accepted, "InvalidSplit",
			"spec.backends", "the split sends nowhere; name at least one backend"},
		{"missing", `{service: missing, backends: [{service: one, weight: 1}, {service: nobody, weight: 3}]}`, resolved, "BackendNotFound",
			"spec.backends[1].service", "namespace smi has no Service nobody with pods, so its weight goes to the others; create it, or remove this backend"},
		{"ports", `{service: ports, backends: [{service: one, weight: 1}, {service: eights, weight: 1}]}`, resolved, "PortNotFound",
			"spec.backends[1].service", "Service eights has port 8080 (http) and the root ports has 80 (http), so its weight goes to the others; give both the same port"},
		{"elsewhere", `{service: elsewhere, backends: [{service: one, weight: 1}, {service: one.other.svc.cluster.local, weight: 1}]}`, resolved, "BackendNotFound",
			"spec.backends[1].service", `"one.other.svc.cluster.local" is no Service of namespace smi, so the backend is left out`},
		{"stolen", `{service: one.other, backends: [{service: one, weight: 1}]}`, accepted, "InvalidSplit",
			"spec.service", `"one.other" is no Service of namespace smi; name one, a split rules its own namespace's Services only`},
		{"rootless", `{service: nobody, backends: [{service: one, weight: 1}]}`, resolved, "ServiceNotFound",
			"spec.service", "namespace smi has no Service nobody; create it, or name another"},
		{"headless", `{service: headless, backends: [{service: one, weight: 1}]}`, accepted, "NoClusterIP",
			"spec.service", "Service headless has no cluster IP"},
		{"groupless", `{service: groupless, backends: [{service: one, weight: 1}], matches: [{kind: HTTPRouteGroup, name: nobody}]}`, resolved, "RouteGroupNotFound",
			"spec.matches[0]", "namespace smi has no HTTPRouteGroup nobody that can be read"},
		{"wordless", `{service: wordless, backends: [{service: one, weight: 1}], matches: [{kind: HTTPRouteGroup, name: odd}]}`, accepted, "InvalidRoute",
			"spec.matches[0]", "HTTPRouteGroup odd: spec.matches[0].pathRegex"},
	}
}

// TestSplitsOfOthers: which split rules is in the status of the Mesh; what of one is not followed is there, too, and in one event on the split itself, of the
// leader alone. Nothing is ever written into them.
func TestSplitsOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	w.start(nil)
	w.eventually("the operator is ready", w.ready)
	other := *w
	other.host = newHost()
	other.start(func(o *operator.Options) { o.PodName = "tulle-manager-b" })
	w.eventually("the other replica is ready", other.ready)
	w.eventually("TrafficSplits are served", func() error { return w.served(smi.TrafficSplits()) })
	w.eventually("HTTPRouteGroups are served", func() error { return w.served(smi.HTTPRouteGroups()) })
	w.namespace("smi")
	m := mesh("smi", "shop", v1alpha1.MeshSpec{Services: []v1alpha1.ServiceSpec{weighted("reviews", 90, 10)}})
	w.create(m, outputService("reviews"), smiObject(t, smi.HTTPRouteGroups(), "v1alpha4", "odd", `{spec: {matches: [{pathRegex: "("}]}}`))
	for _, backend := range []string{"one", "two"} {
		w.create(backendService(backend, 80), servedBy(backend))
	}
	w.create(backendService("eights", 8080))
	for _, c := range wrongSplits() {
		root := backendService(c.name, 80)
		if c.name == "headless" {
			root.Spec.ClusterIP = corev1.ClusterIPNone
		}
		w.create(root)
	}
	for _, step := range []struct {
		name string
		test func(*testing.T, *world, *v1alpha1.Mesh)
	}{
		{"the Mesh says so", testWrongSplitsInStatus},
		{"events say so", testWrongSplitsInEvents},
		{"which one rules", testRulingSplit},
	} {
		t.Run(step.name, func(t *testing.T) { step.test(t, w.in(t), m) })
	}
}

func backendService(name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "smi", Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "http", Port: port}}},
	}
}

// servedBy lists an address outside of the cluster, as somebody does by hand for a Service: it is ready.
func servedBy(service string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "smi", Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.7"}}},
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(80))}},
	}
}

func (c wrongSplit) object(t *testing.T) *unstructured.Unstructured {
	return smiObject(t, smi.TrafficSplits(), "v1alpha4", c.name, `{spec: `+c.spec+`}`)
}

func testWrongSplitsInStatus(t *testing.T, w *world, m *v1alpha1.Mesh) {
	for _, c := range wrongSplits() {
		split := c.object(t)
		w.create(split)
		w.conditionHas(m, c.condition, metav1.ConditionFalse, c.reason, "TrafficSplit "+c.name+": "+c.field, c.text)
		w.delete(split)
		w.conditionHas(m, v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Valid")
		w.conditionHas(m, v1alpha1.ConditionResolvedRefs, metav1.ConditionTrue, "Resolved")
	}
}

// conditionHas waits until a condition of a Mesh is as wanted and says all of the texts.
func (w *world) conditionHas(m *v1alpha1.Mesh, condition string, status metav1.ConditionStatus, reason string, texts ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s=%s", condition, status), func() error {
		if err := w.get(m); err != nil {
			return err
		}
		c := meta.FindStatusCondition(m.Status.Conditions, condition)
		if c == nil || c.Status != status || c.Reason != reason || c.ObservedGeneration != m.Generation {
			return fmt.Errorf("%+v", c)
		}
		for _, text := range texts {
			if !strings.Contains(c.Message, text) {
				return fmt.Errorf("%q is not in %q", text, c.Message)
			}
		}
		return nil
	})
}

func testWrongSplitsInEvents(t *testing.T, w *world, _ *v1alpha1.Mesh) {
	versions := map[string]string{}
	for _, c := range wrongSplits() {
		split := c.object(t)
		w.create(split)
		versions[c.name] = split.GetResourceVersion()
	}
	w.namespace("unmeshed")
	unmeshed := smiObject(t, smi.TrafficSplits(), "v1alpha2", "early", `{spec: {service: s, backends: [{service: c, weight: 1}]}}`)
	unmeshed.SetNamespace("unmeshed")
	w.create(unmeshed)
	for _, c := range wrongSplits() {
		w.event("smi", "TrafficSplit", c.name, c.reason, c.field+": "+c.text)
	}
	w.event("unmeshed", "TrafficSplit", "early", "NotMeshed", "namespace unmeshed has no Mesh, so no proxy follows the split")
	// What was wrong is put right.
	w.create(backendService("nobody", 80), servedBy("nobody"))
	w.event("smi", "TrafficSplit", "missing", "Resolved", "is so no more")

	var list eventsv1.EventList
	w.list(&list, client.InNamespace("smi"))
	told := map[string]int{}
	for _, e := range list.Items {
		if e.Regarding.Kind != "TrafficSplit" || versions[e.Regarding.Name] == "" {
			continue
		}
		if e.Series != nil {
			t.Errorf("told again: %s %s %s, %d times", e.Regarding.Name, e.Reason, e.Note, e.Series.Count)
		}
		if e.Type == corev1.EventTypeWarning {
			told[e.Regarding.Name+" "+e.Reason]++
		}
	}
	want := map[string]int{}
	for _, c := range wrongSplits() {
		want[c.name+" "+c.reason] = 1
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	for _, c := range wrongSplits() {
		split, err := w.split(c.name)
		if err != nil || split == nil {
			t.Fatalf("split %s: %v", c.name, err)
		}
		if split.GetResourceVersion() != versions[c.name] {
			t.Errorf("TrafficSplit %s was changed: %v", c.name, split.Object)
		}
		w.delete(split)
	}
}

// testRulingSplit: of two splits of one Service the older rules, then the other. The Mesh says which, and that its own rule rests.
func testRulingSplit(t *testing.T, w *world, m *v1alpha1.Mesh) {
	w.eventually("Tulle's own", w.splits("reviews", 90, 10))
	first := smiObject(t, smi.TrafficSplits(), "v1alpha1", "canary", `{spec: {service: reviews, backends: [{service: two, weight: 500m}, {service: one, weight: 500m}]}}`)
	w.create(first)
	second := smiObject(t, smi.TrafficSplits(), "v1alpha3", "rollout", `{spec: {service: reviews, backends: [{service: one, weight: 100}]}}`)
	w.eventually("a second later", func() error { // the API server's clock has seconds, and the name decides among those of one
		if metav1.Now().Unix() == first.GetCreationTimestamp().Unix() {
			return fmt.Errorf("it is still the same second")
		}
		return nil
	})
	w.create(second)
	w.conditionHas(m, v1alpha1.ConditionAccepted, metav1.ConditionFalse, "Conflicted",
		"TrafficSplit rollout: spec.service: the older TrafficSplit canary already splits Service reviews and wins; delete one")
	w.event("smi", "TrafficSplit", "rollout", "Conflicted", "the older TrafficSplit canary already splits Service reviews and wins")
	w.eventually("the first rules", w.ruledBy(m, "reviews by canary"))
	w.eventually("Tulle's own is gone", w.splits("reviews"))
	w.delete(first)
	w.eventually("the second rules", w.ruledBy(m, "reviews by rollout"))
	w.conditionHas(m, v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Valid",
		"TrafficSplit rollout, which somebody else made, rules Service reviews, so this rule rests until it is deleted")
	if err := w.splits("reviews")(); err != nil {
		t.Errorf("beside the second: %v", err)
	}

	// It may be about another Service from one moment to the next; the whole spec is replaced at once.
	second.Object["spec"] = content(smiObject(t, smi.TrafficSplits(), "v1alpha3", "x", `{spec: {service: one, backends: [{service: two, weight: 1}]}}`))["spec"]
	if err := w.client.Update(context.Background(), second); err != nil {
		t.Fatal(err)
	}
	w.eventually("another Service is ruled", w.ruledBy(m, "one by rollout"))
	w.eventually("Tulle's own is there again", w.splits("reviews", 90, 10))
	w.delete(second)
	w.eventually("none is ruled", w.ruledBy(m))
}

// ruledBy is nil once the status of a Mesh says which Services are ruled by a TrafficSplit of somebody else.
func (w *world) ruledBy(m *v1alpha1.Mesh, want ...string) func() error {
	return func() error {
		if err := w.get(m); err != nil {
			return err
		}
		var got []string
		if s := m.Status.Splits; s != nil {
			for _, r := range s.Samples {
				got = append(got, r.Service+" by "+r.TrafficSplit)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("(-want +got): %s", diff)
		}
		return nil
	}
}

// TestUnknownSplits: a definition of TrafficSplits that somebody else made in a version that nobody knows is told of, and nothing is made of that kind: rules
// work without, and have no Services of their versions.
func TestUnknownSplits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	kind := smi.TrafficSplits()
	definition := foreignDefinition(kind, "v1beta1")
	w.create(definition)
	w.start(nil)
	w.eventually("the operator is ready", w.ready)
	w.namespace("smi")
	m := mesh("smi", "shop", v1alpha1.MeshSpec{Services: []v1alpha1.ServiceSpec{weighted("reviews", 90, 10)}})
	w.create(m, outputService("reviews"))
	w.event("default", "CustomResourceDefinition", kind.CRD(), "VersionNotServed", "serves v1beta1, and Tulle reads v1alpha1, v1alpha2, v1alpha3, v1alpha4: no TrafficSplit is followed")
	w.conditionHas(m, v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Valid")
	if err := w.gone(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "smi", Name: "reviews-v1"}}); err != nil {
		t.Errorf("a Service of a version: %v", err)
	}
	w.delete(definition)
	w.eventually("Tulle's own definition", func() error { return w.served(kind) })
	w.eventually("the split", w.splits("reviews", 90, 10))
}

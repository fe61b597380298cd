package integration

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// testStuck: of two proxies one does not acknowledge. It is named, and whoever waits for Ready goes on waiting, until it does.
func testStuck(t *testing.T, w *world) {
	const ns = "stuck"
	w.namespace(ns)
	m := mesh(ns, ns, v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSStrict}})
	w.create(m)
	proxies := map[string]*proxy{}
	for _, name := range []string{"good", "bad"} {
		p := pod(ns, name)
		w.create(p)
		w.run(p)
		proxies[name] = w.connect(t, p)
	}
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 1")

	// As kubectl wait does.
	watch, err := w.client.Watch(context.Background(), &v1alpha1.MeshList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	proxies["bad"].stick()
	w.update(m, func() { m.Spec.MTLS.Mode = v1alpha1.MTLSPermissive })
	summary := "1 of 2 proxies do not hold generation 2 yet"
	w.condition(ns, ns, v1alpha1.ConditionProgrammed, metav1.ConditionFalse, "Pending", summary+": bad")
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionFalse, "Pending", summary+"; see condition Programmed")
	w.event(ns, "Mesh", ns, "Pending", summary)
	if err := w.get(m); err != nil {
		t.Fatal(err)
	}
	if s := m.Status.Proxies; s.Connected != 2 || s.Programmed != 1 {
		t.Errorf("%d of %d proxies are programmed, want 1 of 2", s.Programmed, s.Connected)
	}
	// A change that none of its proxies is told of makes nothing of it good.
	w.update(m, func() { m.Spec.Proxy = &v1alpha1.ProxySpec{Concurrency: new(int32(3))} })
	w.condition(ns, ns, v1alpha1.ConditionProgrammed, metav1.ConditionFalse, "Pending", "1 of 2 proxies do not hold generation 3 yet: bad")

	if err := w.get(m); err != nil {
		t.Fatal(err)
	}
	stuckUntil := m.ResourceVersion
	proxies["bad"].letGo()
	w.condition(ns, ns, v1alpha1.ConditionProgrammed, metav1.ConditionTrue, "Programmed", "all 2 proxies hold generation 3")
	for event := range watch.ResultChan() {
		seen := event.Object.(*v1alpha1.Mesh)
		ready := meta.FindStatusCondition(seen.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration > 1 {
			t.Errorf("Ready for generation %d while a proxy was stuck: %s", ready.ObservedGeneration, ready.Message)
		}
		if seen.ResourceVersion == stuckUntil {
			break
		}
	}
}

package integration

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/webhooks"
)

// TestMesh is the life of Meshes in a cluster that has all that Tulle needs.
func TestMesh(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	op := w.start(nil)
	w.eventually("the operator is ready", w.ready)

	for _, step := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"trust", testTrust},
		{"webhook configurations", testWebhookConfigurations},
		{"life of a namespace", testLife},
		{"rejection", testRejection},
		{"stuck proxy", testStuck},
		{"conflict", testConflict},
		{"service that comes and goes", testService},
		{"references", testReferences},
		{"object of a person", testForeignObject},
		{"tokens", testTokens},
		{"terminating pod", testTerminating},
		{"keys", func(t *testing.T, w *world) { testKeys(t, w, op) }},
		{"replacement", func(t *testing.T, w *world) { testReplacement(t, w, op) }},
	} {
		t.Run(step.name, func(t *testing.T) { step.test(t, w.in(t)) })
	}
}

// testWebhookConfigurations: they name the enrolled namespaces, go with the operator's namespace, and come back when deleted.
func testWebhookConfigurations(t *testing.T, w *world) {
	w.namespace("hooked")
	w.create(mesh("hooked", "hooked", v1alpha1.MeshSpec{}))
	enrolled := func() error {
		c := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}}
		if err := w.get(c); err != nil {
			return err
		}
		for _, hook := range c.Webhooks {
			if *hook.FailurePolicy != admissionregistrationv1.Fail {
				continue
			}
			if !slices.Contains(hook.NamespaceSelector.MatchExpressions[0].Values, "hooked") {
				return fmt.Errorf("enrolled: %v", hook.NamespaceSelector)
			}
			if len(hook.ClientConfig.CABundle) == 0 || c.OwnerReferences[0].Name != system {
				return fmt.Errorf("CA bundle %q, owners %v", hook.ClientConfig.CABundle, c.OwnerReferences)
			}
			return nil
		}
		return errors.New("no webhook fails closed")
	}
	w.eventually("the namespace is enrolled", enrolled)
	w.delete(&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}})
	w.eventually("the deleted configuration is made again", enrolled)
}

// testLife follows a namespace from its Mesh to the end of its last pod.
func testLife(t *testing.T, w *world) {
	const ns = "life"
	condition := func(c string, status metav1.ConditionStatus, reason, message string) {
		t.Helper()
		w.condition(ns, "life", c, status, reason, message)
	}
	w.namespace(ns)
	old := pod(ns, "reviews-1")
	w.own(old, "reviews")
	w.create(old)
	w.run(old)
	if hasSidecar(old) {
		t.Fatal("a pod was injected without a Mesh")
	}

	life := mesh(ns, "life", v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSStrict}})
	w.create(life)
	condition(v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Valid", "every field makes sense")
	condition(v1alpha1.ConditionResolvedRefs, metav1.ConditionTrue, "Resolved", "everything that it names exists")
	condition(v1alpha1.ConditionInjected, metav1.ConditionFalse, "RestartNeeded",
		"1 of 1 pod has no current proxy: reviews-1 (no proxy); run: kubectl -n life rollout restart deploy/reviews")
	condition(v1alpha1.ConditionReady, metav1.ConditionFalse, "RestartNeeded", "1 of 1 pod has no current proxy; see condition Injected")
	w.event(ns, "Mesh", "life", "RestartNeeded", "rollout restart deploy/reviews")

	w.delete(old)
	condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	p := pod(ns, "reviews-2")
	w.own(p, "reviews")
	w.create(p)
	w.run(p)
	if !hasSidecar(p) {
		t.Fatal("a pod of an enrolled namespace was not injected")
	}
	condition(v1alpha1.ConditionInjected, metav1.ConditionTrue, "Injected", "the one pod has a current proxy")
	condition(v1alpha1.ConditionProgrammed, metav1.ConditionUnknown, "NotConnected", "1 of 1 proxy is not connected to the control plane: reviews-2")

	envoy := w.connect(t, p)
	condition(v1alpha1.ConditionProgrammed, metav1.ConditionTrue, "Programmed", "the one proxy holds generation 1")
	condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 1")
	w.event(ns, "Mesh", "life", "Ready", "all proxies hold generation 1")
	if err := w.get(life); err != nil {
		t.Fatal(err)
	}
	if s := life.Status; s.Proxies.Summary != "1/1" || s.MTLS != "Strict" || s.Services != 0 || s.ObservedGeneration != 1 {
		t.Errorf("status %+v, proxies %+v", s, s.Proxies)
	}
	w.eventually("the proxy's certificate", func() error {
		leaf, err := envoy.certificate()
		if err == nil && leaf.URIs[0].String() != "spiffe://cluster.local/ns/life/sa/app" {
			t.Fatalf("identity %v", leaf.URIs)
		}
		return err
	})

	w.update(life, func() { life.Spec.MTLS.Mode = v1alpha1.MTLSPermissive })
	condition(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 2")
	testDeletion(t, w, life, p, envoy)
}

// testDeletion: after its Mesh, a namespace is left alone, but for its proxies, which are served until their pods end.
func testDeletion(t *testing.T, w *world, m *v1alpha1.Mesh, p *corev1.Pod, envoy *proxy) {
	w.delete(m)
	w.eventually("pods are injected no more", func() error {
		next := pod(m.Namespace, "after")
		w.create(next)
		defer w.delete(next)
		if hasSidecar(next) {
			return errors.New("it was")
		}
		return nil
	})
	if err := envoy.failure(); !errors.Is(err, errGoesOn) {
		t.Errorf("the stream ended: %v", err)
	}
	again := w.connect(t, p) // the ConfigMap is there, and a proxy that reconnects is served
	w.eventually("a certificate without the Mesh", func() error {
		_, err := again.certificate()
		return err
	})
	w.delete(p)
	w.eventually("the bootstrap ConfigMap goes with the last pod", func() error { return w.gone(bootstrapConfigMap(m.Namespace)) })
	w.eventually("the stream ends with the pod", func() error {
		if err := again.failure(); errors.Is(err, errGoesOn) {
			return err
		}
		return nil
	})
}

// own makes a Deployment's ReplicaSet the owner of a pod.
func (w *world) own(p *corev1.Pod, deployment string) {
	w.t.Helper()
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: deployment + "-" + p.Name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: deployment, UID: "d", Controller: new(true)}},
		},
		Spec: appsv1.ReplicaSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: p.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: *p.Spec.DeepCopy()},
		},
	}
	w.create(rs)
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: rs.Name, UID: rs.UID, Controller: new(true)}}
}

// testRejection: what a proxy refuses is told where it was caused, in Envoy's words, and disturbs no other Mesh.
func testRejection(t *testing.T, w *world) {
	for _, ns := range []string{"guilty", "bystander"} {
		w.namespace(ns)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "guilty", Name: "reviews"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "reviews"},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	w.create(service,
		mesh("guilty", "guilty", v1alpha1.MeshSpec{Services: []v1alpha1.ServiceSpec{{Name: "reviews", Routes: []v1alpha1.RouteSpec{{
			Name: "all", To: []v1alpha1.RouteTarget{{Weight: new(int32(1))}},
		}}}}}),
		mesh("bystander", "bystander", v1alpha1.MeshSpec{}))
	p := pod("bystander", "client")
	w.create(p)
	w.run(p)
	envoy := w.connect(t, p)
	w.condition("bystander", "bystander", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 1")

	address := "http|" + service.Spec.ClusterIP + ":80"
	envoy.refuse("outbound/"+address, "weights are wrong")
	envoy.ask(resource.Ref{Type: resource.Cluster, Name: address})
	message := "spec.services[0].routes[0]: 1 proxy rejects vhost outbound/" + address + ": weights are wrong"
	w.condition("guilty", "guilty", v1alpha1.ConditionProgrammed, metav1.ConditionFalse, "RejectedByProxy", message)
	w.condition("guilty", "guilty", v1alpha1.ConditionReady, metav1.ConditionFalse, "RejectedByProxy", message)
	w.condition("bystander", "bystander", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 1")
	w.event("guilty", "Mesh", "guilty", "RejectedByProxy", "weights are wrong")
}

// testService: a Mesh names a Service that is not there yet, then is, and then is not any more; no other Mesh is disturbed.
func testService(t *testing.T, w *world) {
	for _, ns := range []string{"refs", "refs-bystander"} {
		w.namespace(ns)
	}
	w.create(mesh("refs-bystander", "refs-bystander", v1alpha1.MeshSpec{}),
		mesh("refs", "refs", v1alpha1.MeshSpec{Services: []v1alpha1.ServiceSpec{{Name: "reviews"}}}))
	missing := "spec.services[0].name: namespace refs has no Service reviews; create it, or remove or correct this entry"
	unresolved := func() {
		t.Helper()
		w.condition("refs", "refs", v1alpha1.ConditionResolvedRefs, metav1.ConditionFalse, "ServiceNotFound", missing)
		w.condition("refs", "refs", v1alpha1.ConditionReady, metav1.ConditionFalse, "ServiceNotFound", missing)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "refs", Name: "reviews"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "reviews"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	unresolved()
	w.event("refs", "Mesh", "refs", "ServiceNotFound", "reviews")
	w.create(service)
	w.condition("refs", "refs", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	w.event("refs", "Mesh", "refs", "Resolved", "everything that it names exists")
	w.delete(service)
	unresolved()
	w.condition("refs-bystander", "refs-bystander", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
}

// testConflict: of two Meshes that claim the same, the newer says so and the older is undisturbed.
func testConflict(t *testing.T, w *world) {
	const ns = "conflict"
	w.namespace(ns)
	strict := v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSStrict}}
	w.create(mesh(ns, "a-first", strict))
	w.condition(ns, "a-first", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	w.create(mesh(ns, "b-second", v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSDisabled}}))
	message := "spec.mtls.mode: the older Mesh a-first already claims spec.mtls.mode and wins; remove it here or there"
	w.condition(ns, "b-second", v1alpha1.ConditionAccepted, metav1.ConditionFalse, "Conflicted", message)
	w.condition(ns, "b-second", v1alpha1.ConditionReady, metav1.ConditionFalse, "Conflicted", message)
	w.condition(ns, "a-first", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	w.event(ns, "Mesh", "b-second", "Conflicted", "older Mesh a-first")
}

// testForeignObject: what a person made under a name of ours is reported and stays as it is.
func testForeignObject(t *testing.T, w *world) {
	const ns = "foreign"
	w.namespace(ns)
	theirs := bootstrapConfigMap(ns)
	theirs.Data = map[string]string{"mine": "yes"}
	w.create(theirs, mesh(ns, "foreign", v1alpha1.MeshSpec{}))
	w.condition(ns, "foreign", v1alpha1.ConditionInjected, metav1.ConditionFalse, "Conflicted",
		"ConfigMap foreign/tulle-bootstrap exists and was not made by Tulle, which needs one of that name: rename or delete it")
	if err := w.get(theirs); err != nil || theirs.Data["mine"] != "yes" || len(theirs.Data) != 1 || len(theirs.Labels) > 0 {
		t.Errorf("it was changed: %+v (%v)", theirs, err)
	}
	w.delete(theirs)
	w.condition(ns, "foreign", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
}

// testReplacement: another operator takes over at once, and finds everything as it should be.
func testReplacement(t *testing.T, w *world, op *running) {
	const ns = "replaced"
	w.namespace(ns)
	m := mesh(ns, ns, v1alpha1.MeshSpec{})
	w.create(m)
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	w.monitored(ns, metav1.ConditionFalse, "MonitoringCRDsMissing", "none of the monitors exists") // nothing waits for that
	if err := w.get(m); err != nil {
		t.Fatal(err)
	}
	op.stop()
	if err := reachable(w.host + ":15010"); err == nil {
		t.Error("xDS is served after the end")
	}
	w.start(nil)
	w.eventually("the next operator is ready", w.ready)
	next := mesh(ns, "next", v1alpha1.MeshSpec{})
	w.create(next)
	w.condition(ns, "next", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	before := m.DeepCopy()
	if err := w.get(m); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, m); diff != "" {
		t.Errorf("the status was written again:\n%s", diff)
	}
}

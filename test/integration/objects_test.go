package integration

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// namespace creates a namespace with the service account app.
func (w *world) namespace(name string) {
	w.t.Helper()
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "app"}})
}

func mesh(namespace, name string, spec v1alpha1.MeshSpec) *v1alpha1.Mesh {
	return &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}
}

// pod is one that runs as the service account app.
func pod(namespace, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "app",
			Containers:         []corev1.Container{{Name: "app", Image: "app:test", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}},
		},
	}
}

// run says of a pod what a kubelet would.
func (w *world) run(p *corev1.Pod) {
	w.t.Helper()
	p.Status.Phase = corev1.PodRunning
	if err := w.client.Status().Update(context.Background(), p); err != nil {
		w.t.Fatal(err)
	}
}

// hasSidecar reports whether a pod has our sidecar.
func hasSidecar(p *corev1.Pod) bool {
	for _, c := range p.Spec.InitContainers {
		if c.Name == sidecar.ProxyContainer {
			return true
		}
	}
	return false
}

func bootstrapConfigMap(namespace string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: sidecar.BootstrapConfigMap}}
}

// ca returns the CA bundle that pods of a namespace mount.
func (w *world) ca(namespace string) string {
	w.t.Helper()
	m := bootstrapConfigMap(namespace)
	w.eventually("the bootstrap ConfigMap of "+namespace, func() error { return w.get(m) })
	return m.Data[identity.CAKey]
}

// podToken asks for the token that the kubelet would project into a pod.
func (w *world) podToken(p *corev1.Pod, audience string) string {
	w.t.Helper()
	return w.token(p.Namespace, p.Spec.ServiceAccountName, &authenticationv1.TokenRequestSpec{
		Audiences:      []string{audience},
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
	})
}

// connect opens the stream of a pod's proxy.
func (w *world) connect(t *testing.T, p *corev1.Pod) *proxy {
	t.Helper()
	return w.dial(t, w.ca(p.Namespace), w.podToken(p, sidecar.TokenAudience))
}

func (w *world) list(list client.ObjectList, options ...client.ListOption) {
	w.t.Helper()
	if err := w.client.List(context.Background(), list, options...); err != nil {
		w.t.Fatal(err)
	}
}

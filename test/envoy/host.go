package envoy

import (
	"errors"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AddHost puts a machine onto the fabric of which the cluster knows nothing, such as a database or a server on the
// internet. It runs the echo application with the given arguments, like a pod's container, and ends with the test.
func (w *World) AddHost(name string, args []string, addresses ...netip.Addr) *Pod {
	w.t.Helper()
	object := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Args: args}}},
	}
	for _, a := range addresses {
		object.Status.PodIPs = append(object.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	// It is no object of the world: the control plane is never told of it.
	host, err := w.startPod(object)
	w.check(err)
	t := w.t
	t.Cleanup(func() {
		if err := errors.Join(host.close(), w.fabric.RemoveRoutes(addresses...)); err != nil {
			t.Errorf("end host %s: %v", name, err)
		}
	})
	return host
}

package ingest

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// ByObject are cache options that keep of each object only what the control plane reads.
func ByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		&corev1.Pod{}:                {Transform: trimmed(trimPod)},
		&corev1.Service{}:            {Transform: trimmed(trimService)},
		&corev1.Node{}:               {Transform: trimmed(trimNode)},
		&discoveryv1.EndpointSlice{}: {Transform: trimmed(trimEndpointSlice)},
		replicaSets():                {Transform: trimmed(trimMetadata)},
	}
}

// replicaSets are watched by their metadata: they lead from a pod to its Deployment.
func replicaSets() *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
	return m
}

// trimmed makes a transform for a cache, which hands it whatever its informer got.
func trimmed[T client.Object](trim func(T)) func(any) (any, error) {
	return func(in any) (any, error) {
		if object, ok := in.(T); ok {
			object.SetManagedFields(nil)
			trim(object)
		}
		return in, nil
	}
}

// ownPrefix is what our own labels and annotations begin with.
var ownPrefix = v1alpha1.GroupVersion.Group + "/"

// keepOwn drops the annotations that are not ours: some hold whole objects.
func keepOwn(annotations map[string]string) map[string]string {
	var kept map[string]string
	for k, v := range annotations {
		if strings.HasPrefix(k, ownPrefix) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}

func trimMetadata(m *metav1.PartialObjectMetadata) { m.Annotations, m.Labels = nil, nil }

func trimNode(n *corev1.Node) {
	n.Annotations = nil
	n.Spec = corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs}
	n.Status = corev1.NodeStatus{Addresses: n.Status.Addresses}
}

func trimService(s *corev1.Service) {
	s.Annotations = keepOwn(s.Annotations)
	s.Status = corev1.ServiceStatus{}
}

func trimEndpointSlice(e *discoveryv1.EndpointSlice) { e.Annotations = nil }

func trimPod(p *corev1.Pod) {
	p.Annotations = keepOwn(p.Annotations)
	p.Spec = corev1.PodSpec{
		NodeName:           p.Spec.NodeName,
		ServiceAccountName: p.Spec.ServiceAccountName,
		HostNetwork:        p.Spec.HostNetwork,
		OS:                 p.Spec.OS,
		NodeSelector:       p.Spec.NodeSelector,
		Containers:         trimContainers(p.Spec.Containers),
		InitContainers:     trimContainers(p.Spec.InitContainers),
	}
	p.Status = corev1.PodStatus{
		Phase:     p.Status.Phase,
		PodIP:     p.Status.PodIP,
		PodIPs:    p.Status.PodIPs,
		HostIPs:   p.Status.HostIPs,
		StartTime: p.Status.StartTime,
	}
}

func trimContainers(in []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(in))
	for i, c := range in {
		out[i] = corev1.Container{Name: c.Name, Image: c.Image, Ports: c.Ports, RestartPolicy: c.RestartPolicy}
	}
	return out
}

package integration

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// testReferences: a Mesh names a port that its Service lacks, a version and a selector that fit no pod. Each is told, with its
// remedy, which works; no other Mesh is disturbed. What is refused at once is in TestCRD and testMeshWebhook.
func testReferences(t *testing.T, w *world) {
	const ns, bystander = "references", "references-bystander"
	w.namespace(ns)
	w.namespace(bystander)
	w.create(mesh(bystander, bystander, v1alpha1.MeshSpec{}))
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "reviews"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"team": "books"},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "admin", Port: 8443}},
		},
	}
	m := mesh(ns, ns, v1alpha1.MeshSpec{
		Proxy: &v1alpha1.ProxySpec{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "boks"}}},
		Services: []v1alpha1.ServiceSpec{{
			Name:     "reviews",
			Ports:    []v1alpha1.ServicePort{{Port: 80, Protocol: v1alpha1.ProtocolHTTP}, {Port: 8080, Protocol: v1alpha1.ProtocolHTTP}},
			Versions: []v1alpha1.VersionSpec{{Name: "v1", Labels: map[string]string{"version": "1"}}},
			Routes:   []v1alpha1.RouteSpec{{Name: "all", To: []v1alpha1.RouteTarget{{Version: "v1"}}}},
		}},
	})
	p := pod(ns, "reviews-1")
	p.Labels["team"] = "books"
	w.create(service, m, p)
	w.run(p)
	w.condition(ns, ns, v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Valid", "every field makes sense; "+
		"but spec.proxy.podSelector: no pod of the namespace that could have a sidecar fits; compare with kubectl get pods --show-labels")
	port := "spec.services[0].ports[1].port: Service reviews has no TCP port 8080; it has 80 (http), 8443 (admin)"
	version := "spec.services[0].versions[0].labels: no pod of Service reviews has the labels of version v1 (version=1), so requests for it fail; " +
		"compare with kubectl get pods -n references --show-labels"
	w.condition(ns, ns, v1alpha1.ConditionResolvedRefs, metav1.ConditionFalse, "PortNotFound", port+"; "+version)
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionFalse, "PortNotFound", port+"; see condition ResolvedRefs")
	w.event(ns, "Mesh", ns, "PortNotFound", port)
	w.condition(bystander, bystander, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")

	w.update(m, func() {
		m.Spec.Proxy.PodSelector.MatchLabels["team"] = "books"
		m.Spec.Services[0].Ports[1].Port = 8443
	})
	w.condition(ns, ns, v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Valid", "every field makes sense")
	w.condition(ns, ns, v1alpha1.ConditionResolvedRefs, metav1.ConditionTrue, "Resolved", "everything that it names exists; but "+version)
	second := pod(ns, "reviews-2")
	second.Labels = map[string]string{"team": "books", "version": "1"}
	w.create(second)
	second.Status.PodIP, second.Status.PodIPs = "10.244.77.2", []corev1.PodIP{{IP: "10.244.77.2"}}
	w.run(second)
	w.create(endpointSlice(service, second))
	w.condition(ns, ns, v1alpha1.ConditionResolvedRefs, metav1.ConditionTrue, "Resolved", "everything that it names exists")
	// A port that goes away is missed again.
	w.update(service, func() { service.Spec.Ports = service.Spec.Ports[:1] })
	w.condition(ns, ns, v1alpha1.ConditionResolvedRefs, metav1.ConditionFalse, "PortNotFound",
		"spec.services[0].ports[1].port: Service reviews has no TCP port 8443; it has 80 (http)")
}

// endpointSlice is what the EndpointSlice controller would make of a Service with one pod.
func endpointSlice(s *corev1.Service, p *corev1.Pod) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: s.Name, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{p.Status.PodIP},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		}},
	}
	for _, port := range s.Spec.Ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(port.Name), Port: new(port.TargetPort.IntVal), Protocol: new(port.Protocol)})
	}
	return slice
}

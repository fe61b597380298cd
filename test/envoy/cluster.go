package envoy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// admitService allocates addresses as the API server does: one of the first family, or one of each where the Service
// asks for two.
func (w *World) admitService(s *corev1.Service) error {
	if s.Spec.Type == "" {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) == 0 {
		w.services++
		s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.%d.%d", 100+w.services/250, 1+w.services%250)}
		if p := s.Spec.IPFamilyPolicy; p != nil && *p != corev1.IPFamilyPolicySingleStack {
			s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, fmt.Sprintf("fd00:96::1:%x", w.services))
		}
	}
	if len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	if len(s.Spec.IPFamilies) == 0 {
		families, err := families(s.Spec.ClusterIPs)
		if err != nil {
			return fmt.Errorf("Service %s/%s: %w", s.Namespace, s.Name, err)
		}
		s.Spec.IPFamilies = families
	}
	return nil
}

// families says which families addresses are of; a headless Service ("None") is of both.
func families(addresses []string) ([]corev1.IPFamily, error) {
	if addresses[0] == corev1.ClusterIPNone {
		return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, nil
	}
	var list []corev1.IPFamily
	for _, s := range addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, err
		}
		list = append(list, familyOf(a))
	}
	return list, nil
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// admitPod gives a pod a node, addresses of both families unless it has some, and a status of Ready unless it has one.
func (w *World) admitPod(p *corev1.Pod) error {
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = "default"
	}
	if p.Spec.NodeName == "" {
		p.Spec.NodeName = nodeName
	}
	for i := range p.Spec.Containers {
		for j := range p.Spec.Containers[i].Ports {
			if port := &p.Spec.Containers[i].Ports[j]; port.Protocol == "" {
				port.Protocol = corev1.ProtocolTCP
			}
		}
	}
	if old, ok := w.objects[ref{"Pod", p.Namespace, p.Name}].(*corev1.Pod); ok {
		if len(p.Status.PodIPs) == 0 {
			p.Status.PodIPs = old.Status.PodIPs
		}
		if injected(old) && !injected(p) { // a pod keeps what it was created with
			p.Spec, p.Annotations = old.Spec, old.Annotations
		}
	}
	if len(p.Status.PodIPs) == 0 {
		w.podIPs++
		p.Status.PodIPs = []corev1.PodIP{
			{IP: fmt.Sprintf("10.244.%d.%d", w.podIPs/250, 1+w.podIPs%250)}, {IP: fmt.Sprintf("fd00:244::%x", w.podIPs)},
		}
	}
	p.Status.PodIP = p.Status.PodIPs[0].IP
	if p.Status.Phase == "" {
		p.Status.Phase = corev1.PodRunning
	}
	if len(p.Status.Conditions) == 0 {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return nil
}

// endpointSlices are what the EndpointSlice controller would keep for the Services that select pods.
func (w *World) endpointSlices() map[ref]client.Object {
	want := map[ref]client.Object{}
	var pods []*corev1.Pod
	for _, r := range w.refs("Pod") {
		pods = append(pods, w.objects[r].(*corev1.Pod))
	}
	for _, r := range w.refs("Service") {
		s := w.objects[r].(*corev1.Service)
		if len(s.Spec.Selector) == 0 {
			continue
		}
		selector := labels.SelectorFromSet(s.Spec.Selector)
		selected := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool {
			return p.Namespace != s.Namespace || !selector.Matches(labels.Set(p.Labels))
		})
		for _, family := range s.Spec.IPFamilies {
			slice := endpointSlice(s, family, selected)
			want[refOf(slice)] = slice
		}
	}
	return want
}

// generatedLabel marks the slices that the world keeps.
const generatedLabel = "endpointslice.kubernetes.io/managed-by"

func endpointSlice(s *corev1.Service, family corev1.IPFamily, pods []*corev1.Pod) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: s.Name + "-" + strings.ToLower(string(family)),
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name, generatedLabel: "world"},
		},
		AddressType: discoveryv1.AddressType(family),
	}
	for _, p := range s.Spec.Ports {
		number, ok := targetPort(p, pods)
		if ok {
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
		}
	}
	for _, p := range pods {
		if e, ok := endpoint(p, family); ok {
			slice.Endpoints = append(slice.Endpoints, e)
		}
	}
	return slice
}

// targetPort resolves a named target port by the first pod: in one world, pods of a Service agree.
func targetPort(p corev1.ServicePort, pods []*corev1.Pod) (int32, bool) {
	if p.TargetPort.Type == intstr.Int {
		return p.TargetPort.IntVal, true
	}
	for _, pod := range pods {
		for _, c := range pod.Spec.Containers {
			for _, cp := range c.Ports {
				if cp.Name == p.TargetPort.StrVal {
					return cp.ContainerPort, true
				}
			}
		}
	}
	return 0, false
}

func endpoint(p *corev1.Pod, family corev1.IPFamily) (discoveryv1.Endpoint, bool) {
	for _, ip := range p.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil || familyOf(a) != family {
			continue
		}
		serving, terminating := isReady(p), p.DeletionTimestamp != nil
		ready := serving && !terminating
		return discoveryv1.Endpoint{
			Addresses:  []string{ip.IP},
			NodeName:   &p.Spec.NodeName,
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		}, true
	}
	return discoveryv1.Endpoint{}, false
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// sameEndpoints compares slices without what the API server stamps.
func sameEndpoints(old, want client.Object) bool {
	a, ok := old.(*discoveryv1.EndpointSlice)
	b := want.(*discoveryv1.EndpointSlice)
	return ok && reflect.DeepEqual(a.Endpoints, b.Endpoints) && reflect.DeepEqual(a.Ports, b.Ports)
}

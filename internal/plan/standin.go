package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/inject"
)

// Manifests say less than a cluster: Services have no addresses, and there are no pods and no endpoints. What a cluster would
// make of them is made up here, so that selectors, ports and versions resolve as they would.

// maxReplicas bounds the pods that stand for one workload.
const maxReplicas = 100

// workload is what makes pods.
type workload struct {
	key      key
	replicas int32
	template corev1.PodTemplateSpec
}

// workloadOf returns false for what makes no pods.
func workloadOf(o client.Object) (workload, bool) {
	w := workload{key: keyOf(o), replicas: 1}
	var replicas *int32
	switch o := o.(type) {
	case *appsv1.Deployment:
		replicas, w.template = o.Spec.Replicas, o.Spec.Template
	case *appsv1.StatefulSet:
		replicas, w.template = o.Spec.Replicas, o.Spec.Template
	case *appsv1.ReplicaSet:
		replicas, w.template = o.Spec.Replicas, o.Spec.Template
	case *appsv1.DaemonSet:
		w.template = o.Spec.Template
	case *batchv1.Job:
		w.template = o.Spec.Template
	default:
		return w, false
	}
	if replicas != nil {
		w.replicas = min(max(*replicas, 0), maxReplicas)
	}
	return w, true
}

// pod is the pod of a workload of the given number.
func (w workload) pod(number int32) *corev1.Pod {
	controller := true
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: *w.template.ObjectMeta.DeepCopy(),
		Spec:       *w.template.Spec.DeepCopy(),
	}
	p.Namespace, p.Name = w.key.Namespace, fmt.Sprintf("%s-%d", w.key.Name, number)
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: w.key.kind, Name: w.key.Name, Controller: &controller}}
	return p
}

// complete is a pod as the API server would store it, as far as the mesh looks at it.
func complete(p *corev1.Pod) *corev1.Pod {
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName = p.Spec.DeprecatedServiceAccount
	}
	p.UID = types.UID("made-up/" + p.Namespace + "/" + p.Name)
	return p
}

// inject gives a new pod its sidecar, as the webhook does. note says what it has to say of the pod.
func injectPod(p *corev1.Pod, s inject.Settings) (injected *corev1.Pod, refused string, warnings []string, err error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, "", nil, fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	result, err := inject.Inject(raw, s)
	var refusal *inject.RefusedError
	switch {
	case errors.As(err, &refusal):
		return p, refusal.Reason, nil, nil
	case err != nil:
		return p, err.Error(), nil, nil
	case result.Patch == nil:
		return p, "", result.Warnings, nil
	}
	patch, err := jsonpatch.DecodePatch(result.Patch)
	if err == nil {
		raw, err = patch.Apply(raw)
	}
	if err != nil {
		return nil, "", nil, fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	injected = &corev1.Pod{}
	if err := json.Unmarshal(raw, injected); err != nil {
		return nil, "", nil, fmt.Errorf("pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return injected, "", result.Warnings, nil
}

// addresses gives out addresses that nothing else has. They are of ranges that proxies ask about anyway (RFC 6598, RFC 4193).
type addresses struct {
	used  map[netip.Addr]bool
	next  map[string]netip.Addr
	given map[key][]string
}

func newAddresses() *addresses {
	return &addresses{
		used: map[netip.Addr]bool{},
		next: map[string]netip.Addr{
			"Service4": netip.MustParseAddr("100.127.0.1"), "Service6": netip.MustParseAddr("fd7f:ffff::1"),
			"Pod4": netip.MustParseAddr("100.126.0.1"), "Pod6": netip.MustParseAddr("fd7e:ffff::1"),
		},
		given: map[key][]string{},
	}
}

// reserve takes the addresses that something has already.
func (a *addresses) reserve(o client.Object) {
	var texts []string
	switch o := o.(type) {
	case *corev1.Service:
		texts = append(o.Spec.ClusterIPs, o.Spec.ClusterIP)
	case *corev1.Pod:
		for _, ip := range o.Status.PodIPs {
			texts = append(texts, ip.IP)
		}
		texts = append(texts, o.Status.PodIP)
	}
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil {
			a.used[ip] = true
		}
	}
}

// give returns the addresses of an object: the same ones whenever it is asked.
func (a *addresses) give(k key, families ...string) []string {
	if known := a.given[k]; len(known) > 0 {
		return known
	}
	var texts []string
	for _, family := range families {
		pool := k.kind + family
		ip := a.next[pool]
		for a.used[ip] {
			ip = ip.Next()
		}
		a.next[pool] = ip.Next()
		texts = append(texts, ip.String())
	}
	a.given[k] = texts
	return texts
}

// service gives a Service the cluster IPs that it has none of.
func (a *addresses) service(s *corev1.Service) {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP != "" || len(s.Spec.ClusterIPs) > 0 {
		return
	}
	var families []string
	for _, f := range s.Spec.IPFamilies {
		families = append(families, strings.TrimPrefix(string(f), "IPv"))
	}
	if len(families) == 0 {
		families = []string{"4"}
	}
	s.Spec.ClusterIPs = a.give(keyOf(s), families...)
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
}

// pod gives a pod addresses, and says that it runs.
func (a *addresses) pod(p *corev1.Pod, ipv6 bool) {
	families := []string{"4"}
	if ipv6 {
		families = append(families, "6")
	}
	p.Status.Phase = corev1.PodRunning
	if p.Spec.HostNetwork || p.Status.PodIP != "" {
		return
	}
	p.Status.PodIPs = nil
	for _, ip := range a.give(keyOf(p), families...) {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	p.Status.PodIP = p.Status.PodIPs[0].IP
}

// anyIPv6 reports whether a Service asks for IPv6.
func anyIPv6(objects []client.Object) bool {
	for _, o := range objects {
		if s, ok := o.(*corev1.Service); ok && slices.Contains(s.Spec.IPFamilies, corev1.IPv6Protocol) {
			return true
		}
	}
	return false
}

// slicesFor are the EndpointSlices that a cluster would make of pods for a Service.
func slicesFor(s *corev1.Service, pods []*corev1.Pod) []*discoveryv1.EndpointSlice {
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	found := map[string]*discoveryv1.EndpointSlice{}
	for _, p := range pods {
		if p.Namespace != s.Namespace || !selector.Matches(labels.Set(p.Labels)) {
			continue
		}
		ports := endpointPorts(s, p)
		for _, ip := range p.Status.PodIPs {
			family := discoveryv1.AddressTypeIPv4
			if strings.Contains(ip.IP, ":") {
				family = discoveryv1.AddressTypeIPv6
			}
			name := sliceName(s, family, ports)
			slice := found[name]
			if slice == nil {
				slice = &discoveryv1.EndpointSlice{
					ObjectMeta: metav1.ObjectMeta{
						Namespace: s.Namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name},
					},
					AddressType: family, Ports: ports,
				}
				found[name] = slice
			}
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{ip.IP},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			})
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
}

// sliceName has what tells slices of a Service apart: pods may have different numbers for a named port.
func sliceName(s *corev1.Service, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	name := fmt.Sprintf("%s made up %s", s.Name, family)
	for _, p := range ports {
		name += fmt.Sprintf(" %s:%d", *p.Name, *p.Port)
	}
	return name
}

func endpointPorts(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, port := range s.Spec.Ports {
		number, ok := targetPort(port, p)
		if !ok {
			continue
		}
		name, protocol := port.Name, port.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol})
	}
	return ports
}

func targetPort(port corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	switch {
	case port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal == 0:
		return port.Port, true
	case port.TargetPort.Type == intstr.Int:
		return port.TargetPort.IntVal, true
	}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			for _, cp := range c.Ports {
				if cp.Name == port.TargetPort.StrVal {
					return cp.ContainerPort, true
				}
			}
		}
	}
	return 0, false
}

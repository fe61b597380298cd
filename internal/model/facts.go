package model

import (
	"encoding/json"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Facts are what the model reads of an object. Two versions of an object with equal facts are the same to the mesh.

// service is a Service.
type service struct {
	key       ServiceKey
	created   time.Time
	external  bool         // an ExternalName
	addresses []netip.Addr // the primary family first
	family    corev1.IPFamily
	selector  map[string]string
	ports     []servicePort
	made      bool // by Tulle, of a version
}

type servicePort struct {
	name        string
	number      uint16
	target      intstr.IntOrString
	appProtocol string
}

func serviceKey(o *corev1.Service) ServiceKey {
	return ServiceKey{Namespace: o.Namespace, Name: o.Name}
}

func objectName(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func readService(o *corev1.Service) *service {
	s := &service{
		key:      serviceKey(o),
		created:  o.CreationTimestamp.Time,
		external: o.Spec.Type == corev1.ServiceTypeExternalName,
		selector: o.Spec.Selector,
		made:     MadeForMesh(o),
	}
	if s.external {
		return s
	}
	ips := o.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{o.Spec.ClusterIP}
	}
	s.addresses = parseAddresses(ips)
	switch {
	case len(s.addresses) > 0:
		s.family = familyOf(s.addresses[0])
	case len(o.Spec.IPFamilies) > 0:
		s.family = o.Spec.IPFamilies[0]
	}
	for _, p := range o.Spec.Ports {
		if number, ok := portNumber(p.Port); ok && isTCP(p.Protocol) {
			s.ports = append(s.ports, servicePort{p.Name, number, p.TargetPort, deref(p.AppProtocol)})
		}
	}
	return s
}

// port returns the index of a port; -1 when the Service does not have it.
func (s *service) port(number uint16) int {
	return slices.IndexFunc(s.ports, func(p servicePort) bool { return p.number == number })
}

// endpointSlice is an EndpointSlice of a Service.
type endpointSlice struct {
	name      string
	service   ServiceKey
	family    corev1.IPFamily
	ports     map[string]uint16 // by name
	endpoints []sliceEndpoint
}

type sliceEndpoint struct {
	address netip.Addr
	// special is not empty for an address that only the node or the pod that calls it has, such as a loopback one.
	special  string
	zone     string
	usable   bool // ready, or still serving
	draining bool
	// pod is true when the slice says that the endpoint is a pod, and foreign when it says of another namespace.
	pod, foreign bool
}

// readSlice returns nil for a slice that belongs to no Service.
func readSlice(o *discoveryv1.EndpointSlice) *endpointSlice {
	name := o.Labels[discoveryv1.LabelServiceName]
	if name == "" || o.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	s := &endpointSlice{
		name:    o.Name,
		service: ServiceKey{Namespace: o.Namespace, Name: name},
		family:  corev1.IPFamily(o.AddressType),
		ports:   map[string]uint16{},

		endpoints: make([]sliceEndpoint, 0, len(o.Endpoints)),
	}
	for _, p := range o.Ports {
		if p.Port == nil || !isTCP(deref(p.Protocol)) {
			continue
		}
		if number, ok := portNumber(*p.Port); ok {
			s.ports[deref(p.Name)] = number
		}
	}
	for i := range o.Endpoints {
		e, ok := readEndpoint(&o.Endpoints[i], o.Namespace)
		if ok && (e.special != "" || familyOf(e.address) == s.family) {
			s.endpoints = append(s.endpoints, e)
		}
	}
	return s
}

func readEndpoint(o *discoveryv1.Endpoint, namespace string) (sliceEndpoint, bool) {
	// All addresses of an endpoint are the same to its clients, and kube-proxy too uses only the first.
	if len(o.Addresses) == 0 {
		return sliceEndpoint{}, false
	}
	addresses := parseAddresses(o.Addresses[:1])
	if len(addresses) == 0 {
		return sliceEndpoint{special: shorten(o.Addresses[0])}, true
	}
	ready := o.Conditions.Ready == nil || *o.Conditions.Ready
	serving := ready
	if o.Conditions.Serving != nil {
		serving = *o.Conditions.Serving
	}
	e := sliceEndpoint{
		address:  addresses[0],
		zone:     deref(o.Zone),
		usable:   ready || serving,
		draining: o.Conditions.Terminating != nil && *o.Conditions.Terminating,
	}
	if t := o.TargetRef; t != nil && t.Kind == "Pod" {
		e.pod, e.foreign = true, t.Namespace != "" && t.Namespace != namespace
	}
	return e, true
}

// addresses yields each address once.
func (s *endpointSlice) addresses() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		seen := make(map[netip.Addr]bool, len(s.endpoints))
		for _, e := range s.endpoints {
			if e.special != "" {
				continue
			}
			if !seen[e.address] && !yield(e.address) {
				return
			}
			seen[e.address] = true
		}
	}
}

// pod is a pod that has not finished.
type pod struct {
	*template
	key         WorkloadKey
	uid         string
	created     time.Time
	node        string
	addresses   []netip.Addr
	terminating bool
}

type containerPort struct {
	name   string
	number uint16
}

// injected is what injection wrote into a pod.
type injected struct {
	proxy         bool
	version       string
	skipDetection []uint16
	probes        []Probe
	metrics       []AppMetrics
	noMetrics     bool
}

// readPod returns nil for a pod that has finished: it owns nothing any more, and its address may be another's.
func readPod(o *corev1.Pod) *pod {
	if o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
		return nil
	}
	ips := make([]string, 0, 2)
	for _, ip := range o.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	if len(ips) == 0 {
		ips = append(ips, o.Status.PodIP)
	}
	p := &pod{
		template: &template{
			labels:      o.Labels,
			account:     o.Spec.ServiceAccountName,
			hostNetwork: o.Spec.HostNetwork,
			windows:     isWindows(&o.Spec),
		},
		key:         WorkloadKey{Namespace: o.Namespace, Name: o.Name},
		uid:         string(o.UID),
		created:     o.CreationTimestamp.Time,
		node:        o.Spec.NodeName,
		addresses:   parseAddresses(ips),
		terminating: o.DeletionTimestamp != nil,
	}
	if p.account == "" {
		p.account = "default"
	}
	if c := metav1.GetControllerOf(o); c != nil {
		p.controllerKind, p.controllerName = c.Kind, c.Name
	}
	for i := range o.Spec.Containers {
		p.readContainer(&o.Spec.Containers[i])
	}
	for i := range o.Spec.InitContainers {
		c := &o.Spec.InitContainers[i]
		switch {
		case c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways:
		case c.Name == sidecar.ProxyContainer:
			p.injected = readInjected(o.Annotations)
		default:
			p.readContainer(c)
		}
	}
	return p
}

func isWindows(spec *corev1.PodSpec) bool {
	return spec.OS != nil && spec.OS.Name == corev1.Windows || spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows)
}

func (p *pod) readContainer(c *corev1.Container) {
	for _, port := range c.Ports {
		if number, ok := portNumber(port.ContainerPort); ok && isTCP(port.Protocol) {
			p.ports = append(p.ports, containerPort{port.Name, number})
		}
	}
}

// target resolves the target of a Service's port; false when the pod does not have the port that it names.
func (p *pod) target(port servicePort) (uint16, bool) {
	if port.target.Type == intstr.String {
		i := slices.IndexFunc(p.ports, func(c containerPort) bool { return c.name == port.target.StrVal })
		if i < 0 {
			return 0, false
		}
		return p.ports[i].number, true
	}
	if port.target.IntVal == 0 {
		return port.number, true
	}
	return portNumber(port.target.IntVal)
}

// maxProbes bounds the probes of a pod that are read: three a container, of more containers than anybody has.
const maxProbes = 300

// readInjected reads the annotations of a pod that has our proxy. What can't be parsed is left out: they are the pod's own, and
// it can harm nobody else with them.
func readInjected(annotations map[string]string) injected {
	in := injected{proxy: true, version: annotations[sidecar.VersionAnnotation]}
	for text := range strings.SplitSeq(annotations[sidecar.SkipDetectionAnnotation], ",") {
		if n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16); err == nil && n > 0 {
			in.skipDetection = append(in.skipDetection, uint16(n))
		}
	}
	slices.Sort(in.skipDetection)
	in.skipDetection = slices.Compact(in.skipDetection)
	in.skipDetection = in.skipDetection[:min(len(in.skipDetection), maxSkippedPorts)]
	in.metrics, in.noMetrics = readMetrics(annotations[sidecar.MetricsAnnotation])
	var probes []sidecar.Probe
	if err := json.Unmarshal([]byte(annotations[sidecar.ProbesAnnotation]), &probes); err != nil {
		return in
	}
	for _, p := range probes[:min(len(probes), maxProbes)] {
		if port, ok := portNumber(p.Port); ok && strings.HasPrefix(p.Path, "/") {
			in.probes = append(in.probes, Probe{
				Path:       p.Path,
				Port:       port,
				TargetPath: "/" + strings.TrimPrefix(p.TargetPath, "/"), // as the kubelet completes it
				Host:       p.Host,
				TLS:        strings.EqualFold(p.Scheme, string(corev1.URISchemeHTTPS)),
				Timeout:    time.Duration(max(p.TimeoutSeconds, 0)) * time.Second,
			})
		}
	}
	return in
}

// machine is a Node.
type machine struct {
	zone      string
	podRanges []netip.Prefix
	addresses []netip.Addr
}

func (m machine) empty() bool { return m.zone == "" && len(m.podRanges) == 0 && len(m.addresses) == 0 }

func readMachine(o *corev1.Node) machine {
	ranges := o.Spec.PodCIDRs
	if len(ranges) == 0 {
		ranges = []string{o.Spec.PodCIDR}
	}
	var addresses []string
	for _, a := range o.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			addresses = append(addresses, a.Address)
		}
	}
	return machine{zone: o.Labels[corev1.LabelTopologyZone], podRanges: parsePrefixes(ranges), addresses: parseAddresses(addresses)}
}

// controllerOf returns who owns a ReplicaSet, as Workload.Owner writes it.
func controllerOf(o *metav1.PartialObjectMetadata) string {
	if c := metav1.GetControllerOf(o); c != nil {
		return c.Kind + "/" + c.Name
	}
	return "ReplicaSet/" + o.Name
}

// parseAddresses leaves out what is no address that something in the cluster can have: a proxy that were sent to a loopback
// address would reach its own pod.
func parseAddresses(texts []string) []netip.Addr {
	var addresses []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			continue
		}
		if a = a.Unmap(); a.IsGlobalUnicast() && !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// shorten makes a text that anybody may have written fit for a message.
func shorten(text string) string {
	const most = 64
	return strings.ToValidUTF8(text[:min(len(text), most)], "?")
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// isTCP knows that TCP is the default.
func isTCP(p corev1.Protocol) bool { return p == corev1.ProtocolTCP || p == "" }

func portNumber(n int32) (uint16, bool) { return uint16(n), n > 0 && n <= 65535 }

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

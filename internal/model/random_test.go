package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// world makes random objects of a small world, so that they meet: few names, few labels, few addresses.
type world struct{ *rand.Rand }

func pick[T any](w world, values ...T) T { return values[w.IntN(len(values))] }

func (w world) chance(percent int) bool { return w.IntN(100) < percent }

func (w world) object() metav1.Object {
	switch n := w.IntN(100); {
	case n < 15:
		return w.mesh()
	case n < 33:
		return w.service()
	case n < 56:
		return w.slice()
	case n < 83:
		return w.pod()
	case n < 95:
		return w.node()
	case n < 97:
		return w.replicaSet()
	}
	return &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: pick(w, "kubernetes", "more")},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{pick(w, "10.96.0.0/16", "fd00:96::/108", "20.0.0.0/24")}},
	}
}

// smi is a TrafficSplit or an HTTPRouteGroup.
func (w world) smi() metav1.Object {
	if w.chance(70) {
		return w.split()
	}
	return w.routeGroup()
}

// tweak returns a copy of an object that differs in one part at most.
func (w world) tweak(object metav1.Object) metav1.Object {
	switch o := object.(type) {
	case *v1alpha1.Mesh:
		o, other := o.DeepCopy(), w.mesh()
		pick(w,
			func() { o.Spec.MeshWide = other.Spec.MeshWide },
			func() { o.Spec.Proxy = other.Spec.Proxy },
			func() { o.Spec.MTLS = other.Spec.MTLS },
			func() { o.Spec.Services = other.Spec.Services },
			func() { o.CreationTimestamp = other.CreationTimestamp },
		)()
		return o
	case *corev1.Service:
		o, other := o.DeepCopy(), w.service()
		pick(w,
			func() { o.Spec.ClusterIP = other.Spec.ClusterIP },
			func() { o.Spec.Selector = other.Spec.Selector },
			func() { o.Spec.Ports = other.Spec.Ports },
			func() { o.CreationTimestamp = other.CreationTimestamp },
		)()
		return o
	case *splitv1alpha4.TrafficSplit:
		o, other := o.DeepCopy(), w.split()
		pick(w,
			func() { o.Spec.Service = other.Spec.Service },
			func() { o.Spec.Backends = other.Spec.Backends },
			func() { o.Spec.Matches = other.Spec.Matches },
			func() { o.OwnerReferences = other.OwnerReferences },
			func() { o.CreationTimestamp = other.CreationTimestamp },
		)()
		return o
	case *corev1.Pod:
		o, other := o.DeepCopy(), w.pod()
		pick(w,
			func() { o.Labels = other.Labels },
			func() { o.Spec.Containers = other.Spec.Containers },
			func() { o.Spec.InitContainers = other.Spec.InitContainers },
			func() { o.Spec.ServiceAccountName = other.Spec.ServiceAccountName },
			func() { o.Status = other.Status },
			func() { o.DeletionTimestamp = other.DeletionTimestamp },
		)()
		return o
	}
	return object
}

func (w world) namespace() string {
	return pick(w, "a", "a", "a", "a", "b", "b", "tulle-system", "kube-system")
}

func (w world) meta(names ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:         w.namespace(),
		Name:              pick(w, names...),
		CreationTimestamp: metav1.Unix(int64(w.IntN(3)), 0),
		Annotations:       map[string]string{"noise": fmt.Sprint(w.IntN(5))},
	}
}

func (w world) labels() map[string]string {
	return map[string]string{"app": pick(w, "x", "y"), "version": pick(w, "v1", "v2"), "tier": "all"}
}

// address is one of few: cluster IPs, pod addresses and public ones mix now and then.
func (w world) address() string {
	switch n := w.IntN(20); {
	case n < 1:
		return fmt.Sprintf("10.96.0.%d", 1+w.IntN(3))
	case n < 2:
		return "20.0.0.7"
	case n < 4:
		return fmt.Sprintf("fd00:10::%d", 1+w.IntN(3))
	}
	return fmt.Sprintf("10.244.0.%d", 1+w.IntN(8))
}

func (w world) service() *corev1.Service {
	s := &corev1.Service{ObjectMeta: w.meta("x", "y", "z")}
	s.Spec.ClusterIP = pick(w, "None", "10.96.0.1", "10.96.0.2", "10.96.0.3", "20.0.0.7", "fd00:96::1", "10.244.0.1")
	if w.chance(80) {
		s.Spec.Selector = pick(w, map[string]string{"app": "x"}, map[string]string{"tier": "all", "app": "y"}, map[string]string{"tier": "all"})
	}
	if w.chance(5) {
		s.Spec.Type = corev1.ServiceTypeExternalName
	}
	for i := range 1 + w.IntN(3) {
		p := corev1.ServicePort{
			Name:       pick(w, "", "http", "tcp-x", "grpc-web", "other") + fmt.Sprint("-", i),
			Port:       int32(80 + i),
			TargetPort: pick(w, intstr.FromInt32(8080), intstr.FromString("named"), intstr.FromInt32(0), intstr.FromInt32(3306)),
		}
		if w.chance(30) {
			p.AppProtocol = new(pick(w, "http", "kubernetes.io/h2c", "https", "mysql", "strange"))
		}
		if w.chance(10) {
			p.Protocol = corev1.ProtocolUDP
		}
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	return s
}

func (w world) split() *splitv1alpha4.TrafficSplit {
	s := &splitv1alpha4.TrafficSplit{ObjectMeta: w.meta("s1", "s2", "s3")}
	s.Spec.Service = pick(w, "x", "x", "y", "z", "nobody", "x.a", "x.b.svc.cluster.local", "", "X_")
	for range w.IntN(4) {
		s.Spec.Backends = append(s.Spec.Backends, splitv1alpha4.TrafficSplitBackend{
			Service: pick(w, "x", "y", "z", "nobody", "y.b", ""), Weight: pick[int64](w, 0, 0, 1, 90, -1, math.MaxInt32, math.MaxInt),
		})
	}
	if w.chance(30) {
		for range w.IntN(3) {
			s.Spec.Matches = append(s.Spec.Matches, corev1.TypedLocalObjectReference{Kind: pick(w, "HTTPRouteGroup", "HTTPRouteGroup", "TCPRoute"), Name: pick(w, "g1", "g2", "")})
		}
	}
	if w.chance(10) {
		s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "mesh.tulle.dev/v1alpha1", Kind: "Mesh", Name: "mesh", Controller: new(true)}}
	}
	return s
}

func (w world) routeGroup() *specsv1alpha4.HTTPRouteGroup {
	g := &specsv1alpha4.HTTPRouteGroup{ObjectMeta: w.meta("g1", "g2")}
	for range w.IntN(3) {
		m := specsv1alpha4.HTTPMatch{Name: "m", PathRegex: pick(w, "", "/x", "(", ".*"), Methods: pick(w, nil, []string{"*"}, []string{"POST", "GET"}, []string{"?"})}
		if w.chance(40) {
			m.Headers = specsv1alpha4.HTTPHeaders{{Name: pick(w, "End-User", "x-tulle-hop", ":path"), Value: pick(w, "jason", "(", ".*", "")}}
		}
		g.Spec.Matches = append(g.Spec.Matches, m)
	}
	return g
}

func (w world) slice() *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: w.meta("s1", "s2", "s3", "s4"), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: pick(w, "x", "y", "z", "gone")}
	if w.chance(10) {
		s.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, name := range []string{"http-0", "tcp-x-1", "-0", "other-2"} {
		if w.chance(60) {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: new(pick[int32](w, 8080, 9090, 3306))})
		}
	}
	for range w.IntN(5) {
		e := discoveryv1.Endpoint{Addresses: []string{w.address()}}
		if w.chance(5) {
			e.Addresses = []string{pick(w, "127.0.0.1", "169.254.169.254", "fe80::1", "no address")}
		}
		e.Conditions = discoveryv1.EndpointConditions{Ready: w.condition(), Serving: w.condition(), Terminating: w.condition()}
		if w.chance(60) {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: pick(w, s.Namespace, s.Namespace, "b"), Name: "p1"}
		}
		if w.chance(20) {
			e.Zone = new(pick(w, "zone-a", "zone-b"))
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func (w world) condition() *bool { return pick(w, nil, nil, new(true), new(false)) }

func (w world) pod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: w.meta("p1", "p2", "p3", "p4", "p5")}
	p.Labels = w.labels()
	if w.chance(10) {
		p.Labels[sidecar.InjectLabel] = "false"
	}
	if w.chance(10) {
		p.DeletionTimestamp = new(metav1.Unix(9, 0))
	}
	p.Spec.NodeName = pick(w, "n1", "n2")
	p.Spec.ServiceAccountName = pick(w, "", "sa1", "sa2")
	p.Spec.HostNetwork = w.chance(10)
	p.Status.Phase = pick(w, corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded)
	if w.chance(85) {
		p.Status.PodIP = w.address()
	}
	if w.chance(10) {
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}, {IP: w.address()}}
	}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: pick(w, "named", ""), ContainerPort: pick[int32](w, 8080, 9090)}}}}
	if w.chance(60) {
		p.Spec.InitContainers = []corev1.Container{{Name: sidecar.ProxyContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
		p.Annotations[sidecar.VersionAnnotation] = "v"
		p.Annotations[sidecar.SkipDetectionAnnotation] = pick(w, "", "3306", "25,3306,x")
	}
	if w.chance(40) {
		p.Labels["pod-template-hash"] = "abc"
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: pick(w, "rs-abc", "rs2"), Controller: new(true)}}
	}
	return p
}

func (w world) node() *corev1.Node {
	n := &corev1.Node{ObjectMeta: w.meta("n1", "n2")}
	n.Namespace = ""
	n.Labels = map[string]string{corev1.LabelTopologyZone: pick(w, "", "zone-a", "zone-b")}
	if w.chance(40) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: w.address()}, {Type: corev1.NodeHostName, Address: n.Name}}
	}
	n.Spec.PodCIDRs = pick(w, nil, []string{"10.244.0.0/30"}, []string{"10.244.0.0/24", "fd00:10::/64"}, []string{"20.0.0.0/24"})
	return n
}

func (w world) replicaSet() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "ReplicaSet", APIVersion: "apps/v1"}, ObjectMeta: w.meta("rs-abc", "rs2")}
	if w.chance(70) {
		o.OwnerReferences = []metav1.OwnerReference{{Kind: pick(w, "Deployment", "Rollout"), Name: "d", Controller: new(true)}}
	}
	return o
}

func (w world) mesh() *v1alpha1.Mesh {
	m := &v1alpha1.Mesh{ObjectMeta: w.meta("mesh", "other")}
	m.Generation = int64(w.IntN(3))
	if w.chance(50) {
		m.Spec.Proxy = w.proxy()
	}
	if w.chance(60) {
		m.Spec.MTLS = &v1alpha1.MTLSSpec{Mode: pick(w, "", v1alpha1.MTLSStrict, v1alpha1.MTLSPermissive, v1alpha1.MTLSDisabled, "typo")}
		if w.chance(40) {
			m.Spec.MTLS.Ports = []v1alpha1.PortMTLS{{Port: pick[int32](w, 8080, 9090, 70000), Mode: pick(w, v1alpha1.MTLSStrict, v1alpha1.MTLSDisabled)}}
		}
	}
	if w.chance(20) {
		m.Spec.Observability = &v1alpha1.ObservabilitySpec{Metrics: &v1alpha1.MetricsSpec{
			ServiceMonitor: pick(w, "", v1alpha1.MonitorsAlways, v1alpha1.MonitorsNever, "typo"),
			Labels:         pick(w, nil, map[string]string{"release": "x"}, map[string]string{"not valid": "x"}),
			Interval:       pick(w, nil, new(v1alpha1.Duration("7s")), new(v1alpha1.Duration("soon"))),
		}}
	}
	for range w.IntN(3) {
		m.Spec.Services = append(m.Spec.Services, w.rules())
	}
	if m.Namespace == "tulle-system" || w.chance(10) {
		m.Spec.MeshWide = &v1alpha1.MeshWideSpec{
			Trust: &v1alpha1.TrustSpec{Domain: pick(w, "", "example.org", "NOT VALID")},
			Network: &v1alpha1.NetworkSpec{
				PodRanges:        pick(w, nil, []v1alpha1.CIDR{"20.0.0.0/16"}, []v1alpha1.CIDR{"nonsense"}),
				ServerFirstPorts: pick(w, nil, []v1alpha1.PortNumber{7}, []v1alpha1.PortNumber{-7}),
			},
		}
	}
	return m
}

func (w world) proxy() *v1alpha1.ProxySpec {
	return &v1alpha1.ProxySpec{
		PodSelector: pick(w, nil, &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(w, "x", "none")}},
			&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Wrong"}}}),
		Concurrency:   pick[*int32](w, nil, new(int32(4)), new(int32(-4))),
		LogLevel:      pick[v1alpha1.LogLevel](w, "", "Debug", "typo"),
		DrainDuration: pick(w, nil, new(v1alpha1.Duration("7s")), new(v1alpha1.Duration("soon"))),
	}
}

func (w world) rules() v1alpha1.ServiceSpec {
	s := v1alpha1.ServiceSpec{Name: pick(w, "x", "y", "z", "nobody")}
	if w.chance(40) {
		s.Ports = []v1alpha1.ServicePort{{Port: pick[int32](w, 80, 81, 99), Protocol: pick(w, v1alpha1.ProtocolHTTP, v1alpha1.ProtocolTCP, "typo")}}
	}
	for range w.IntN(3) {
		v := pick(w, "v1", "v2", "v3")
		s.Versions = append(s.Versions, v1alpha1.VersionSpec{Name: v, Labels: map[string]string{"version": v}})
	}
	for i := range w.IntN(3) {
		r := v1alpha1.RouteSpec{Name: fmt.Sprint("r", i)}
		r.To = []v1alpha1.RouteTarget{{Version: pick(w, "", "v1", "v2", "v3"), Weight: pick[*int32](w, nil, new(int32(0)), new(int32(10)))}}
		if w.chance(50) {
			r.Match = []v1alpha1.HTTPMatch{{Headers: []v1alpha1.HeaderMatch{{
				Name: pick(w, "End-User", "x-tulle-hop", ":path"), Value: pick(w, "jason", "(", ".*"),
				Type: pick(w, "", v1alpha1.HeaderMatchExact, v1alpha1.HeaderMatchRegularExpression),
			}}}}
		}
		s.Routes = append(s.Routes, r)
	}
	return s
}

func newWorld(seed uint64) world {
	return world{rand.New(rand.NewPCG(seed, uint64(time.Second)))}
}

package model

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// trick is what a tenant applies in its own namespace, evil, to get at what belongs to others.
type trick struct {
	name, yaml string
	// problem is part of what the Mesh of the namespace is told; empty where nothing was dropped.
	problem string
	// check looks at what became of the tenant's own objects; nil where that is of no interest.
	check func(t *testing.T, r *Reader)
}

// TestTricksOfATenant applies each trick to the world of testdata/victims.yaml. Whatever it is, no node of another
// namespace changes, nor who has an address, nor anything that is mesh-wide.
func TestTricksOfATenant(t *testing.T) {
	t.Parallel()
	for _, tr := range slices.Concat(endpointTricks(), addressTricks(), nameTricks(), splitTricks(), podTricks()) {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			b := NewBuilder(testConfig())
			for _, o := range withSlices(readManifests(t, "testdata/victims.yaml")) {
				b.Set(o)
			}
			before := b.Snapshot()
			for _, o := range withSlices(parseManifests(t, tr.name, []byte(tr.yaml))) {
				later(o)
				b.Set(o)
			}
			after := b.Snapshot()
			checkOnlyEvil(t, before, after)
			problems := strings.Join(problemsOf(after), "\n")
			if tr.problem == "" && problems != "" || !strings.Contains(problems, tr.problem) {
				t.Errorf("problems %q, want %q", problems, tr.problem)
			}
			if tr.check != nil {
				tr.check(t, after.Reader())
			}
		})
	}
}

// later makes an object younger than those of the victims.
func later(o runtime.Object) {
	o.(metav1.Object).SetCreationTimestamp(metav1.NewTime(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)))
}

// checkOnlyEvil fails when something differs that is none of the namespace evil.
func checkOnlyEvil(t *testing.T, before, after *Snapshot) {
	t.Helper()
	if before == after {
		return
	}
	for _, key := range after.Changed() {
		o, known := get[*owner](before, key)
		switch {
		case key.Kind == KindSpan: // makes unknown addresses be looked at twice
		case key.Kind == KindAddress && (!known || o.kind == ownerVanished || o.namespace == "evil"):
		case key.Namespace != "evil":
			t.Errorf("%v changed from\n%+v to\n%+v", key, nodesOf(before)[key], nodesOf(after)[key])
		}
	}
}

func evilService(name string) ServiceKey { return ServiceKey{Namespace: "evil", Name: name} }

// noEndpoints checks that a Service of the tenant leads nowhere.
func noEndpoints(name string) func(*testing.T, *Reader) {
	return func(t *testing.T, r *Reader) {
		t.Helper()
		s, e := r.Service(evilService(name)), r.Endpoints(evilService(name))
		if s == nil || e == nil {
			t.Fatal("the Service is not there")
		}
		for port, list := range e.Ports {
			if len(list) > 0 {
				t.Errorf("port %d leads to %v", port, list)
			}
		}
		if len(s.Identities) > 0 {
			t.Errorf("expected identities %v", s.Identities)
		}
	}
}

// nobodyInPlaintext checks that the tenant's Service calls nobody who does not prove that it is the tenant's.
func nobodyInPlaintext(t *testing.T, r *Reader) {
	t.Helper()
	for _, e := range r.Endpoints(evilService("s")).Ports[80] {
		if e.Plaintext {
			t.Errorf("endpoint %+v", e)
		}
	}
	for _, id := range r.Service(evilService("s")).Identities {
		if !strings.HasPrefix(id, "spiffe://cluster.local/ns/evil/") {
			t.Errorf("expected identity %s", id)
		}
	}
}

const evilMesh = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: evil, namespace: evil}
`

// slice of the Service evil/s that lists an address.
func evilSlice(address, more string) string {
	family, clusterIP := "IPv4", "10.96.66.1"
	if strings.Contains(address, ":") {
		family, clusterIP = "IPv6", "fd00:96::66"
	}
	return evilMesh + fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: evil}
spec: {clusterIP: "%s", ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: evil, labels: {kubernetes.io/service-name: s}}
addressType: %s
ports: [{name: http, port: 80}]
endpoints: [{addresses: ["%s"]%s}]
`, clusterIP, family, address, more)
}

func endpointTricks() []trick {
	stray := func(name, address, more, why string) trick {
		return trick{name, evilSlice(address, more), "ForeignEndpoint : EndpointSlice s-1 of Service s lists " + address + ", which " + why, noEndpoints("s")}
	}
	own := ", targetRef: {kind: Pod, namespace: evil, name: p}"
	return []trick{
		stray("a slice lists a pod of another namespace", "10.244.1.1", "", "belongs to pod shop/web-1"),
		stray("a slice says that a pod of another namespace is its own", "10.244.1.1", own, "belongs to pod shop/web-1"),
		stray("a slice lists a pod of another namespace without a mesh", "10.244.1.3", "", "belongs to pod plain/db"),
		stray("a slice refers to a pod of another namespace", "10.244.9.9", ", targetRef: {kind: Pod, namespace: shop, name: web-1}", "refers to a pod of another namespace"),
		stray("a slice lists a cluster IP", "10.96.0.1", "", "is the cluster IP of Service shop/web"),
		stray("a slice lists a loopback address", "127.0.0.1", "", "is no address that everybody can reach"),
		stray("a slice lists a loopback address of IPv6", "::1", "", "is no address that everybody can reach"),
		stray("a slice lists the metadata service", "169.254.169.254", "", "is no address that everybody can reach"),
		stray("a slice lists a link-local address", "fe80::1", "", "is no address that everybody can reach"),
		stray("a slice lists a hidden IPv4 loopback address", "::ffff:127.0.0.1", "", "is no address that everybody can reach"),
		stray("a slice lists every address", "0.0.0.0", "", "is no address that everybody can reach"),
		{
			// Anybody may call a node; what listens there is not a pod of anybody's. It is called as an app would.
			"a slice lists a node", evilSlice("192.168.0.1", ""), "", func(t *testing.T, r *Reader) {
				t.Helper()
				if e := r.Endpoints(evilService("s")).Ports[80]; len(e) != 1 || !e[0].Plaintext || e[0].Proxied {
					t.Errorf("endpoints %+v", e)
				}
			},
		},
		{
			"a slice has the name of another namespace's Service", evilMesh + `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: evil, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints: [{addresses: [10.244.6.6]}]
`, "", func(t *testing.T, r *Reader) {
				t.Helper()
				if s := r.Service(evilService("web")); s != nil {
					t.Errorf("a Service came of it: %+v", s)
				}
			},
		},
		{
			"a headless Service lists another namespace's pods", strings.Replace(evilSlice("10.244.1.1", ""), `"10.96.66.1"`, "None", 1),
			"belongs to pod shop/web-1", noEndpoints("s"),
		},
	}
}

func addressTricks() []trick {
	service := func(spec, status string) string {
		return evilMesh + "---\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: evil}\nspec: {" + spec + "ports: [{name: http, port: 80}]}\n" + status
	}
	addresses := func(want ...string) func(*testing.T, *Reader) {
		return func(t *testing.T, r *Reader) {
			t.Helper()
			if got := texts(r.Service(evilService("s")).Addresses); !slices.Equal(got, want) {
				t.Errorf("the Service has %v, want %v", got, want)
			}
		}
	}
	return []trick{
		{"externalIPs of a cluster IP, a pod, a node and a database", service("clusterIP: 10.96.66.1, externalIPs: [10.96.0.1, 10.244.1.1, 192.168.0.1, 172.20.0.9], ", ""), "", addresses("10.96.66.1")},
		{"loadBalancerIP of a cluster IP", service("type: LoadBalancer, clusterIP: 10.96.66.1, loadBalancerIP: 10.96.0.1, ", ""), "", addresses("10.96.66.1")},
		{"a load balancer's status", service("type: LoadBalancer, clusterIP: 10.96.66.1, ", "status: {loadBalancer: {ingress: [{ip: 10.96.0.1}, {ip: 10.244.1.1}]}}\n"), "", addresses("10.96.66.1")},
		{"an ExternalName of another namespace's Service", service("type: ExternalName, externalName: web.shop.svc.cluster.local, ", ""), "", addresses()},
		{"an ExternalName with a cluster IP", service("type: ExternalName, externalName: web.shop.svc.cluster.local, clusterIP: 10.96.0.1, ", ""), "", addresses()},
		{"a cluster IP that another Service has", service("clusterIP: 10.96.0.1, ", ""), "", addresses("10.96.0.1")},
		{"a second cluster IP that another Service has", service(`clusterIP: 10.96.66.1, clusterIPs: [10.96.66.1, "fd00:96::1"], `, ""), "", addresses("10.96.66.1", "fd00:96::1")},
		{"a cluster IP that is a loopback address", service("clusterIP: 127.0.0.1, ", ""), "", addresses()},
	}
}

func nameTricks() []trick {
	return []trick{
		{
			"names, labels and a service account of others", evilMesh + `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: evil}
spec: {clusterIP: 10.96.66.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: evil, labels: {app: web, version: v1}}
spec: {serviceAccountName: web, initContainers: [{name: tulle-proxy, restartPolicy: Always}], containers: [{name: app}]}
status: {podIP: 10.244.6.6}
`, "", func(t *testing.T, r *Reader) {
				t.Helper()
				if ids := r.Service(evilService("web")).Identities; !slices.Equal(ids, []string{"spiffe://cluster.local/ns/evil/sa/web"}) {
					t.Errorf("expected identities %v", ids)
				}
			},
		},
		{
			"ports that speak something else", evilMesh + `---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: evil}
spec:
  clusterIP: 10.96.66.1
  selector: {app: web}
  ports: [{name: tcp-web, port: 80, targetPort: 8080}, {name: http-db, port: 5432}, {name: http-mysql, port: 3306}, {name: tcp-any, port: 7000}]
`, "", func(t *testing.T, r *Reader) {
				t.Helper()
				own := r.Namespace("evil").SkipDetection(r.MeshWide())
				for _, port := range []uint16{80, 7000, 3306} {
					if !slices.Contains(own, port) {
						t.Errorf("its own pods detect port %d, though it is declared TCP or well known", port)
					}
				}
				others := r.Namespace("shop").SkipDetection(r.MeshWide())
				if slices.Contains(others, 80) || slices.Contains(others, 7000) || !slices.Contains(others, 3306) || !slices.Contains(others, 7777) {
					t.Errorf("pods of another namespace skip %v", others)
				}
			},
		},
		{
			"so many ports that others' have no room", evilMesh + "---\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: evil}\nspec:\n  clusterIP: 10.96.66.1\n  ports:\n" +
				strings.Join(ports(1000), ""), "", func(t *testing.T, r *Reader) {
				t.Helper()
				if n := len(r.Namespace("evil").SkipDetection(r.MeshWide())); n > maxSkippedPorts {
					t.Errorf("%d ports", n)
				}
				if others := r.Namespace("shop").SkipDetection(r.MeshWide()); !slices.Contains(others, 7777) {
					t.Errorf("pods of another namespace skip %v", others)
				}
			},
		},
		{
			"a Mesh names Services of another namespace", `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: evil, namespace: evil}
spec:
  mtls: {mode: Disabled}
  services:
  - {name: web, versions: [{name: v1, labels: {version: v1}}], routes: [{name: all, to: [{version: v1}]}], ports: [{port: 80, protocol: TCP}]}
  - {name: shop/web, routes: [{name: all, to: [{weight: 1}]}]}
  - {name: web.shop.svc.cluster.local, routes: [{name: all, to: [{weight: 1}]}]}
`, "ServiceNotFound spec.services[0].name: namespace evil has no Service web", nil,
		},
		{
			"a Mesh that would be the root", strings.Replace(evilMesh, "name: evil,", "name: mesh,", 1) +
				"spec: {meshWide: {trust: {domain: evil.example}, network: {serviceRanges: [10.244.0.0/16], serverFirstPorts: [80]}}}\n",
			"NotRoot", nil,
		},
	}
}

func ports(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("  - {name: tcp-%d, port: %d}\n", i, i+1)
	}
	return list
}

func splitTricks() []trick {
	split := func(service, backends string) string {
		return evilMesh + `---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: evil}
spec: {clusterIP: 10.96.66.1, ports: [{name: http, port: 80}]}
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, namespace: evil}
spec: {service: ` + service + `, backends: [` + backends + `]}
`
	}
	toNobody := func(t *testing.T, r *Reader) {
		t.Helper()
		for port, shares := range r.Split(evilService("s")).Shares {
			t.Errorf("port %d of the tenant's Service is split: %v", port, shares)
		}
	}
	return []trick{
		{"a split of another namespace's Service", split("web.shop", "{service: s, weight: 1}"), `TrafficSplit web: spec.service: "web.shop" is no Service of namespace evil`, nil},
		{
			"a split of another namespace's Service by its domain name", split("web.shop.svc.cluster.local", "{service: s, weight: 1}"),
			`"web.shop.svc.cluster.local" is no Service of namespace evil`, nil,
		},
		{"a split of the name of another namespace's Service", split("web", "{service: s, weight: 1}"), "namespace evil has no Service web", nil},
		{
			"a split that sends to another namespace's Service", split("s", "{service: web.shop.svc.cluster.local, weight: 1}"),
			`"web.shop.svc.cluster.local" is no Service of namespace evil`, toNobody,
		},
		{"a split that sends to the name of another namespace's Service", split("s", "{service: web, weight: 1}"), "namespace evil has no Service web", toNobody},
		{"a split with a path for a name", split("s", `{service: "shop/web", weight: 1}`), `"shop/web" is no Service of namespace evil`, toNobody},
		{
			"a split that is said to be Tulle's", strings.Replace(split("s", "{service: s, weight: 1}"), "{name: web, namespace: evil}",
				`{name: web, namespace: evil, ownerReferences: [{apiVersion: mesh.tulle.dev/v1alpha1, kind: Mesh, name: mesh, uid: "1", controller: true}]}`, 1),
			"", func(t *testing.T, r *Reader) {
				t.Helper()
				if s := r.Split(evilService("s")); s != nil {
					t.Errorf("it is followed: %+v", s)
				}
			},
		},
		{
			"more backends than anybody has",
			split("s", strings.Repeat("{service: s, weight: 1}, ", 5000)+"{service: s, weight: 1}"),
			"5001 backends are more than 64", nil,
		},
	}
}

func podTricks() []trick {
	pod := func(spec, status string) string {
		return evilMesh + `---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: evil, labels: {app: web}}
spec: {` + spec + `containers: [{name: app}]}
status: ` + status + "\n"
	}
	const sidecar = "initContainers: [{name: tulle-proxy, restartPolicy: Always}], "
	const selected = `---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: evil}
spec: {clusterIP: 10.96.66.1, selector: {app: web}, ports: [{port: 80}]}
`
	return []trick{
		{"a pod reports another's address", pod("", "{podIP: 10.244.1.1}"),
			"AddressTaken : pod p reports 10.244.1.1, which is the address of pod shop/web-1, which had it first", nil},
		{"a pod with a sidecar reports the address of one without", pod(sidecar, "{podIP: 10.244.1.3}"), "which is the address of pod plain/db", nil},
		{"a pod reports another's second address", pod("", `{podIP: 10.244.6.6, podIPs: [{ip: 10.244.6.6}, {ip: "fd00:244::1"}]}`), "reports fd00:244::1", nil},
		{"a pod reports a cluster IP", pod("", "{podIP: 10.96.0.1}"), "reports 10.96.0.1, which is the cluster IP of Service shop/web", nil},
		{"a pod reports a node's address", pod("nodeName: n2, ", "{podIP: 192.168.0.1}"), "reports 192.168.0.1, which is the address of a node", nil},
		{"a pod on the host's network reports another's address", pod("hostNetwork: true, ", "{podIP: 10.244.1.1}"), "", nil},
		{"a Service selects a pod that reports another's address", pod("", "{podIP: 10.244.1.1}") + selected, "AddressTaken", nobodyInPlaintext},
		{"a Service selects a pod with a sidecar that reports the address of one without", pod(sidecar, "{podIP: 10.244.1.3}") + selected, "AddressTaken", nobodyInPlaintext},
		{"a pod reports no address at all", pod("", `{podIP: "127.0.0.1", podIPs: [{ip: 127.0.0.1}, {ip: "::"}, {ip: nonsense}]}`), "", nil},
	}
}

// Which of two pods is older is no more than an order. What a Service's own pods report counts for its endpoints, and for what
// is expected of them, even if a pod of another namespace was there first; one that is terminating gives way.
func TestEndpointsAreOfTheOwnNamespace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		terminating bool
		want        int
	}{"live": {false, 2}, "terminating": {true, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := withSlices(readManifests(t, "testdata/victims.yaml"))
			b := NewBuilder(testConfig())
			for _, o := range objects {
				b.Set(o)
			}
			if test.terminating {
				pod := find[*corev1.Pod](t, objects, "web-1")
				pod.DeletionTimestamp = new(metav1.Unix(9, 0))
				b.Set(pod)
			}
			older := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "evil", Name: "older", CreationTimestamp: metav1.Unix(1, 0)}}
			older.Status.PodIP = "10.244.1.1"
			b.Set(older)
			r := b.Snapshot().Reader()
			web := ServiceKey{Namespace: "shop", Name: "web"}
			list := r.Endpoints(web).Ports[80]
			if len(list) != test.want || slices.ContainsFunc(list, func(e Endpoint) bool { return !e.Proxied || e.Plaintext }) {
				t.Errorf("endpoints %+v", list)
			}
			if ids := r.Service(web).Identities; !slices.Equal(ids, []string{"spiffe://cluster.local/ns/shop/sa/web"}) {
				t.Errorf("expected identities %v", ids)
			}
		})
	}
}

// What a pod's owner writes into its annotations is bounded, and is about that pod only.
func TestAnnotationsByHand(t *testing.T) {
	t.Parallel()
	b := NewBuilder(testConfig())
	for _, o := range withSlices(readManifests(t, "testdata/victims.yaml")) {
		b.Set(o)
	}
	before := b.Snapshot()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "evil", Name: "p", Annotations: map[string]string{}}}
	pod.Spec.InitContainers = []corev1.Container{{Name: sidecar.ProxyContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	var all, probes []string
	for port := 1; port < 20_000; port++ {
		all = append(all, fmt.Sprint(port))
		probes = append(probes, fmt.Sprintf(`{"path":"/%d","port":80,"targetPath":"/"}`, port))
	}
	pod.Annotations[sidecar.SkipDetectionAnnotation] = "0,-1,x,70000," + strings.Join(all, ",")
	pod.Annotations[sidecar.ProbesAnnotation] = "[" + strings.Join(probes, ",") + "]"
	pod.Annotations[sidecar.VersionAnnotation] = strings.Repeat("v", 100)
	b.Set(pod)
	after := b.Snapshot()
	checkOnlyEvil(t, before, after)
	w := after.Reader().Workload(WorkloadKey{Namespace: "evil", Name: "p"})
	if len(w.SkipDetection) != maxSkippedPorts || len(w.Probes) == 0 || len(w.Probes) > maxProbes {
		t.Errorf("%d ports without detection and %d probes", len(w.SkipDetection), len(w.Probes))
	}
}

// TestNoNamespaceChangesAnother lets a tenant apply at random what it can, to random worlds.
func TestNoNamespaceChangesAnother(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w, b := newWorld(seed), NewBuilder(testConfig())
			splits := newWorld(seed + 1000)
			for range 40 {
				b.Set(w.object())
				b.Set(splits.smi())
			}
			before := b.Snapshot()
			for range 40 {
				b.Set(w.evil(b, before))
				split := splits.smi()
				split.SetNamespace("evil")
				b.Set(split)
				after := b.Snapshot()
				checkOnlyEvil(t, before, after)
				before = after
			}
		})
	}
}

// evil returns an object of the namespace evil, younger than all others. The addresses in it are its own, or those of others:
// a Service may claim a cluster IP, and a pod anything. What a pod leaves that ends is free to take.
func (w world) evil(b *Builder, s *Snapshot) metav1.Object {
	var services, all []string
	scan(s, Key{Kind: KindAddress}, func(key Key, o *owner) {
		switch {
		case o.namespace == "evil":
		case o.kind == ownedByService:
			services, all = append(services, key.Name), append(all, key.Name)
		case o.kind == ownedByWorkload && !b.pods[WorkloadKey{o.cluster, o.namespace, o.name}].terminating:
			all = append(all, key.Name)
		}
	})
	address := func(own string, others []string) string {
		if len(others) > 0 && w.chance(60) {
			return pick(w, others...)
		}
		return own + fmt.Sprint(1+w.IntN(5))
	}
	for {
		o := w.object()
		switch o := o.(type) {
		case *v1alpha1.Mesh:
		case *corev1.Service:
			if o.Spec.ClusterIP != "None" {
				o.Spec.ClusterIP = address("10.96.66.", services)
			}
		case *discoveryv1.EndpointSlice:
		case *corev1.Pod:
			o.Status.PodIPs = nil // a second one would not be chosen as the first is: a pod may have its own node's
			if o.Status.PodIP != "" {
				o.Status.PodIP = address("10.66.0.", all)
			}
		default:
			continue
		}
		o.SetNamespace("evil")
		o.SetCreationTimestamp(metav1.Unix(1000, 0))
		return o
	}
}

// What the world of the tricks is before them.
func TestVictims(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("testdata/victims.yaml"); err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(testConfig())
	for _, o := range withSlices(readManifests(t, "testdata/victims.yaml")) {
		b.Set(o)
	}
	s := b.Snapshot()
	if p := problemsOf(s); len(p) > 0 {
		t.Errorf("problems %v", p)
	}
	r := s.Reader()
	for address, want := range map[string]string{
		"10.96.0.1:80": "service shop/web", "[fd00:96::1]:80": "service shop/web", "10.244.1.1:80": "pod shop/web-1",
		"10.244.1.3:5432": "pod plain/db", "192.168.0.1:10250": "outside", "172.20.0.9:5432": "outside",
	} {
		got := "outside"
		switch d := r.Address(netip.MustParseAddrPort(address)); d.Kind {
		case ServicePort:
			got = "service " + d.Service.Key.Namespace + "/" + d.Service.Key.Name
		case PodAddress:
			got = "pod " + d.Workload.Key.Namespace + "/" + d.Workload.Key.Name
		case Outside:
		default:
			got = fmt.Sprint(d.Kind)
		}
		if got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
	if e := r.Endpoints(ServiceKey{Namespace: "shop", Name: "web"}).Ports[80]; len(e) != 2 || !e[0].Proxied {
		t.Errorf("endpoints %+v", e)
	}
}

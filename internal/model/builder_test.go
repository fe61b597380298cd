package model

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// bookinfo returns a builder that has the objects of the golden test of that name.
func bookinfo(t *testing.T) (*Builder, []runtime.Object) {
	t.Helper()
	objects := withSlices(readManifests(t, "testdata/bookinfo.in.yaml"))
	b := NewBuilder(testConfig())
	for _, o := range objects {
		b.Set(o)
	}
	return b, objects
}

// find returns a copy of an object, to change it.
func find[T runtime.Object](t *testing.T, objects []runtime.Object, name string) T {
	t.Helper()
	i := slices.IndexFunc(objects, func(o runtime.Object) bool {
		_, ok := o.(T)
		return ok && o.(metav1.Object).GetName() == name
	})
	if i < 0 {
		t.Fatalf("no object %s", name)
	}
	return objects[i].DeepCopyObject().(T)
}

func reviewsKey() ServiceKey { return ServiceKey{Namespace: "bookinfo", Name: "reviews"} }

func TestMetadataChangesNothing(t *testing.T) {
	t.Parallel()
	b, objects := bookinfo(t)
	before := b.Snapshot()
	for _, o := range objects {
		changed := o.DeepCopyObject()
		meta := changed.(metav1.Object)
		meta.SetResourceVersion("2")
		meta.SetAnnotations(map[string]string{"example.com/note": "changed"})
		meta.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "somebody"}})
		b.Set(changed)
	}
	mesh := find[*v1alpha1.Mesh](t, objects, "bookinfo")
	mesh.Status.Services = 7
	b.Set(mesh)
	if after := b.Snapshot(); after != before {
		t.Errorf("revision %d with %v, want the same snapshot", after.Revision(), after.Changed())
	}
}

func TestEndpointChangeTouchesOnlyEndpoints(t *testing.T) {
	t.Parallel()
	b, objects := bookinfo(t)
	before := b.Snapshot()
	slice := find[*discoveryv1.EndpointSlice](t, objects, "reviews-1")
	slice.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	b.Set(slice)
	after := b.Snapshot()
	if diff := cmp.Diff([]Key{reviewsKey().EndpointsKey()}, after.Changed()); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
	if before.Reader().Service(reviewsKey()) != after.Reader().Service(reviewsKey()) {
		t.Error("the Service is another node")
	}
}

func TestNewServiceAccountChangesIdentities(t *testing.T) {
	t.Parallel()
	b, objects := bookinfo(t)
	b.Snapshot()
	pod := find[*corev1.Pod](t, objects, "reviews-v2")
	pod.Spec.ServiceAccountName = "third"
	b.Set(pod)
	s := b.Snapshot()
	want := []string{"spiffe://cluster.local/ns/bookinfo/sa/reviews", "spiffe://cluster.local/ns/bookinfo/sa/third"}
	if diff := cmp.Diff(want, s.Reader().Service(reviewsKey()).Identities); diff != "" {
		t.Errorf("identities (-want +got):\n%s", diff)
	}
	wantChanged := []Key{reviewsKey().Key(), WorkloadKey{Namespace: "bookinfo", Name: "reviews-v2"}.Key()}
	if diff := cmp.Diff(wantChanged, s.Changed()); diff != "" {
		t.Errorf("changed (-want +got):\n%s", diff)
	}
}

func TestTrustDomainChangesIdentities(t *testing.T) {
	t.Parallel()
	b, _ := bookinfo(t)
	b.Snapshot()
	b.Set(&v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: "mesh"},
		Spec:       v1alpha1.MeshSpec{MeshWide: &v1alpha1.MeshWideSpec{Trust: &v1alpha1.TrustSpec{Domain: "example.org"}}},
	})
	for _, id := range b.Snapshot().Reader().Service(reviewsKey()).Identities {
		if !strings.HasPrefix(id, "spiffe://example.org/ns/bookinfo/sa/") {
			t.Errorf("identity %s", id)
		}
	}
}

// A conflict can come without a change of the pod's node: before and after, nobody knows what the port speaks. The Service
// that is told does not select the pod here, its slice just lists it.
func TestProtocolConflictComes(t *testing.T) {
	t.Parallel()
	objects := withSlices(readManifests(t, "testdata/protocol-conflict.in.yaml"))
	b := NewBuilder(testConfig())
	for _, o := range objects {
		b.Set(o)
	}
	web, raw, silent := find[*corev1.Service](t, objects, "web"), find[*corev1.Service](t, objects, "raw"), find[*corev1.Service](t, objects, "silent")
	web.Spec.Selector = nil
	raw.Spec.Ports[0].Name = ""
	for _, s := range []*corev1.Service{web, raw} {
		b.Set(s)
	}
	if got := problemsOf(b.Snapshot()); len(got) > 0 {
		t.Fatalf("before: %v", got)
	}
	raw, silent = raw.DeepCopy(), silent.DeepCopy()
	raw.Spec.Ports[0].Name, silent.Spec.Ports[0].Name = "tcp", "http"
	b.Set(raw)
	b.Set(silent)
	s := b.Snapshot()
	if got := problemsOf(s); len(got) != 1 || !strings.Contains(got[0], ReasonProtocolConflict) {
		t.Errorf("problems %v", got)
	}
	if slices.Contains(s.Changed(), (WorkloadKey{Namespace: "a", Name: "both"}.Key())) {
		t.Error("the pod's node changed, so that this shows nothing")
	}
}

func TestServiceVanishes(t *testing.T) {
	t.Parallel()
	b, objects := bookinfo(t)
	if problems := problemsOf(b.Snapshot()); len(problems) > 0 {
		t.Fatalf("before: %v", problems)
	}
	service := find[*corev1.Service](t, objects, "reviews")
	b.Delete(service)
	s := b.Snapshot()
	want := []string{"ResolvedRefs ServiceNotFound spec.services[0].name: " +
		"namespace bookinfo has no Service reviews; create it, or remove or correct this entry"}
	if diff := cmp.Diff(want, problemsOf(s)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	// No range covers its address, and yet it must not become one outside of the mesh.
	if d := s.Reader().Address(netip.MustParseAddrPort("10.96.0.2:9080")); d.Kind != UnknownService || d.Service != nil {
		t.Errorf("its address is %+v", d)
	}
	b.Set(service)
	if problems := problemsOf(b.Snapshot()); len(problems) > 0 {
		t.Errorf("after it came back: %v", problems)
	}
}

func TestVanishedAddressesAreBounded(t *testing.T) {
	t.Parallel()
	b := NewBuilder(testConfig())
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }
	service := func(i int) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s"}}
		s.Spec.ClusterIP = address(i).String()
		return s
	}
	const more = 10
	for i := range maxVanished + more {
		b.Set(service(i))
		b.Delete(service(i))
		if i%1000 == 0 {
			b.Snapshot()
		}
	}
	b.Set(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Status: corev1.PodStatus{PodIP: address(4000).String()}})
	r := b.Snapshot().Reader()
	for i, want := range map[int]DestinationKind{
		0: Outside, more - 1: Outside, more: UnknownService, maxVanished + more - 1: UnknownService, 4000: PodAddress,
	} {
		if got := r.Address(netip.AddrPortFrom(address(i), 80)).Kind; got != want {
			t.Errorf("address %d: kind %d, want %d", i, got, want)
		}
	}
}

func problemsOf(s *Snapshot) []string {
	var all []string
	for _, r := range s.Meshes() {
		for _, p := range r.Problems {
			all = append(all, strings.Join([]string{p.Condition, p.Reason, p.Origin.Field + ":", p.Message}, " "))
		}
	}
	return all
}

// What a Mesh leaves behind works on: its pods keep their proxies, which then accept plaintext too.
func TestUnenrolment(t *testing.T) {
	t.Parallel()
	b, objects := bookinfo(t)
	b.Snapshot()
	b.Delete(find[*v1alpha1.Mesh](t, objects, "bookinfo"))
	r := b.Snapshot().Reader()
	w := r.Workload(WorkloadKey{Namespace: "bookinfo", Name: "reviews-v1"})
	if !w.Meshed || w.Selected || w.Mode != v1alpha1.MTLSPermissive {
		t.Errorf("workload: meshed %t, selected %t, mode %s", w.Meshed, w.Selected, w.Mode)
	}
	for _, e := range r.Endpoints(reviewsKey()).Ports[9080] {
		if !e.Proxied || e.Plaintext {
			t.Errorf("endpoint %+v, want mTLS to go on", e)
		}
	}
	if s := r.Service(reviewsKey()); s.Meshed || s.HasRoutes() || len(s.Identities) != 2 {
		t.Errorf("service %+v, want no rules, and identities to go on", s)
	}
}

func TestReader(t *testing.T) {
	t.Parallel()
	b, _ := bookinfo(t)
	b.Set(&v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: "mesh"},
		Spec: v1alpha1.MeshSpec{MeshWide: &v1alpha1.MeshWideSpec{Network: &v1alpha1.NetworkSpec{
			ServiceRanges: []v1alpha1.CIDR{"10.96.0.0/16"},
		}}},
	})
	s := b.Snapshot()
	service, split, wide := reviewsKey().Key(), reviewsKey().splitKey(), Key{Kind: KindMeshWide}
	pod := WorkloadKey{Namespace: "bookinfo", Name: "reviews-v1"}.Key()
	address := func(a string) Key { return Key{Kind: KindAddress, Name: a} }
	near := func(r string) Key { return Key{Kind: KindSpan, Name: r} }
	for _, test := range []struct {
		address string
		kind    DestinationKind
		keys    []Key
	}{
		{"10.96.0.2:9080", ServicePort, []Key{service, split, address("10.96.0.2")}},
		{"[::ffff:10.96.0.2]:9080", ServicePort, []Key{service, split, address("10.96.0.2")}},
		{"10.96.0.2:1", UnknownService, []Key{service, address("10.96.0.2")}},
		{"10.244.0.4:1234", PodAddress, []Key{pod, address("10.244.0.4")}},
		{"10.96.9.9:80", UnknownService, []Key{wide, address("10.96.9.9")}},
		{"10.244.0.99:80", UnknownPod, []Key{wide, address("10.244.0.99")}},
		{"192.168.1.1:80", Outside, []Key{wide, address("192.168.1.1"), near("192.168.1.0/24")}},
		{"[fd00::1]:80", Outside, []Key{wide, address("fd00::1"), near("fd00::/64")}},
		{"8.8.8.8:80", Outside, []Key{wide, address("8.8.8.8")}},
	} {
		r := s.Reader()
		d := r.Address(netip.MustParseAddrPort(test.address))
		if d.Kind != test.kind {
			t.Errorf("%s: kind %d, want %d", test.address, d.Kind, test.kind)
		}
		slices.SortFunc(test.keys, compareKeys)
		if diff := cmp.Diff(test.keys, r.Keys()); diff != "" {
			t.Errorf("%s: keys (-want +got):\n%s", test.address, diff)
		}
	}
}

func TestReaderOfNothing(t *testing.T) {
	t.Parallel()
	r := NewBuilder(testConfig()).Snapshot().Reader()
	key, pod := ServiceKey{Namespace: "a", Name: "s"}, WorkloadKey{Namespace: "a", Name: "p"}
	if r.Service(key) != nil || r.Endpoints(key) != nil || r.Workload(pod) != nil {
		t.Error("something there")
	}
	if n := r.Namespace("a"); n.Meshed || n.Mode != v1alpha1.MTLSPermissive || n.Proxy.Concurrency != 2 {
		t.Errorf("namespace %+v", n)
	}
	if w := r.MeshWide(); w.TrustDomain != "cluster.local" {
		t.Errorf("mesh-wide %+v", w)
	}
	want := []Key{{Kind: KindMeshWide}, {Kind: KindNamespace, Namespace: "a"}, key.Key(), key.EndpointsKey(), pod.Key()}
	if diff := cmp.Diff(want, r.Keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	b := NewBuilder(testConfig())
	first := b.Snapshot()
	bundle := []byte("PEM")
	b.SetTrust(bundle)
	second := b.Snapshot()
	bundle[0] = 'X' // the caller's own business
	if got := string(second.Reader().MeshWide().TrustBundle); got != "PEM" {
		t.Errorf("bundle %q", got)
	}
	if diff := cmp.Diff([]Key{{Kind: KindMeshWide}}, second.Changed()); diff != "" || second.Revision() != first.Revision()+1 {
		t.Errorf("revision %d, changed:\n%s", second.Revision(), diff)
	}
	b.SetTrust([]byte("PEM"))
	if b.Snapshot() != second {
		t.Error("another snapshot for the same bundle")
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	b, objects := bookinfo(t)
	first := b.Snapshot()
	mesh := find[*v1alpha1.Mesh](t, objects, "bookinfo")
	b.SetTrust([]byte("another revision"))
	if got := b.Snapshot().Meshes()[0].Since; got != first.Revision() {
		t.Errorf("since %d, want %d", got, first.Revision())
	}
	mesh.Generation++
	b.Set(mesh)
	s := b.Snapshot()
	if r := s.Meshes()[0]; r.Since != s.Revision() || r.Generation != mesh.Generation || len(s.Changed()) > 0 {
		t.Errorf("revision %d: %+v, changed %v; want a revision that changes no node", s.Revision(), r, s.Changed())
	}
}

func TestNamespaceContents(t *testing.T) {
	t.Parallel()
	b, _ := bookinfo(t)
	b.Set(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "bookinfo-2", Name: "other"}})
	s := b.Snapshot()
	if diff := cmp.Diff([]string{"bookinfo", "bookinfo-2"}, s.Namespaces()); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
	var names []string
	for _, w := range s.Workloads("bookinfo") {
		names = append(names, w.Key.Name)
	}
	if diff := cmp.Diff([]string{"reviews-v1", "reviews-v2"}, names); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
	if n := s.Services("bookinfo"); n != 1 {
		t.Errorf("%d services", n)
	}
	if n := s.Services("bookinfo-2"); n != 0 {
		t.Errorf("%d services of a namespace without any", n)
	}
}

func TestProblemsAreBounded(t *testing.T) {
	t.Parallel()
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "a"}}
	for i := range 200 {
		mesh.Spec.Services = append(mesh.Spec.Services, v1alpha1.ServiceSpec{Name: strings.Repeat("x", i+1)})
	}
	b := NewBuilder(testConfig())
	b.Set(mesh)
	r := b.Snapshot().Meshes()[0]
	if len(r.Problems) != maxProblems || r.Omitted != 200-maxProblems {
		t.Errorf("%d problems, %d omitted", len(r.Problems), r.Omitted)
	}
	if got := r.Problems[10].Origin.Field; got != "spec.services[10].name" {
		t.Errorf("the eleventh is about %s", got)
	}
}

func TestValidateNeedsNothingElse(t *testing.T) {
	t.Parallel()
	mesh := readManifests(t, "testdata/invalid-routes.in.yaml")[0].(*v1alpha1.Mesh)
	if got := len(Validate(mesh, false)); got != 13 {
		t.Errorf("%d problems", got)
	}
	mesh = readManifests(t, "testdata/bookinfo.in.yaml")[0].(*v1alpha1.Mesh)
	if got := Validate(mesh, false); len(got) > 0 {
		t.Errorf("problems of a good Mesh: %v", got)
	}
	if got := Validate(mesh, true); len(got) != 1 || got[0].Reason != ReasonNotForRoot {
		t.Errorf("problems as root: %v", got)
	}
}

// Snapshots are read while the builder goes on; the race detector watches.
func TestReadWhileBuilding(t *testing.T) {
	t.Parallel()
	b, w := NewBuilder(testConfig()), newWorld(4)
	var readers sync.WaitGroup
	for range 50 {
		for range 5 {
			b.Set(w.object())
		}
		s := b.Snapshot()
		readers.Go(func() {
			for range 5 {
				s.Meshes()
				nodesOf(s)
			}
		})
	}
	readers.Wait()
}

// Resolve says of Meshes what a snapshot says once it has them.
func TestResolve(t *testing.T) {
	t.Parallel()
	objects := readManifests(t, "testdata/inheritance.in.yaml")
	b := NewBuilder(testConfig())
	for _, o := range objects {
		b.Set(o)
	}
	root := objects[0].(*v1alpha1.Mesh)
	for _, o := range objects[1:3] {
		mesh := o.(*v1alpha1.Mesh)
		got := Resolve(testConfig(), mesh.Namespace, root, []*v1alpha1.Mesh{mesh})
		want := b.Snapshot().Reader().Namespace(mesh.Namespace)
		if diff := cmp.Diff(marshal(t, want), marshal(t, got)); diff != "" || !got.Meshed {
			t.Errorf("%s (-snapshot +resolved):\n%s", mesh.Namespace, diff)
		}
	}
	if Resolve(testConfig(), "kube-system", nil, []*v1alpha1.Mesh{root}).Meshed {
		t.Error("kube-system is meshed")
	}
}

func TestSelects(t *testing.T) {
	t.Parallel()
	selector := func(s *metav1.LabelSelector) *Namespace {
		return Resolve(testConfig(), "a", nil, []*v1alpha1.Mesh{{Spec: v1alpha1.MeshSpec{Proxy: &v1alpha1.ProxySpec{PodSelector: s}}}})
	}
	web := selector(&metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}})
	broken := selector(&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Sometimes"}}})
	pod := func(labels map[string]string, spec corev1.PodSpec) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}
	}
	labels := map[string]string{"app": "web"}
	out := map[string]string{"app": "web", sidecar.InjectLabel: "false"}
	for name, test := range map[string]struct {
		namespace *Namespace
		pod       *corev1.Pod
		want      bool
		wantError bool
	}{
		"fits":                  {web, pod(labels, corev1.PodSpec{}), true, false},
		"fits not":              {web, pod(nil, corev1.PodSpec{}), false, false},
		"opted out":             {web, pod(out, corev1.PodSpec{}), false, false},
		"host network":          {web, pod(labels, corev1.PodSpec{HostNetwork: true}), false, false},
		"windows":               {web, pod(labels, corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Windows}}), false, false},
		"not meshed":            {builtin("a"), pod(labels, corev1.PodSpec{}), false, false},
		"nobody knows":          {broken, pod(labels, corev1.PodSpec{}), false, true},
		"opted out nonetheless": {broken, pod(out, corev1.PodSpec{}), false, false},
	} {
		got, err := test.namespace.Selects(test.pod)
		if got != test.want || (err != nil) != test.wantError {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}

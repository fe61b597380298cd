package compile_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// world makes random objects of few names and addresses, so that they meet.
type world struct{ *rand.Rand }

func pick[T any](w world, values ...T) T { return values[w.IntN(len(values))] }

func (w world) name() string    { return pick(w, "x", "y", "z") }
func (w world) address() string { return fmt.Sprintf("10.244.0.%d", 1+w.IntN(5)) }
func (w world) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: pick(w, "a", "b"), Name: w.name(), UID: "1"}
}

// object returns a new or changed object.
func (w world) object() metav1.Object {
	switch w.IntN(12) {
	case 10, 11:
		return w.split()
	case 0, 1:
		return w.mesh()
	case 2, 3:
		return w.service()
	case 4, 5, 6:
		return w.slice()
	case 7, 8:
		return w.pod()
	default:
		return &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{pick(w, "10.96.0.0/16", "fd00:96::/112", "20.0.0.0/24")}},
		}
	}
}

func (w world) mesh() *v1alpha1.Mesh {
	m := &v1alpha1.Mesh{ObjectMeta: w.meta()}
	m.Spec.MTLS = &v1alpha1.MTLSSpec{Mode: pick(w, v1alpha1.MTLSStrict, v1alpha1.MTLSPermissive, v1alpha1.MTLSDisabled)}
	m.Spec.Services = []v1alpha1.ServiceSpec{{
		Name:     w.name(),
		Versions: []v1alpha1.VersionSpec{{Name: "v1", Labels: map[string]string{"version": "v1"}}},
		Routes: pick(w, nil, []v1alpha1.RouteSpec{{
			Name: "r", To: []v1alpha1.RouteTarget{{Version: pick(w, "v1", "v9", "")}},
		}}),
	}}
	return m
}

func (w world) service() *corev1.Service {
	return &corev1.Service{ObjectMeta: w.meta(), Spec: corev1.ServiceSpec{
		ClusterIP: fmt.Sprintf("10.96.0.%d", 1+w.IntN(3)),
		Selector:  map[string]string{"app": w.name()},
		Ports:     []corev1.ServicePort{{Name: pick(w, "http", "tcp", "any"), Port: pick(w, int32(80), 81), Protocol: corev1.ProtocolTCP}},
	}}
}

func (w world) split() *splitv1alpha4.TrafficSplit {
	s := &splitv1alpha4.TrafficSplit{ObjectMeta: w.meta()}
	s.Spec.Service = w.name()
	for range w.IntN(3) {
		s.Spec.Backends = append(s.Spec.Backends, splitv1alpha4.TrafficSplitBackend{Service: w.name(), Weight: pick[int64](w, 0, 1, 90, -1, math.MaxInt)})
	}
	return s
}

func (w world) slice() *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: w.meta(), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: w.name()}
	name, port := pick(w, "http", "tcp", "any"), int32(8080)
	s.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port}}
	for range w.IntN(3) {
		ready := w.IntN(4) > 0
		serving, terminating := true, !ready
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{w.address()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: s.Namespace, Name: w.name()},
		})
	}
	return s
}

func (w world) pod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: w.meta()}
	p.Labels = map[string]string{"app": w.name(), "version": pick(w, "v1", "v2")}
	p.Spec.ServiceAccountName = w.name()
	p.Status.PodIP = w.address()
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	if w.IntN(3) > 0 {
		p.Annotations = map[string]string{sidecar.SkipDetectionAnnotation: pick(w, "", "25", "25,3306")}
		p.Spec.InitContainers = []corev1.Container{{Name: sidecar.ProxyContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	}
	return p
}

// questions is all that is asked after each change.
func questions() []resource.Ref {
	refs := []resource.Ref{{Type: resource.RouteConfiguration, Name: "outbound"}, {Type: resource.Secret, Name: "peers"}}
	for _, l := range []string{"outbound", "inbound", "reroute", "silent", "probes", "stats"} {
		refs = append(refs, resource.Ref{Type: resource.Listener, Name: l})
	}
	for _, name := range []string{compile.ProxyBundle, "inbound"} {
		refs = append(refs, resource.Ref{Type: resource.Bundle, Name: name}, resource.Ref{Type: resource.Cluster, Name: name})
	}
	for _, a := range []string{"10.96.0.1", "10.96.0.2", "10.96.0.3", "10.244.0.1", "10.244.0.4", "20.0.0.7"} {
		for _, port := range []string{":80", ":81"} {
			for _, kind := range []string{"http|", "tcp|", "raw|"} {
				refs = append(refs, resource.Ref{Type: resource.Bundle, Name: kind + a + port}, resource.Ref{Type: resource.Cluster, Name: kind + a + port})
			}
			refs = append(refs, resource.Ref{Type: resource.VirtualHost, Name: "outbound/http|" + a + port})
		}
	}
	for _, s := range []string{"a/x", "a/y", "b/x"} {
		refs = append(refs, resource.Ref{Type: resource.Secret, Name: "service|" + s}, resource.Ref{Type: resource.Secret, Name: "account|" + s})
		for _, version := range []string{"", "v1"} {
			refs = append(refs,
				resource.Ref{Type: resource.Endpoints, Name: s + "|80|" + version},
				resource.Ref{Type: resource.Cluster, Name: "svc|" + s + "|80|" + version})
		}
		for _, rest := range []string{"mtls|x", "plaintext|x", "mtls|x,y", "plaintext|x,y"} {
			refs = append(refs, resource.Ref{Type: resource.Endpoints, Name: "split|" + s + "|80|" + rest})
		}
	}
	return refs
}

func proxies() []*resource.Proxy {
	return []*resource.Proxy{{Namespace: "a", Pod: "x", Minor: 40}, {Namespace: "b", Pod: "y", Minor: 38}}
}

// held is what one proxy has of one view.
type held map[resource.ScopedRef]*resource.Resource

func readAll(v resource.View) held {
	h := held{}
	for _, p := range proxies() {
		for _, ref := range questions() {
			r, scoped := v.Resource(p, ref)
			h[scoped] = r
		}
	}
	return h
}

func compileAll(t *testing.T, s *model.Snapshot, like held) held {
	t.Helper()
	h := held{}
	for ref := range like {
		r, err := compile.Compile(s.Reader(), ref.Scope, ref.Ref)
		if err != nil {
			t.Fatal(err)
		}
		h[ref] = r
	}
	return h
}

// description is all of a resource that a proxy or the server could tell apart.
func description(r *resource.Resource) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprint(r.Ref, r.Version, r.Needs, r.Warms, r.Hold, r.Origins)
}

// TestCacheEqualsFromScratch changes a small world at random. After each change, everything that the cache gives equals what
// is compiled from scratch, what differs from before was named as changed, and the view before still says what it said.
func TestCacheEqualsFromScratch(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := world{rand.New(rand.NewPCG(seed, 1))} //nolint:gosec // a test's randomness
			b := compiletest.Builder(t, nil)
			c := compile.NewCompiler(func(ref resource.ScopedRef, err error) { t.Error(ref, err) })
			before := b.Snapshot()
			view, _ := c.Advance(before)
			had := readAll(view)
			for range 40 {
				change(w, b)
				after := b.Snapshot()
				next, changed := c.Advance(after)
				has := readAll(next)
				equal(t, "from the cache", has, compileAll(t, after, has))
				named(t, had, has, changed)
				equal(t, "from the view before", readAll(view), had)
				view, had = next, has
			}
		})
	}
}

func change(w world, b *model.Builder) {
	for range 1 + w.IntN(3) {
		o := w.object()
		if w.IntN(4) == 0 {
			b.Delete(o)
		} else {
			b.Set(o)
		}
	}
}

func equal(t *testing.T, what string, got, want held) {
	t.Helper()
	for ref := range want {
		if diff := cmp.Diff(description(want[ref]), description(got[ref])); diff != "" {
			t.Fatalf("%s %v (-want +got):\n%s", what, ref, diff)
		}
	}
}

// named checks that all that differs was named.
func named(t *testing.T, had, has held, changed []resource.ScopedRef) {
	t.Helper()
	for ref := range has {
		if description(had[ref]) != description(has[ref]) && !slices.Contains(changed, ref) {
			t.Fatalf("%v changed, and Advance did not say so", ref)
		}
	}
}

// TestEveryReaderEndsUpWithTheNewest has readers come to hold things at random moments, also of views that are not the newest any
// more, while snapshots are published. Each reads again only what it is told of. In the end all hold what the last snapshot
// says. The race detector looks on.
func TestEveryReaderEndsUpWithTheNewest(t *testing.T) {
	t.Parallel()
	w := world{rand.New(rand.NewPCG(7, 7))} //nolint:gosec // a test's randomness
	b := compiletest.Builder(t, nil)
	s := &server{}
	p := compile.NewPublisher(s.publish, func(ref resource.ScopedRef, err error) { t.Error(ref, err) })
	last := b.Snapshot()
	p.Publish(last)
	const readers = 4
	for i := range readers {
		s.readers = append(s.readers, &reader{
			server: s, proxy: proxies()[i%2], random: world{rand.New(rand.NewPCG(uint64(i), 0))}, //nolint:gosec // a test's randomness
			has: map[resource.Ref]string{}, mail: map[resource.Ref]bool{}, wake: make(chan struct{}, 1), done: make(chan struct{}, 1),
		})
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, r := range s.readers {
		running.Go(func() { r.run(stop) })
	}
	for range 150 {
		change(w, b)
		last = b.Snapshot()
		p.Publish(last)
	}
	for _, r := range s.readers {
		r.await(t, last)
	}
	close(stop)
	running.Wait()
}

// server is what xds.Server is to its streams.
type server struct {
	mu      sync.Mutex
	view    resource.View
	readers []*reader
}

func (s *server) publish(view resource.View, changed []resource.ScopedRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = view
	for _, r := range s.readers {
		for _, ref := range changed {
			if _, ok := r.has[ref.Ref]; ok && (ref.Pod == "" || ref.Pod == r.proxy.Namespace+"/"+r.proxy.Pod) {
				r.mail[ref.Ref] = true
			}
		}
		r.notify(r.wake)
	}
}

// reader is what a stream is.
type reader struct {
	server *server
	proxy  *resource.Proxy
	random world
	has    map[resource.Ref]string
	mail   map[resource.Ref]bool
	wake   chan struct{}
	// done gets a value whenever the reader has nothing to do.
	done chan struct{}
}

func (r *reader) notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run reads what it was told of, and one more thing at a time.
func (r *reader) run(stop <-chan struct{}) {
	view, todo := r.exchange(nil, nil, nil)
	for {
		for len(todo) > 0 {
			read := map[resource.Ref]string{}
			for ref := range todo {
				got, _ := view.Resource(r.proxy, ref)
				read[ref] = description(got)
			}
			view, todo = r.exchange(view, read, nil)
		}
		r.notify(r.done)
		select {
		case <-stop:
			return
		case <-r.wake:
		}
		more := pick(r.random, questions()...)
		view, todo = r.exchange(view, nil, &more)
	}
}

// exchange notes what was read of a view and returns what to read of which. What is new of a view that is not the newest has to
// be read again.
func (r *reader) exchange(view resource.View, read map[resource.Ref]string, more *resource.Ref) (resource.View, map[resource.Ref]bool) {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	todo := r.mail
	r.mail = map[resource.Ref]bool{}
	for ref, text := range read {
		if _, known := r.has[ref]; !known && view.Revision() != r.server.view.Revision() {
			todo[ref] = true
		}
		r.has[ref] = text
	}
	if more != nil {
		todo[*more] = true
		if view != nil {
			return view, todo // of the view that it happens to have, which may be an older one
		}
	}
	return r.server.view, todo
}

// await waits until the reader holds what the snapshot says.
func (r *reader) await(t *testing.T, s *model.Snapshot) {
	t.Helper()
	for {
		wrong := r.wrong(t, s)
		if wrong == "" {
			return
		}
		select {
		case <-r.done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not what the last snapshot says", wrong)
		}
	}
}

func (r *reader) wrong(t *testing.T, s *model.Snapshot) string {
	t.Helper()
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	for ref, text := range r.has {
		scope := resource.Scope{Minor: r.proxy.Minor, Pod: r.proxy.Namespace + "/" + r.proxy.Pod}
		want, err := compile.Compile(s.Reader(), scope, ref)
		if err != nil {
			t.Fatal(err)
		}
		if text != description(want) {
			return ref.String()
		}
	}
	return ""
}

func TestEqualResourcesShareTheirBytes(t *testing.T) {
	t.Parallel()
	manifests := ""
	for i, name := range []string{"one", "two"} {
		manifests += fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: a}\nstatus: {podIP: 10.244.0.%d}\n", name, i+1)
	}
	b := compiletest.Builder(t, []byte(manifests))
	c := compile.NewCompiler(func(ref resource.ScopedRef, err error) { t.Error(ref, err) })
	view, _ := c.Advance(b.Snapshot())
	ref := resource.Ref{Type: resource.Listener, Name: "outbound"}
	one, _ := view.Resource(&resource.Proxy{Namespace: "a", Pod: "one"}, ref)
	two, _ := view.Resource(&resource.Proxy{Namespace: "a", Pod: "two"}, ref)
	if one == nil || two == nil || one.Body() != two.Body() {
		t.Error("the outbound listeners of two pods don't share their bytes")
	}
	// One pod's own are packed once nobody uses them.
	bytes := weak.Make(one.Body())
	for range 2 {
		runtime.GC()
	}
	if bytes.Value() != nil {
		t.Error("the outbound listener is kept as it is sent")
	}
	runtime.KeepAlive([]any{one, two})
}

func TestClasses(t *testing.T) {
	t.Parallel()
	c := compile.NewCompiler(func(ref resource.ScopedRef, err error) { t.Error(ref, err) })
	view, _ := c.Advance(compiletest.Builder(t, nil).Snapshot())
	for minor, class := range map[uint32]uint32{0: 38, 38: 38, 39: 39, 40: 40, 41: 40} {
		if _, ref := view.Resource(&resource.Proxy{Minor: minor}, resource.Ref{Type: resource.Cluster, Name: "passthrough"}); ref.Minor != class {
			t.Errorf("minor %d is compiled for %d, not %d", minor, ref.Minor, class)
		}
	}
}

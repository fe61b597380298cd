package compile_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// TestNoKnownPodIsCalledInPlaintextByOmission holds in random worlds what a mesh is for: a pod that has a proxy is called with
// mTLS on each port that is not Disabled, by its address and as an endpoint, whoever says whatever of it; a Strict port of a pod
// without one is not called at all; and a known address goes past the proxies' questions only if its Mesh says so.
func TestNoKnownPodIsCalledInPlaintextByOmission(t *testing.T) {
	t.Parallel()
	var seen seen
	for seed := range uint64(20) {
		w := world{rand.New(rand.NewPCG(seed, 7))} //nolint:gosec // a test's randomness
		b := compiletest.Builder(t, nil)
		for range 60 {
			o := w.object()
			if p, ok := o.(*corev1.Pod); ok && w.IntN(8) == 0 {
				p.Status.PodIPs = []corev1.PodIP{{IP: pick(w, "20.0.0.7", "2001:db8::7")}}
			}
			b.Set(o)
			checkPlaintext(t, b.Snapshot(), &seen)
		}
	}
	if seen.secured == 0 || seen.refused == 0 || seen.plain == 0 || seen.endpoints == 0 || seen.uncovered == 0 {
		t.Errorf("the worlds have too little in them: %+v", seen)
	}
}

// seen counts what was checked.
type seen struct{ secured, refused, plain, endpoints, uncovered int }

func checkPlaintext(t *testing.T, s *model.Snapshot, n *seen) {
	t.Helper()
	for _, namespace := range s.Namespaces() {
		for _, w := range s.Workloads(namespace) {
			for _, a := range w.Addresses {
				d := s.Reader().Address(netip.AddrPortFrom(a, 8080))
				if d.Kind == model.PodAddress && d.Workload == w {
					checkPod(t, s, w, a, n)
				}
			}
		}
	}
	for _, service := range []string{"a/x", "a/y", "a/z", "b/x", "b/y", "b/z"} {
		for _, port := range []string{"80", "81"} {
			checkEndpoints(t, s, service+"|"+port+"|", n)
		}
	}
}

// read compiles a resource into m.
func read(t *testing.T, s *model.Snapshot, pod string, ref resource.Ref, m proto.Message) {
	t.Helper()
	r, err := compile.Compile(s.Reader(), resource.Scope{Minor: 40, Pod: pod}, ref)
	if err != nil || r == nil {
		t.Fatal(ref, err)
	}
	if err := r.Body().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
}

func checkPod(t *testing.T, s *model.Snapshot, w *model.Workload, a netip.Addr, n *seen) {
	t.Helper()
	checkAsked(t, s, w, a, n)
	for _, port := range []uint16{80, 8080} {
		mode := features.PortMode(w, port)
		for _, prefix := range []string{"tcp|", "http|", "raw|"} {
			var c clusterv3.Cluster
			read(t, s, "", resource.Ref{Type: resource.Cluster, Name: prefix + netip.AddrPortFrom(a, port).String()}, &c)
			secure := c.GetTransportSocket().GetName() == "tls" && len(c.GetTransportSocketMatches()) == 0
			called := len(c.GetLoadAssignment().GetEndpoints()) > 0
			switch {
			case w.Meshed && mode != v1alpha1.MTLSDisabled:
				n.secured++
				if !secure {
					t.Fatalf("%s of %v, which has a proxy and is %s: %v", c.GetName(), w.Key, mode, &c)
				}
			case mode == v1alpha1.MTLSStrict:
				n.refused++
				if called {
					t.Fatalf("%s of %v, which has no proxy and is Strict: %v", c.GetName(), w.Key, &c)
				}
			default:
				n.plain++
			}
		}
	}
}

// checkAsked checks that proxies ask about a pod's address, or that its Mesh says that they don't.
func checkAsked(t *testing.T, s *model.Snapshot, w *model.Workload, a netip.Addr, n *seen) {
	t.Helper()
	var l listenerv3.Listener
	read(t, s, w.Key.Namespace+"/"+w.Key.Name, resource.Ref{Type: resource.Listener, Name: "outbound"}, &l)
	for _, chain := range l.GetFilterChains() {
		for _, r := range chain.GetFilterChainMatch().GetPrefixRanges() {
			p := netip.PrefixFrom(netip.MustParseAddr(r.GetAddressPrefix()), int(r.GetPrefixLen().GetValue()))
			if p.Contains(a) {
				return
			}
		}
	}
	if !s.Reader().Namespace(w.Key.Namespace).Meshed {
		return
	}
	n.uncovered++
	for _, r := range s.Meshes() {
		if r.Namespace == w.Key.Namespace && slices.ContainsFunc(r.Problems, func(p model.Problem) bool {
			return p.Reason == model.ReasonAddressOutsideRanges && p.Fatal
		}) {
			return
		}
	}
	t.Fatalf("nobody asks about %s of %v, and no Mesh says so", a, w.Key)
}

func checkEndpoints(t *testing.T, s *model.Snapshot, name string, n *seen) {
	t.Helper()
	var all endpointv3.ClusterLoadAssignment
	read(t, s, "", resource.Ref{Type: resource.Endpoints, Name: name}, &all)
	for _, locality := range all.GetEndpoints() {
		for _, e := range locality.GetLbEndpoints() {
			if e.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"] == nil {
				continue // mTLS
			}
			n.endpoints++
			socket := e.GetEndpoint().GetAddress().GetSocketAddress()
			address := netip.MustParseAddrPort(fmt.Sprintf("%s:%d", socket.GetAddress(), socket.GetPortValue()))
			w := s.Reader().Address(address).Workload
			if w != nil && (w.Meshed && features.PortMode(w, address.Port()) != v1alpha1.MTLSDisabled || features.PortMode(w, address.Port()) == v1alpha1.MTLSStrict) {
				t.Fatalf("endpoint %s of %s is called in plaintext; it is %v", address, name, w)
			}
		}
	}
}

package envoy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

const handshakes = `^listener\.inbound\.ssl\.handshake$`

// A Strict server that is not where the Node says that pods are, one with public addresses, and a Service to each.
const strays = `
apiVersion: v1
kind: Pod
metadata: {name: stray, namespace: shop, labels: {app: stray}}
spec: {containers: [{name: app, args: [serve, -http=8080, -tcp=9000]}]}
status: {podIPs: [{ip: 172.30.0.7}, {ip: "fd30::7"}]}
---
apiVersion: v1
kind: Service
metadata: {name: stray, namespace: shop}
spec: {clusterIP: 10.96.0.7, selector: {app: stray}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: public, namespace: shop, labels: {app: public}}
spec: {containers: [{name: app, args: [serve, -http=8080, -tcp=9000]}]}
status: {podIPs: [{ip: 203.0.113.7}, {ip: "2001:db8::7"}]}
---
apiVersion: v1
kind: Service
metadata: {name: public, namespace: shop}
spec: {clusterIP: 10.96.0.8, selector: {app: public}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
`

// rootWithRanges names the range of the pod with public addresses.
const rootWithRanges = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: tulle-system}
spec: {meshWide: {network: {podRanges: [203.0.113.0/24, "2001:db8::/64"]}}}
`

// Known pods are called with mTLS wherever their addresses are: outside of the Node's ranges, and without any range at all.
// Public ones are, too, through their Service, and directly once the root names their range; until then the Mesh is told.
func TestPodsOutsideOfKnownRanges(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
	w.Apply(strays)
	client := w.Pod("client")
	call := func(server string, addresses ...string) {
		t.Helper()
		pod := w.Pod(server)
		for _, p := range []echo.Protocol{echo.HTTP1, echo.TCP} {
			for _, a := range addresses {
				counted, secured := pod.Count(), pod.Stat(handshakes)
				number := port(p)
				if p == echo.HTTP1 && netip.MustParseAddr(a) != netip.MustParseAddr(serviceOf(server)) {
					number = 8080
				}
				r := client.MustCall(p, echo.Request{Address: netip.AddrPortFrom(netip.MustParseAddr(a), uint16(number)).String()})
				if r.Name != server || pod.Count() != counted+1 || pod.Stat(handshakes) == secured {
					t.Errorf("%s to %s: answered by %s, %d counted, %d handshakes", p, a, r.Name, pod.Count()-counted, pod.Stat(handshakes)-secured)
				}
				client.ForgetAndRestartProxy() // the next is a first call, on a connection of its own
			}
		}
	}
	w.Run("outside of the Node's ranges", func(t *testing.T) { call("stray", "10.96.0.7", "172.30.0.7", "fd30::7") })
	w.Run("no ranges at all", func(t *testing.T) {
		w.Apply("apiVersion: v1\nkind: Node\nmetadata: {name: node}\n")
		w.Delete("ServiceCIDR", "kubernetes")
		call("stray", "10.96.0.7", "172.30.0.7")
		call("reviews-v1", w.Pod("reviews-v1").IP4().String())
	})
	w.Run("public", func(t *testing.T) {
		const told = "AddressOutsideRanges : pod public has the public address 203.0.113.7"
		if problems := strings.Join(w.Problems("shop/mesh"), "\n"); !strings.Contains(problems, told) {
			t.Errorf("the Mesh is told %q", problems)
		}
		call("public", "10.96.0.8")
		w.Apply(rootWithRanges)
		if problems := w.Problems("shop/mesh"); len(problems) > 0 {
			t.Errorf("with the range named, the Mesh is told %q", problems)
		}
		call("public", "10.96.0.8", "203.0.113.7", "2001:db8::7")
	})
}

func serviceOf(server string) string {
	return map[string]string{"stray": "10.96.0.7", "public": "10.96.0.8", "reviews-v1": "10.96.0.5"}[server]
}

// A database on a private address is asked about once for each proxy and works, also where pods are; a public address is
// never asked about.
func TestPrivateAddressesAreAskedAboutAndPublicOnesNot(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
	client := w.Pod("client")
	args := []string{"serve", "-http=80", "-tcp=9000", "-greeting=9001"}
	for _, h := range []struct {
		name, address string
		asked         bool
	}{
		{"database", "172.20.0.9", true},
		{"cgnat", "100.64.0.9", true},
		{"unique-local", "fd99::9", true},
		{"among-pods", "10.244.99.99", true},
		{"public", "198.51.100.9", false},
		{"public6", "2001:db8::9", false},
	} {
		w.Run(h.name, func(t *testing.T) {
			host := w.AddHost(h.name, args, netip.MustParseAddr(h.address))
			asked, answered := w.Asked(), w.Answered()
			const calls = 5
			for _, p := range echo.Protocols() {
				for range calls {
					client.MustCall(p, echo.Request{Address: netip.AddrPortFrom(netip.MustParseAddr(h.address), uint16(port(p))).String()})
				}
			}
			if n := host.Count(); n != calls*len(echo.Protocols()) {
				t.Errorf("the host counted %d, %d were sent", n, calls*len(echo.Protocols()))
			}
			// One name for HTTP and two for TCP, on a port each.
			want := map[bool]int{true: 3}[h.asked]
			if a, b := w.Asked()-asked, w.Answered()-answered; a != want || b != want {
				t.Errorf("%d asked, %d answered, want %d", a, b, want)
			}
		})
	}
}

// A pod that the control plane has not heard of yet is not called in plaintext: whoever calls its address waits for the
// news. The pod is Strict, so that a call in plaintext would fail.
func TestPodYoungerThanTheNews(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		client, pod := w.Pod("client"), w.Pod("reviews-v1")
		for _, p := range []echo.Protocol{echo.HTTP1, echo.HTTP2, echo.GRPC, echo.WebSocket, echo.TCP} {
			w.Run(string(p), func(t *testing.T) {
				client.ForgetAndRestartProxy()
				w.Forget("Pod", "shop/reviews-v1")
				counted, secured, asked := pod.Count(), pod.Stat(handshakes), w.Asked()
				address := fmt.Sprintf("%s:%d", pod.IP4(), map[bool]int{true: 9000, false: 8080}[p == echo.TCP])
				done := make(chan error, 1)
				go func() {
					r, err := client.Call(p, echo.Request{Address: address, Body: "ping"})
					if err == nil && r.Answer == nil {
						err = fmt.Errorf("status %d %q from no backend", r.Status, r.Text)
					}
					done <- err
				}()
				waitFor(t, "the proxy asks", func() bool { return w.Asked() > asked })
				w.Remember("Pod", "shop/reviews-v1")
				if err := <-done; err != nil {
					t.Error(err)
				}
				if pod.Count() != counted+1 || pod.Stat(handshakes) == secured {
					t.Errorf("the pod counted %d calls and %d handshakes, want one call with mTLS", pod.Count()-counted, pod.Stat(handshakes)-secured)
				}
			})
		}
	})
}

// An address that was passed through is a meshed pod's later: it is called with mTLS from then on, and also after the pod is
// gone, until somebody else is known to have the address.
func TestAddressBecomesAPods(t *testing.T) {
	w := envoy.Start(t, "testdata/modes.yaml") // Permissive: plaintext would be let in, and seen
	client, pod := w.Pod("to-meshed"), w.Pod("shop/meshed")
	calls := []struct {
		protocol echo.Protocol
		address  string
	}{{echo.HTTP1, pod.IP4().String() + ":80"}, {echo.TCP, pod.IP4().String() + ":9000"}}
	// A connection may be one that is kept from the call before, so it is those without a handshake that count.
	plain := func() int64 { return pod.Stat(`^listener\.inbound\.downstream_cx_total$`) - pod.Stat(handshakes) }
	check := func(when string, secure bool) {
		t.Helper()
		for _, c := range calls {
			counted, before := pod.Count(), plain()
			client.MustCall(c.protocol, echo.Request{Address: c.address})
			if got := plain() - before; pod.Count() != counted+1 || (got == 0) != secure {
				t.Errorf("%s, %s: %d counted, %d connections without mTLS, want it: %v", when, c.protocol, pod.Count()-counted, got, secure)
			}
		}
	}
	w.Forget("Pod", "shop/meshed")
	check("not known", false)
	w.Remember("Pod", "shop/meshed")
	check("known", true)
	w.Forget("Pod", "shop/meshed")
	check("gone", true)
	w.Remember("Pod", "shop/meshed")
	check("known again", true)
}

// Nobody is at the cluster IP of a Service that is gone, with ranges and without.
func TestServiceGoneWithoutRanges(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
	w.Apply("apiVersion: v1\nkind: Node\nmetadata: {name: node}\n")
	w.Delete("ServiceCIDR", "kubernetes")
	w.Apply(services(2))
	client := w.Pod("client")
	host := w.AddHost("at-the-address", []string{"serve", "-http=80"}, netip.MustParseAddr(serviceIP(0)))
	client.MustCall(echo.HTTP1, echo.Request{Address: serviceIP(0) + ":80"})
	w.Delete("Service", "shop/s0")
	for _, fresh := range []bool{false, true} { // who knows the Service, and who never heard of it
		if fresh {
			client.ForgetAndRestartProxy()
		}
		for range 3 {
			if r := client.Get("http://" + serviceIP(0) + ":80/"); r.Status != 503 {
				t.Errorf("fresh proxy: %v: status %d from %+v, want 503", fresh, r.Status, r.Answer)
			}
		}
	}
	if n := host.Count(); n != 0 {
		t.Errorf("whoever listens there got %d requests", n)
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

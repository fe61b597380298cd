package envoy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// outside is a host that is not in the cluster, and how a proxy has to treat it.
type outside struct {
	*envoy.Pod
	addresses []netip.Addr
	private   bool
}

// outsides puts a host with public addresses and one with private ones onto the fabric.
func outsides(w *envoy.World) []outside {
	var hosts []outside
	for _, h := range []struct {
		name      string
		private   bool
		addresses []netip.Addr
	}{
		{"public", false, []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")}},
		{"private", true, []netip.Addr{netip.MustParseAddr("192.168.9.9"), netip.MustParseAddr("fd99::9")}},
	} {
		pod := w.AddHost(h.name, []string{"serve", "-http=80", "-tcp=9000", "-greeting=9001"}, h.addresses...)
		hosts = append(hosts, outside{pod, h.addresses, h.private})
	}
	return hosts
}

// What is not in the cluster is reached as if there were no mesh, from the first request on: public addresses without a
// question to the control plane, private ones after its answer. Those hosts speak plaintext only, and hear nothing of what
// the proxies tell each other.
func TestOutsideAddresses(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		hosts, client := outsides(w), w.Pod("client")
		for _, p := range echo.Protocols() {
			client.ForgetAndRestartProxy()
			for _, h := range hosts {
				for _, a := range h.addresses {
					address := netip.AddrPortFrom(a, uint16(port(p))).String()
					w.Run(fmt.Sprintf("%s %s", p, address), func(t *testing.T) { callOutside(t, client, h, p, address) })
				}
			}
		}
		w.Run("public addresses without a control plane", func(t *testing.T) {
			client.ForgetAndRestartProxy()
			w.StopControlPlane()
			for _, p := range echo.Protocols() {
				for _, a := range hosts[0].addresses {
					client.MustCall(p, echo.Request{Address: netip.AddrPortFrom(a, uint16(port(p))).String()})
				}
			}
		})
	})
}

// callOutside calls a host of which the proxy knows nothing yet.
func callOutside(t *testing.T, client *envoy.Pod, h outside, p echo.Protocol, address string) {
	const calls = 3
	if known(client, address) {
		t.Fatalf("the fresh proxy knows %s already:\n%s", address, client.ConfigDump())
	}
	way := wayOut(h, p)
	counted, passed, sent := h.Count(), client.Stat(way), client.Stat(anyWay)
	for i := range calls {
		request := echo.Request{Address: address, Body: "ping"}
		if h.private { // the egress chain passes bytes on: what an app writes there is its own affair
			request.Header = forged()
		}
		r := client.MustCall(p, request)
		if r.Protocol != p || p != echo.Greeting && r.Body != "ping" {
			t.Errorf("request %d arrived as %+v", i, r.Answer)
		}
		for name := range r.Headers {
			if strings.HasPrefix(strings.ToLower(name), "x-tulle-") {
				t.Errorf("request %d: the host sees %s: %v", i, name, r.Headers)
			}
		}
	}
	if n := h.Count() - counted; n != calls {
		t.Errorf("the host counted %d requests, %d were sent", n, calls)
	}
	if n := client.Stat(way) - passed; n != calls {
		t.Errorf("%s counted %d, %d were sent", way, n, calls)
	}
	if n := client.Stat(anyWay) - sent; n != calls {
		t.Errorf("the proxy counted %d on all ways out, %d were sent: %v", n, calls, client.Stats(anyWay))
	}
	if known(client, address) != h.private {
		t.Errorf("the proxy asked about %s: %v, want %v", address, !h.private, h.private)
	}
}

// forged are the headers that the proxies use among themselves, as an app might send them.
func forged() map[string]string {
	header := map[string]string{}
	for _, name := range envoy.InternalHeaders() {
		header[name] = "forged"
	}
	return header
}

// known reports whether the proxy has a cluster, or anything else, of the name that an address is asked about by.
func known(client *envoy.Pod, address string) bool {
	return strings.Contains(client.ConfigDump(), "|"+address)
}

// anyWay matches what counts requests and connections on all ways out of a pod.
const anyWay = `^(tcp\.(egress|outbound|silent)\.downstream_cx_total|http\.(outbound|reroute|silent)\.downstream_rq_total)$`

// wayOut returns the expression of the statistic that counts calls of a host.
func wayOut(h outside, p echo.Protocol) string {
	switch {
	case !h.private:
		return `^tcp\.egress\.downstream_cx_total$`
	case p == echo.TCP || p == echo.Greeting:
		return `^tcp\.outbound\.downstream_cx_total$`
	}
	return `^http\.outbound\.downstream_rq_total$`
}

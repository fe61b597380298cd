package envoy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Under Strict nothing but mTLS gets in: the bytes of a plaintext client never reach the app.
func TestStrictRefusesPlaintext(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		stranger, backend := w.Pod("stranger"), w.Pod("reviews-v1")
		for _, p := range echo.Protocols() {
			address := netip.AddrPortFrom(backend.IP4(), targetPort(p)).String()
			if r, err := stranger.Call(p, echo.Request{Address: address, Body: "ping"}); err == nil {
				t.Errorf("%s in plaintext is answered: %+v", p, r)
			}
		}
		if n := backend.Connections(); n != 0 {
			t.Errorf("the backend saw %d connections", n)
		}
		// The same backend answers the mesh.
		w.Pod("client").MustCall(echo.HTTP1, echo.Request{Address: netip.AddrPortFrom(backend.IP4(), 8080).String()})
		if n := backend.Count(); n != 1 {
			t.Errorf("the backend got %d requests, not the 1 of the mesh", n)
		}
	})
}

// targetPort is the pods' port of a protocol in testdata/basic.yaml.
func targetPort(p echo.Protocol) uint16 {
	if port := port(p); port != 80 {
		return uint16(port)
	}
	return 8080
}

// What an app writes into the headers that the proxies use among themselves has no effect, and reaches nobody.
func TestInternalHeadersOfAppsHaveNoEffect(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		client := w.Pod("client")
		for _, rules := range []bool{false, true} {
			if rules {
				w.Apply(reviewsRules)
			}
			for _, p := range []echo.Protocol{echo.HTTP1, echo.HTTP2, echo.GRPC, echo.WebSocket} {
				for _, value := range []string{"http|10.96.0.99:80", "passthrough", "1", ""} {
					header := map[string]string{"end-user": "jason"}
					for _, h := range envoy.InternalHeaders() {
						header[h] = value
					}
					for range 2 { // the first may loop
						r := client.MustCall(p, echo.Request{Address: "10.96.0.5:80", Header: header})
						for name := range r.Headers {
							for _, h := range envoy.InternalHeaders() {
								if strings.EqualFold(name, h) {
									t.Errorf("%s: the backend sees %s: %v", p, name, r.Headers)
								}
							}
						}
						if rules && r.Version != "v2" {
							t.Errorf("%s: went to %s", p, r.Version)
						}
					}
				}
			}
		}
	})
}

// A server whose certificate is not for one of the Service's accounts is not spoken to.
func TestWrongServerIdentityIsRefused(t *testing.T) {
	testWrongIdentity(t, "client", `^cluster\..*10\.96\.0\.5.*\.ssl\.fail_verify_san$`, map[string]string{
		"reviews-v1": "spiffe://cluster.local/ns/shop/sa/intruder",
		"reviews-v2": "spiffe://cluster.local/ns/shop/sa/intruder",
	})
}

// A client of another trust domain is refused by the server's proxy.
func TestWrongClientIdentityIsRefused(t *testing.T) {
	// One server, so that it is known who refuses.
	testWrongIdentity(t, "reviews-v1", `^listener\.inbound\.ssl\.fail_verify_san$`, map[string]string{
		"client": "spiffe://elsewhere.example/ns/shop/sa/client",
	})
}

// testWrongIdentity lets the client call reviews while some pods are who they should be, while they have other identities, and when they
// are themselves again. In between nothing is answered, and it is the verification of names by the proxy of a pod, verifier, that refuses.
func testWrongIdentity(t *testing.T, verifier, refusals string, wrong map[string]string) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.MoreStats("cluster."))
		if verifier == "reviews-v1" {
			w.Delete("Pod", "shop/reviews-v2")
		}
		for _, p := range echo.Protocols() {
			w.Pod("client").MustCall(p, reviewsOver(p))
		}
		reviews := w.Pod("reviews-v1")
		counted := reviews.Count()
		if n := w.Pod(verifier).Stat(refusals); n != 0 {
			t.Fatalf("%d certificates were refused before any was wrong", n)
		}

		for pod, identity := range wrong {
			w.Pretend(pod, identity)
			w.Pod(pod).RestartProxy()
		}
		for _, p := range echo.Protocols() {
			before := w.Pod(verifier).Stat(refusals)
			r, err := w.Pod("client").Call(p, reviewsOver(p))
			if reason := notRefused(p, r, err); reason != "" {
				t.Errorf("%s: %s", p, reason)
			}
			if w.Pod(verifier).Stat(refusals) == before {
				t.Errorf("%s: the proxy of %s refused no certificate for its name: %+v %v", p, verifier, r, err)
			}
		}
		if n := reviews.Count() - counted; n != 0 {
			t.Errorf("the backend got %d requests", n)
		}

		// Nothing but the identity was wrong.
		for pod := range wrong {
			account, _, _ := strings.Cut(pod, "-")
			w.Pretend(pod, "spiffe://cluster.local/ns/shop/sa/"+account)
			w.Pod(pod).RestartProxy()
		}
		for _, p := range echo.Protocols() {
			w.Pod("client").MustCall(p, reviewsOver(p))
		}
	})
}

func reviewsOver(p echo.Protocol) echo.Request {
	return echo.Request{Address: fmt.Sprintf("10.96.0.5:%d", port(p)), Body: "ping"}
}

// notRefused says what is wrong with the end of a call that a proxy has to refuse: with 503, or gRPC's word for it, or the end of
// the connection; and at once.
func notRefused(p echo.Protocol, r *echo.Response, err error) string {
	var timeout net.Error
	switch {
	case err == nil && r.Answer != nil:
		return "answered by " + r.Name
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no refusal but silence: " + err.Error()
	}
	refused := err != nil
	switch p {
	case echo.HTTP1, echo.HTTP2:
		refused = err == nil && r.Status == http.StatusServiceUnavailable
	case echo.GRPC, echo.GRPCStream:
		refused = status.Code(err) == codes.Unavailable
	case echo.WebSocket:
		refused = err != nil && strings.Contains(err.Error(), "503")
	}
	if !refused {
		return fmt.Sprintf("not refused as it should be: %+v %v", r, err)
	}
	return ""
}

// A client of a Strict service never opens a connection to an endpoint that has no proxy, and does not even know it.
func TestEndpointWithoutProxyGetsNoPlaintext(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: reviews-bare, namespace: shop, labels: {app: reviews, version: v1, mesh.tulle.dev/inject: "false"}}
spec:
  serviceAccountName: reviews
  containers: [{name: app, args: [serve, -http=8080, -tcp=9000, -greeting=9001]}]
`)
		bare, client := w.Pod("reviews-bare"), w.Pod("client")
		if bare.Meshed() {
			t.Fatal("the pod that opted out has a proxy")
		}
		for _, p := range echo.Protocols() {
			for _, service := range []string{"10.96.0.5", "fd00:96::5"} {
				for range 5 {
					client.MustCall(p, echo.Request{Address: net.JoinHostPort(service, strconv.Itoa(port(p)))})
				}
			}
			// By the pod's own address, too.
			for _, ip := range []netip.Addr{bare.IP4(), bare.IP6()} {
				r, err := client.Call(p, echo.Request{Address: netip.AddrPortFrom(ip, targetPort(p)).String()})
				if reason := notRefused(p, r, err); reason != "" {
					t.Errorf("%s to the pod's address: %s", p, reason)
				}
			}
		}
		known := endpoints(t, client)
		for _, pod := range []*envoy.Pod{w.Pod("reviews-v1"), w.Pod("reviews-v2")} {
			if !known[pod.IP4().String()] {
				t.Errorf("the client does not know %s: %v", pod.IP4(), known)
			}
		}
		if known[bare.IP4().String()] || known[bare.IP6().String()] {
			t.Errorf("the client knows the endpoint without a proxy, %s or %s: %v", bare.IP4(), bare.IP6(), known)
		}
		if n := bare.Connections(); n != 0 {
			t.Errorf("the endpoint without a proxy saw %d connections", n)
		}

		// It would have answered, and the connection would have been seen.
		for i, p := range echo.Protocols() {
			w.Pod("stranger").MustCall(p, echo.Request{Address: netip.AddrPortFrom(bare.IP4(), targetPort(p)).String()})
			if n := bare.Connections(); n != i+1 {
				t.Errorf("the endpoint without a proxy saw %d connections, not the %d of the stranger", n, i+1)
			}
		}
	})
}

// endpoints returns the IP addresses that the clusters of a pod's Envoy have as hosts.
func endpoints(t *testing.T, p *envoy.Pod) map[string]bool {
	t.Helper()
	var clusters struct {
		Statuses []struct {
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
					} `json:"socket_address"`
				} `json:"address"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal([]byte(p.Admin(http.MethodGet, "/clusters?format=json")), &clusters); err != nil {
		t.Fatal(err)
	}
	addresses := map[string]bool{}
	for _, c := range clusters.Statuses {
		for _, h := range c.Hosts {
			addresses[h.Address.Socket.Address] = true
		}
	}
	return addresses
}

// Requests and connections to a Service address that nobody has end at once; they do not hang.
func TestUnknownServiceAddressIsRefusedAtOnce(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		client := w.Pod("client")
		began := time.Now()
		if r := client.Get("http://10.96.0.200:80/"); r.Status != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503: nobody has that address", r.Status)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, "10.96.0.200:9000")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintln(c, "echo this")
		if text, err := io.ReadAll(c); err == nil && len(text) > 0 {
			t.Errorf("heard %q", text)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("took %s: the on-demand timeout, not an answer", took)
		}
	})
}

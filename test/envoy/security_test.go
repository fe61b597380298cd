package envoy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Under Strict nothing but mTLS gets in: the bytes of a plaintext client never reach the app.
func TestStrictRefusesPlaintext(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
	stranger, backend := w.Pod("stranger"), w.Pod("reviews-v1")
	for _, p := range echo.Protocols() {
		address := fmt.Sprintf("%s:%d", backend.IP4(), map[int]int{80: 8080, 9000: 9000, 9001: 9001}[port(p)])
		if r, err := stranger.Call(p, echo.Request{Address: address, Body: "ping"}); err == nil {
			t.Errorf("%s in plaintext is answered: %+v", p, r)
		}
	}
	if n := backend.Count(); n != 0 {
		t.Errorf("the backend got %d requests", n)
	}
	// The same backend answers the mesh.
	w.Pod("client").MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
}

// What an app writes into the headers that the proxies use among themselves has no effect, and reaches nobody.
func TestInternalHeadersOfAppsHaveNoEffect(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
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
}

// A server whose certificate is not for one of the Service's accounts is not spoken to.
func TestWrongServerIdentityIsRefused(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
	for _, pod := range []string{"reviews-v1", "reviews-v2"} {
		w.Pretend(pod, "spiffe://cluster.local/ns/shop/sa/intruder")
		w.Pod(pod).RestartProxy()
	}
	for _, p := range echo.Protocols() {
		r, err := w.Pod("client").Call(p, echo.Request{Address: fmt.Sprintf("10.96.0.5:%d", port(p))})
		if err == nil && r.Answer != nil {
			t.Errorf("%s is answered by %s", p, r.Name)
		}
	}
	if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count(); n != 0 {
		t.Errorf("the backends got %d requests", n)
	}
}

// A client of another trust domain is refused by the server's proxy.
func TestWrongClientIdentityIsRefused(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
	w.Pretend("client", "spiffe://elsewhere.example/ns/shop/sa/client")
	w.Pod("client").RestartProxy()
	r, err := w.Pod("client").Call(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
	if err == nil && r.Status != http.StatusServiceUnavailable {
		t.Errorf("status %d from %+v, want 503", r.Status, r.Answer)
	}
	if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count(); n != 0 {
		t.Errorf("the backends got %d requests", n)
	}
}

// A client of a Strict service never sends a byte of plaintext to an endpoint that has no proxy.
func TestEndpointWithoutProxyGetsNoPlaintext(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
	w.Apply(`
apiVersion: v1
kind: Pod
metadata: {name: reviews-bare, namespace: shop, labels: {app: reviews, version: v1, mesh.tulle.dev/inject: "false"}}
spec:
  serviceAccountName: reviews
  containers: [{name: app, args: [serve, -http=8080, -tcp=9000, -greeting=9001]}]
`)
	bare := w.Pod("reviews-bare")
	if bare.Meshed() {
		t.Fatal("the pod that opted out has a proxy")
	}
	for _, p := range echo.Protocols() {
		for range 10 {
			r := w.Pod("client").MustCall(p, echo.Request{Address: fmt.Sprintf("10.96.0.5:%d", port(p))})
			if r.Name == "reviews-bare" {
				t.Fatalf("%s went to the endpoint without a proxy", p)
			}
		}
	}
	// By the pod's own address, too.
	for _, p := range []echo.Protocol{echo.HTTP1, echo.TCP} {
		address := fmt.Sprintf("%s:%d", bare.IP4(), map[int]int{80: 8080, 9000: 9000}[port(p)])
		if r, err := w.Pod("client").Call(p, echo.Request{Address: address}); err == nil && r.Answer != nil {
			t.Errorf("%s to the pod's address is answered in plaintext: %+v", p, r.Answer)
		}
	}
	if n := bare.Count(); n != 0 {
		t.Errorf("the endpoint without a proxy got %d requests", n)
	}
}

// The bytes of a WebSocket-like raw connection to a closed port of a Strict pod end; they do not hang.
func TestUnknownServiceAddressIsRefusedAtOnce(t *testing.T) {
	w := envoy.Start(t, "testdata/basic.yaml")
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
}

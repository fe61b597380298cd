package envoy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/gorilla/websocket"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// reported waits until a proxy's report is as wanted.
func reported(t *testing.T, w *envoy.World, pod, what string, wanted func(xds.PlaintextReport) bool) xds.PlaintextReport {
	t.Helper()
	var last xds.PlaintextReport
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = w.Plaintext(pod); wanted(last) {
			return last
		}
	}
	t.Fatalf("not reported within 20 s: %s; but %+v", what, last)
	return last
}

// peers lists who is in a report, as address:port, sorted.
func peers(r xds.PlaintextReport) []string {
	var list []string
	for _, p := range r.Peers {
		list = append(list, fmt.Sprintf("%s:%d", p.Address, p.Port))
	}
	slices.Sort(list)
	return list
}

// Under Permissive, who calls in plaintext is reported by address and port, over each protocol and both families; who calls by mTLS, and
// the kubelet's probes at the proxy's own ports, never are.
func TestPlaintextPeersAreReported(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/modes.yaml", envoy.On(v), envoy.WithView(envoy.Hurried))
		stranger, server := w.Pod("stranger"), w.Pod("meshed")
		for _, p := range echo.Protocols() {
			for range 3 {
				w.Pod("to-meshed").MustCall(p, echo.Request{Address: fmt.Sprintf("10.96.0.5:%d", port(p))})
			}
		}
		var want []string
		for _, p := range echo.Protocols() {
			r := stranger.MustCall(p, echo.Request{Address: fmt.Sprintf("%s:%d", server.IP4(), port(p)), Header: map[string]string{"x-tulle-repeated": "1"}})
			for name := range r.Headers {
				if name == "X-Tulle-Repeated" || name == "x-tulle-repeated" {
					t.Errorf("%s: the app sees %s: %v", p, name, r.Headers)
				}
			}
			if peer := fmt.Sprintf("%s:%d", stranger.IP4(), port(p)); !slices.Contains(want, peer) {
				want = append(want, peer)
			}
		}
		slices.Sort(want)
		// The stranger's last call took as long as the proxy waits for TLS, and each worker has sent since what else there was: nothing of mTLS,
		// nothing of the probes of the proxy's own ports.
		calls := len(echo.Protocols())
		report := reported(t, w, "meshed", "all that the stranger called, and nobody else", func(r xds.PlaintextReport) bool {
			sum := 0
			for _, p := range r.Peers {
				sum += p.Reports
			}
			return slices.Equal(peers(r), want) && sum >= calls
		})
		if report.Count != len(want) || report.Proxy.Namespace != "shop" {
			t.Errorf("got %+v, want %d peers of a proxy of shop", report, len(want))
		}
		if open := w.Encryption("meshed"); !open.Listening || !slices.Contains(open.PlaintextPorts, 80) || len(server.OpenChains()) == 0 {
			t.Errorf("Permissive: %+v acknowledged, Envoy has the open chains %v", open, server.OpenChains())
		}
	})
}

// What lasts is reported while it does: at once for TCP and the app's own TLS, after an interval for a WebSocket, even when it is not the
// first request of its connection.
func TestLastingPlaintextIsReportedWhileItLasts(t *testing.T) {
	w := envoy.Start(t, "testdata/modes.yaml", envoy.WithView(envoy.Hurried))
	stranger, server := w.Pod("stranger"), w.Pod("meshed")
	address := fmt.Sprintf("%s:9000", server.IP4())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := stranger.Dial(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		t.Fatal(err)
	}
	count := func(port uint16) func(xds.PlaintextReport) int {
		return func(r xds.PlaintextReport) int {
			for _, p := range r.Peers {
				if p.Port == port {
					return p.Reports
				}
			}
			return 0
		}
	}
	tcp := count(9000)
	reported(t, w, "meshed", "the open connection, again and again", func(r xds.PlaintextReport) bool { return tcp(r) >= 3 })

	socket := lateWebSocket(ctx, t, stranger, fmt.Sprintf("%s:80", server.IP4()))
	defer socket.Close()
	webSocket := count(80)
	reported(t, w, "meshed", "the WebSocket, again and again", func(r xds.PlaintextReport) bool { return webSocket(r) >= 4 })

	secured, err := stranger.Dial(ctx, fmt.Sprintf("%s:9001", server.IP4()))
	if err != nil {
		t.Fatal(err)
	}
	defer secured.Close()
	go handshake(ctx, secured)
	greeting := count(9001)
	reported(t, w, "meshed", "TLS that is not the mesh's", func(r xds.PlaintextReport) bool { return greeting(r) >= 1 })
}

// lateWebSocket opens a WebSocket on a connection that has carried a request already.
func lateWebSocket(ctx context.Context, t *testing.T, from *envoy.Pod, address string) *websocket.Conn {
	t.Helper()
	c, err := from.Dial(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", address); err != nil {
		t.Fatal(err)
	}
	first, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, first.Body); err != nil {
		t.Fatal(err)
	}
	dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	socket, upgraded, err := dialer.DialContext(ctx, "ws://"+address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	upgraded.Body.Close()
	return socket
}

// handshake begins TLS as an app would, without a certificate of the mesh.
func handshake(ctx context.Context, c net.Conn) {
	// The server speaks no TLS; that the client wanted to is what matters.
	_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // nobody is trusted here
}

// However often somebody connects, it is one peer, in a message a worker and interval; however many requests a connection carries,
// it is one report. These are the product's own intervals.
func TestPlaintextReportsAreFew(t *testing.T) {
	w := envoy.Start(t, "testdata/modes.yaml")
	stranger, server := w.Pod("stranger"), w.Pod("meshed")
	address := fmt.Sprintf("%s:80", server.IP4())
	began := time.Now()

	const requests, connections = 300, 100
	kept := stranger.Client(true)
	for range requests {
		if _, err := kept.Call(t.Context(), echo.HTTP1, echo.Request{Address: address}); err != nil {
			t.Fatal(err)
		}
	}
	for range connections {
		stranger.MustCall(echo.HTTP1, echo.Request{Address: address})
	}
	r := reported(t, w, "meshed", "every connection", func(r xds.PlaintextReport) bool {
		return len(r.Peers) == 1 && r.Peers[0].Reports >= connections+1
	})
	if r.Count != 1 {
		t.Errorf("%d peers, want one: %+v", r.Count, r)
	}
	if most := connections + 1 + int(time.Since(began)/(30*time.Second)); r.Peers[0].Reports > most {
		t.Errorf("%d reports of %d connections, one with %d requests: want at most %d", r.Peers[0].Reports, connections+1, requests, most)
	}
	const workers, flush = 2, 5 * time.Second
	messages, intervals := w.PlaintextMessages(), 1+int(time.Since(began)/flush)
	if messages > workers*intervals {
		t.Errorf("%d messages of %d connections, want at most %d: one a worker and interval", messages, connections+1, workers*intervals)
	}
	t.Logf("%d connections with %d requests: %d reports in %d messages within %s", connections+1, requests+connections, r.Peers[0].Reports, messages, time.Since(began).Round(time.Millisecond))
}

// A control plane that is away costs traffic nothing, and the proxies no more than a buffer; when it is back, so are the reports.
func TestPlaintextWithoutControlPlane(t *testing.T) {
	w := envoy.Start(t, "testdata/modes.yaml", envoy.WithView(envoy.Hurried))
	stranger, server := w.Pod("stranger"), w.Pod("meshed")
	call := envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: fmt.Sprintf("%s:80", server.IP4())}}
	seen := func(r xds.PlaintextReport) bool { return r.Count == 1 }
	stranger.MustCall(call.Protocol, call.Request)
	reported(t, w, "meshed", "the stranger", seen)

	w.StopControlPlane()
	const connections = 1500
	before := server.Count()
	report := stranger.Repeat(connections, 8, call)
	if report.Failed() > 0 || server.Count()-before != connections {
		t.Errorf("the backend counted %d of %d: %s", server.Count()-before, connections, report)
	}
	t.Logf("%d connections without a control plane: %s", connections, report)

	w.StartControlPlane()
	stranger.MustCall(call.Protocol, call.Request)
	reported(t, w, "meshed", "the stranger, to the new control plane", seen)
}

// Under Strict the proxy has acknowledged, and works with, a listener without any chain for plaintext; with one Permissive port, that
// one alone is open.
func TestStrictHasNoPlaintextChain(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		for _, pod := range []string{"reviews-v1", "client"} {
			e := w.Encryption(pod)
			if !e.Listening || len(e.PlaintextPorts) > 0 || time.Until(e.CertificateExpires) < time.Minute {
				t.Errorf("%s acknowledged %+v, want no plaintext and a certificate that is valid", pod, e)
			}
			if open := w.Pod(pod).OpenChains(); len(open) > 0 {
				t.Errorf("the Envoy of %s has chains without TLS: %v", pod, open)
			}
		}
		w.Apply(`
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: Strict, ports: [{port: 9000, mode: Permissive}]}
`)
		if e := w.Encryption("reviews-v1"); !slices.Equal(e.PlaintextPorts, []uint16{9000}) {
			t.Errorf("acknowledged %+v, want port 9000 open", e)
		}
		if open := w.Pod("reviews-v1").OpenChains(); !slices.Equal(open, []string{"9000/tls", "9000/tcp"}) {
			t.Errorf("Envoy has the open chains %v", open)
		}
	})
}

// brokenSecrets makes the secret "peers" one that Envoy can't use, from the moment it is broken.
type brokenSecrets struct{ turning }

// wrap is an envoy.ViewWrapper. A view is immutable: it is broken, or is not, for good.
func (b *brokenSecrets) wrap(t *testing.T) envoy.ViewWrapper {
	return func(v resource.View) resource.View {
		broken := b.hasTurned()
		return &changedView{v, func(r *resource.Resource, ref resource.ScopedRef) *resource.Resource {
			if r.Type != resource.Secret || r.Name != "peers" {
				return r
			}
			b.note(ref)
			if !broken {
				return r
			}
			bad, err := resource.Seal(r.Ref, &tlsv3.Secret{Name: r.Name, Type: &tlsv3.Secret_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: &corev3.DataSource{
					Specifier: &corev3.DataSource_InlineString{InlineString: "no certificate"},
				}},
			}}, resource.Resource{Origins: r.Origins})
			if err != nil {
				t.Error(err)
				return r
			}
			return bad
		}}
	}
}

// breakNow returns what has to be published again.
func (b *brokenSecrets) breakNow() []resource.ScopedRef { return b.turn() }

// SDS that is broken under Strict is told of, and opens nothing: what worked goes on by mTLS, plaintext stays out.
func TestBrokenSecretsOpenNothing(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		b := &brokenSecrets{}
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.WithView(b.wrap(t)))
		client, server := w.Pod("client"), w.Pod("reviews-v1")
		load := client.StartLoad(2, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}})
		w.Republish(b.breakNow()...)
		deadline := time.Now().Add(20 * time.Second)
		for len(w.Rejections("reviews-v1")) == 0 && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		rejections := w.Rejections("reviews-v1")
		if len(rejections) != 1 || rejections[0].Ref != (resource.Ref{Type: resource.Secret, Name: "peers"}) || rejections[0].Message == "" {
			t.Fatalf("rejections %+v, want the secret peers in Envoy's words", rejections)
		}
		handshakes := server.Stat(`^listener\.inbound\.ssl\.handshake$`)
		for range 20 {
			client.MustCall(echo.TCP, echo.Request{Address: "10.96.0.5:9000"})
		}
		if report := load.Stop(); report.Failed() > 0 || report.Sent == 0 {
			t.Error(report)
		}
		if server.Stat(`^listener\.inbound\.ssl\.handshake$`) == handshakes && w.Pod("reviews-v2").Stat(`^listener\.inbound\.ssl\.handshake$`) == 0 {
			t.Error("no connection was made by mTLS after the secret was broken")
		}
		before := server.Count()
		if r, err := w.Pod("stranger").Call(echo.HTTP1, echo.Request{Address: fmt.Sprintf("%s:8080", server.IP4())}); err == nil {
			t.Errorf("plaintext is answered: %+v", r)
		}
		if n := server.Count() - before; n != 0 {
			t.Errorf("%d plaintext requests reached the app", n)
		}
		if open := server.OpenChains(); len(open) > 0 {
			t.Errorf("Envoy has chains without TLS: %v", open)
		}
	})
}

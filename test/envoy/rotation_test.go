package envoy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Certificates are replaced, on both sides, several times under load: no request fails, neither on kept connections nor on new
// ones, and the server's proxy sees the new certificates. At the end, those of the beginning have long expired.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	t.Parallel()
	const lifetime, duration, wantSerials = 9 * time.Second, 20 * time.Second, 3
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.WithCertificateLifetime(lifetime))
		w.Apply(meshThatLogsAll)
		client := w.Pod("client")
		var loads []*envoy.Load
		for _, c := range []envoy.Call{
			{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}, KeepAlive: true},
			{Protocol: echo.HTTP2, Request: echo.Request{Address: "10.96.0.5:80", Method: "POST", Body: "x"}, KeepAlive: true},
			{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}},
			// Each TCP connection is one between the proxies, too, with a handshake of its own.
			{Protocol: echo.TCP, Request: echo.Request{Address: "10.96.0.5:9000"}},
		} {
			loads = append(loads, client.StartLoad(1, c))
		}
		<-time.After(duration)
		sent := 0
		for _, l := range loads {
			report := l.Stop()
			if report.Failed() > 0 {
				t.Error(report)
			}
			sent += report.Sent
		}
		if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count(); n != sent {
			t.Errorf("the backends counted %d requests, %d were sent", n, sent)
		}
		for _, name := range []string{"reviews-v1", "reviews-v2"} {
			serials := peerSerials(t, w.Pod(name).AccessLog(), "spiffe://cluster.local/ns/shop/sa/client")
			if len(serials) < wantSerials {
				t.Errorf("%s saw %d certificates of the client in %s, want at least %d: %v", name, len(serials), duration, wantSerials, serials)
			}
		}
	})
}

// peerSerials counts the connections and requests in an access log by the serial number of a peer's certificate.
func peerSerials(t *testing.T, log, peer string) map[string]int {
	t.Helper()
	serials := map[string]int{}
	for line := range strings.Lines(log) {
		if !strings.HasSuffix(line, "\n") {
			break // Envoy is still writing it
		}
		var entry struct {
			Peer   string `json:"peer"`
			Serial string `json:"peer_serial"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("access log: %v: %s", err, line)
		}
		if entry.Peer != peer || entry.Serial == "" {
			t.Fatalf("access log: peer %q with serial %q, want %s", entry.Peer, entry.Serial, peer)
		}
		serials[entry.Serial]++
	}
	return serials
}

const meshThatLogsAll = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: Strict}
  observability: {accessLog: {mode: All}}
`

package envoy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// prometheusID is who the Prometheus of testdata/scrape.yaml is, by its certificate.
const prometheusID = "spiffe://cluster.local/ns/monitoring/sa/prometheus"

// scrapedPorts are the ports of the pod web: of which it is said that they speak HTTP, of which nothing is said, and of which it is said that they speak
// something else. What is not said to be HTTP is passed on, and counted, as connections.
const scrapedPorts = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.5
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-other, port: 9090}]
`

// Under Strict, a Prometheus outside of the mesh scrapes the app's own ports by TLS with a certificate that the mesh's issuer gave it, and is counted as who
// that certificate says.
func TestPrometheusWithACertificate(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/scrape.yaml", envoy.On(v))
		w.Apply(scrapedPorts)
		web, certificate := w.Pod("web"), w.IssuedCertificate(prometheusID)
		sent, asTCP := 0, 0
		for port, http := range map[int]bool{8080: true, 9090: false, 9091: false} {
			for _, protocols := range [][]string{{"h2", "http/1.1"}, {"http/1.1"}, nil, {"something"}} {
				sent++
				if !http {
					asTCP++
				}
				answer, err := scrape(t, w.Pod("prometheus"), fmt.Sprintf("%s:%d", web.IP4(), port), protocols, &certificate)
				if err != nil || answer.Name != "web" || answer.Path != "/metrics" {
					t.Errorf("port %d, protocols %q: %+v, %v", port, protocols, answer, err)
				}
			}
		}
		if n := web.Count(); n != sent {
			t.Errorf("the app got %d scrapes, %d were sent", n, sent)
		}
		who := []string{"source_workload", "prometheus", "source_namespace", "monitoring", "mtls", "true", "reporter", "destination"}
		for metric, want := range map[string]int{"envoy_tulle_requests_total": sent - asTCP, "envoy_tulle_tcp_connections_opened_total": asTCP} {
			eventually(t, metric, func() bool { return int(web.Counted(metric, who...)) == want })
		}
	})
}

// Who has no certificate, or one that is not of the mesh, is refused, whatever he offers to speak, and the app hears nothing of him.
func TestScrapesWithoutACertificateOfTheMeshAreRefused(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/scrape.yaml", envoy.On(v))
		w.Apply(scrapedPorts)
		web := w.Pod("web")
		of := func(c tls.Certificate) *tls.Certificate { return &c }
		bad := map[string]*tls.Certificate{
			"none":                    nil,
			"of another root":         of(w.ForeignCertificate(prometheusID)),
			"of another trust domain": of(w.IssuedCertificate("spiffe://cluster.locally/ns/monitoring/sa/prometheus")),
			"without an identity":     of(w.IssuedCertificate("")),
			"of another scheme":       of(w.IssuedCertificate("https://cluster.local/ns/monitoring/sa/prometheus")),
		}
		for name, certificate := range bad {
			for _, port := range []int{8080, 9090, 9091} {
				for _, protocols := range [][]string{{"h2", "http/1.1"}, nil, {"tulle-http"}, {"tulle-tcp"}} {
					answer, err := scrape(t, w.Pod("prometheus"), fmt.Sprintf("%s:%d", web.IP4(), port), protocols, certificate)
					if err == nil {
						t.Errorf("a certificate %s, port %d, protocols %q: %+v", name, port, protocols, answer)
					}
				}
			}
		}
		if n := web.Connections(); n != 0 {
			t.Errorf("the app saw %d connections", n)
		}
		good := w.IssuedCertificate(prometheusID)
		if _, err := scrape(t, w.Pod("prometheus"), fmt.Sprintf("%s:9091", web.IP4()), nil, &good); err != nil {
			t.Error("the same with a certificate of the mesh:", err)
		}
	})
}

// scrape gets /metrics as a Prometheus does: it verifies the mesh's identity of the server by hand, since that is no name of a host.
func scrape(t *testing.T, from *envoy.Pod, address string, protocols []string, certificate *tls.Certificate) (*echo.Answer, error) {
	t.Helper()
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		InsecureSkipVerify: true, //nolint:gosec // as the manifest in docs/metrics.md says; who answers is looked at below
		VerifyConnection: func(s tls.ConnectionState) error {
			if id := identityOf(s.PeerCertificates[0]); id != "spiffe://cluster.local/ns/shop/sa/web" {
				return fmt.Errorf("answered by %q", id)
			}
			return nil
		},
	}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	// A transport that sees a TLS dialer's protocols goes by what was negotiated, as Prometheus's does.
	transport := &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := from.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return secured, nil
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer echo.Answer
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s: %w", response.Status, err)
	}
	return &answer, nil
}

func identityOf(c *x509.Certificate) string {
	if len(c.URIs) != 1 {
		return ""
	}
	return c.URIs[0].String()
}

// An app that speaks TLS itself: its peers in the mesh reach it end to end, in every mode; others while the port is Permissive. Under Strict the TLS of
// others ends at the proxy.
func TestAppsOwnTLS(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/scrape.yaml", envoy.On(v))
		web := w.Pod("web")
		address := serveTLS(t, w, web, "7443")
		mesh := `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec: {mtls: {mode: %s}}
`
		own, proxys := "https://app.example", "spiffe://cluster.local/ns/shop/sa/web"
		certificate := w.IssuedCertificate(prometheusID)
		for _, c := range []struct{ mode, from, answers string }{
			{"Strict", "collector", own}, {"Strict", "prometheus", proxys},
			{"Permissive", "collector", own}, {"Permissive", "prometheus", own},
			{"Disabled", "collector", own}, {"Disabled", "prometheus", own},
		} {
			w.Apply(fmt.Sprintf(mesh, c.mode))
			for _, protocols := range [][]string{nil, {"h2", "http/1.1"}} {
				conn := tls.Client(dial(t, w.Pod(c.from), address), &tls.Config{
					Certificates: []tls.Certificate{certificate}, NextProtos: protocols, MinVersion: tls.VersionTLS12,
					InsecureSkipVerify: true, //nolint:gosec // who answers is what is tested
				})
				if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if err := conn.Handshake(); err != nil {
					t.Errorf("%s, %s, protocols %q: %v", c.mode, c.from, protocols, err)
					continue
				}
				if id := identityOf(conn.ConnectionState().PeerCertificates[0]); id != c.answers {
					t.Errorf("%s, %s, protocols %q: answered by %s, want %s", c.mode, c.from, protocols, id, c.answers)
				}
				if c.answers == own {
					if line, err := io.ReadAll(conn); err != nil || string(line) != "hello\n" {
						t.Errorf("%s, %s: the app said %q, %v", c.mode, c.from, line, err)
					}
				}
				conn.Close()
			}
		}
	})
}

// serveTLS has a pod's app greet whoever speaks TLS with it, until the test ends. It returns its address.
func serveTLS(t *testing.T, w *envoy.World, p *envoy.Pod, port string) string {
	t.Helper()
	certificate := w.ForeignCertificate("https://app.example")
	l, err := p.Listen(":" + port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	secured := tls.NewListener(l, &tls.Config{
		Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12,
	})
	go func() {
		for {
			conn, err := secured.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.WriteString(conn, "hello\n") // a client that is not greeted says so
				_ = conn.Close()
			}()
		}
	}()
	return net.JoinHostPort(p.IP4().String(), port)
}

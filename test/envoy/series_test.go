package envoy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Nothing that a client can choose makes a series: methods, paths, hosts, headers, SNI and protocols' versions, of a client with a sidecar, one without a
// certificate, and one that has a certificate of the mesh and speaks TLS as it likes.
func TestClientsMakeNoSeries(t *testing.T) {
	const requests = 150
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v))
		server, client, stranger := w.Pod("reviews-v1"), w.Pod("web-5d8f-x"), w.Pod("stranger")
		certificate := w.CertificateOf("robber", "outside", "robber")
		ways := map[string]func(i int) net.Conn{
			"with a sidecar": func(int) net.Conn { return dial(t, client, fmt.Sprintf("%s:8080", server.IP4())) },
			"without a mesh": func(int) net.Conn { return dial(t, stranger, fmt.Sprintf("%s:8080", server.IP4())) },
			"with TLS of its own": func(i int) net.Conn {
				return secured(t, stranger, fmt.Sprintf("%s:8080", server.IP4()), fmt.Sprintf("name-%d.example", i), certificate)
			},
		}
		send := func(conn net.Conn, i int) {
			defer conn.Close()
			fmt.Fprintf(conn, "METHOD%d /path/%d?q=%d HTTP/1.1\r\nHost: host-%d\r\nX-Any-%d: %d\r\nUser-Agent: a/%d\r\nX-Forwarded-For: 10.0.0.%d\r\nX-Forwarded-Client-Cert: URI=spiffe://x/ns/n%d/sa/s%d\r\nConnection: close\r\n\r\n",
				i, i, i, i, i, i, i, i%250, i, i)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		for _, connect := range ways {
			send(connect(0), 0)
		}
		counted := func() float64 { return server.Counted("envoy_tulle_requests_total") }
		settles(t, "of the first of each", counted, float64(len(ways)))
		atServer, atClient := len(server.Scrape("envoy_")), len(client.Scrape("envoy_"))
		for _, connect := range ways {
			for i := range requests {
				send(connect(i+1), i+1)
			}
		}
		settles(t, "of all", counted, float64(len(ways)*(requests+1)))
		settles(t, "of one workload that has a certificate", func() float64 {
			return server.Counted("envoy_tulle_requests_total", "source_workload", "robber", "source_namespace", "outside", "mtls", "true")
		}, requests+1)
		if n := len(server.Scrape("envoy_")); n != atServer {
			t.Errorf("the server's proxy has %d series, it had %d", n, atServer)
		}
		if n := len(client.Scrape("envoy_")); n != atClient {
			t.Errorf("the client's proxy has %d series, it had %d", n, atClient)
		}
		t.Logf("series of three edges at the server's proxy: %d, of all %d", len(server.Scrape("envoy_tulle")), atServer)
	})
}

// However many workloads call, a proxy's own limits hold, it goes on serving all of them, and goes on counting those that it knows. Envoy 1.38 has no such limit:
// there, the workloads of the last hour or two are the bound.
func TestManySourcesAreBounded(t *testing.T) {
	t.Parallel()
	const most = 2000
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		sources := most + 300
		if v == envoy.V138 {
			sources = 300
		}
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v))
		server, client, stranger := w.Pod("reviews-v1"), w.Pod("web-5d8f-x"), w.Pod("stranger")
		known := func() float64 {
			return server.Counted("envoy_tulle_requests_total", "source_workload", "web")
		}
		call := func() { client.MustCall(echo.HTTP1, echo.Request{Address: fmt.Sprintf("%s:8080", server.IP4())}) }
		call()
		settles(t, "of who came first", known, 1)
		heap := server.SettledHeap()
		for i := range sources {
			conn := secured(t, stranger, fmt.Sprintf("%s:8080", server.IP4()), "x", w.CertificateOf(fmt.Sprintf("workload-%d", i), "outside", "crowd"))
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(i, resp, err)
			}
			_ = conn.Close()
		}
		histograms := 0
		for _, s := range server.Scrape("envoy_tulle_request_duration") {
			if s.Name == "envoy_tulle_request_duration_milliseconds_count" {
				histograms++
			}
		}
		_, text := server.ScrapePath("/stats/prometheus")
		t.Logf("%d sources: %d histograms, %d series, %d kB a scrape, heap %d kB, before %d kB", sources, histograms,
			len(server.Scrape("envoy_tulle")), len(text)>>10, server.SettledHeap()>>10, heap>>10)
		if v == envoy.V138 && histograms != sources+1 || v != envoy.V138 && histograms != most {
			t.Errorf("%d histograms of %d sources, want at most %d", histograms, sources, most)
		}
		call()
		settles(t, "of who came first, afterwards", known, 2)
	})
}

// A series that nothing was added to between two looks goes; one that is in use stays, with its value.
func TestIdleSeriesGo(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v), envoy.StatsEviction(5*time.Second))
		server, busy, idle := w.Pod("reviews-v1"), w.Pod("web-5d8f-x"), w.Pod("by-hand")
		address := fmt.Sprintf("%s:8080", server.IP4())
		count := func(workload string) float64 {
			return server.Counted("envoy_tulle_requests_total", "source_workload", workload)
		}
		idle.MustCall(echo.HTTP1, echo.Request{Address: address})
		settles(t, "of the idle one", func() float64 { return count("person") }, 1)
		sent := 0
		eventually(t, "the idle series is gone", func() bool {
			busy.MustCall(echo.HTTP1, echo.Request{Address: address})
			sent++
			return count("person") == 0
		})
		settles(t, "of the busy one", func() float64 { return count("web") }, float64(sent))
		idle.MustCall(echo.HTTP1, echo.Request{Address: address})
		settles(t, "of the idle one that came back", func() float64 { return count("person") }, 1)
	})
}

// What changes while pods live ends no connection and resets no counter: names of versions, more Services, and a new configuration of the
// inbound listener.
func TestCountersOutliveChanges(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v))
		client, server := w.Pod("web-5d8f-x"), w.Pod("reviews-v1")
		address := fmt.Sprintf("%s:8080", server.IP4())
		conn := dial(t, client, address)
		defer conn.Close()
		reader, sent := bufio.NewReader(conn), 0
		call := func() {
			t.Helper()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(reader, nil)
			if err != nil || resp.StatusCode != http.StatusOK || resp.Close {
				t.Fatal(resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			sent++
		}
		all := func() float64 { return server.Counted("envoy_tulle_requests_total", "source_workload", "web") }
		version := func(name string) func() float64 {
			return func() float64 {
				return server.Counted("envoy_tulle_requests_total", "source_workload", "web", "destination_version", name)
			}
		}
		call()
		settles(t, "before", version("stable"), 1)
		mesh := `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: Permissive%s}
  services:
  - name: reviews
    versions:
    - {name: renamed, labels: {version: v1}}
    - {name: canary, labels: {version: v2}}
`
		w.Apply(fmt.Sprintf(mesh, ""))
		call()
		settles(t, "with another name of the version", version("renamed"), 1)
		w.Apply(`
apiVersion: v1
kind: Service
metadata: {name: also-reviews, namespace: shop}
spec:
  clusterIP: 10.96.0.9
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 8080}]
`)
		call()
		w.Apply(fmt.Sprintf(mesh, ", ports: [{port: 7777, mode: Disabled}]"))
		call()
		settles(t, "after a new inbound listener", version("renamed"), 3)
		settles(t, "of all", all, float64(sent))
		if n := server.Stat(`^listener_manager\.listener_(modified|in_place_updated)$`); n == 0 {
			t.Error("no listener was changed")
		}
	})
}

func dial(t *testing.T, p *envoy.Pod, address string) net.Conn {
	t.Helper()
	conn, err := p.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// secured speaks the mesh's TLS itself.
func secured(t *testing.T, p *envoy.Pod, address, name string, certificate tls.Certificate) net.Conn {
	t.Helper()
	conn := tls.Client(dial(t, p, address), &tls.Config{
		Certificates: []tls.Certificate{certificate}, ServerName: name, NextProtos: []string{"tulle-http"}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // it is the server that is tested
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	return conn
}

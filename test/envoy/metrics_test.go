package envoy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// forgedSource is what a client may say of itself.
func forgedSource() map[string]string {
	return map[string]string{
		"x-forwarded-client-cert": `By=spiffe://cluster.local/ns/shop/sa/reviews;URI=spiffe://cluster.local/ns/admin/sa/root;Subject="CN=root"`,
		"x-tulle-peer-workload":   "root", "tulle.peer.workload": "root", "x-tulle-source": "root",
	}
}

// settles waits until a count is what was sent: a proxy counts when it is done with a request, a moment after its client.
func settles(t *testing.T, what string, count func() float64, want float64) {
	t.Helper()
	var got float64
	for end := time.Now().Add(8 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if got = count(); got == want {
			return
		}
		if got > want || time.Now().After(end) {
			t.Errorf("%s: counted %v, want %v", what, got, want)
			return
		}
	}
}

// What proxies count is what clients sent and backends got, for each protocol and by who calls whom: the workload and the namespace
// are those of the client's certificate, whatever its headers say; a client without one is unknown.
func TestMetricsCountEveryProtocol(t *testing.T) {
	const calls = 20
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v))
		versions := map[string]string{"stable": "reviews-v1", "canary": "reviews-v2"}
		clients := []struct{ pod, workload, namespace, mtls string }{
			{"web-5d8f-x", "web", "shop", "true"},       // a Deployment
			{"by-hand", "person", "shop", "true"},       // a bare pod: its service account
			{"stranger", "unknown", "unknown", "false"}, // has no certificate
		}
		got := map[string]int{} // by version and workload
		for _, c := range clients {
			for _, p := range echo.Protocols() {
				if c.mtls == "false" && p == echo.Greeting {
					continue // where the server speaks first, each connection without a sidecar waits for detection to give up
				}
				for i := range calls {
					to := fmt.Sprintf("10.96.0.5:%d", port(p))
					if c.mtls == "false" { // no kube-proxy here
						number := map[int]int{80: 8080, 9000: 9000, 9001: 9001}[port(p)]
						to = fmt.Sprintf("%s:%d", w.Pod([]string{"reviews-v1", "reviews-v2"}[i%2]).IP4(), number)
					}
					r := w.Pod(c.pod).MustCall(p, echo.Request{Address: to, Body: "ping", Header: forgedSource()})
					got[r.Name+" "+c.workload+" "+kind(p)]++
				}
			}
		}
		for version, pod := range versions {
			backend := 0
			for _, c := range clients {
				edge := []string{"source_workload", c.workload, "source_namespace", c.namespace, "mtls", c.mtls,
					"destination_service", "reviews", "destination_namespace", "shop", "destination_version", version}
				for _, metric := range []string{"requests_total", "tcp_connections_opened_total", "tcp_connections_closed_total", "request_duration_milliseconds_count"} {
					of := "http"
					if strings.HasPrefix(metric, "tcp") {
						of = "tcp"
					}
					want := got[pod+" "+c.workload+" "+of]
					labels := append([]string{"reporter", "destination"}, edge...)
					settles(t, fmt.Sprintf("%s %v", metric, labels), func() float64 {
						return w.Pod(pod).Counted("envoy_tulle_"+metric, labels...)
					}, float64(want))
					if c.mtls == "true" && !strings.Contains(metric, "duration") {
						labels := append([]string{"reporter", "source"}, edge...)
						settles(t, fmt.Sprintf("%s %v", metric, labels), func() float64 {
							return w.Pod(c.pod).Counted("envoy_tulle_"+metric, labels...)
						}, float64(want))
					}
				}
				backend += got[pod+" "+c.workload+" http"] + got[pod+" "+c.workload+" tcp"]
			}
			if n := w.Pod(pod).Count(); n != backend {
				t.Errorf("%s got %d requests, its clients had %d answers", pod, n, backend)
			}
			if all := w.Pod(pod).Counted("envoy_tulle_requests_total") + w.Pod(pod).Counted("envoy_tulle_tcp_connections_opened_total"); int(all) != backend {
				t.Errorf("the proxy of %s counted %v of all clients, the backend %d", pod, all, backend)
			}
		}
		for _, s := range w.Pod("reviews-v1").Scrape("envoy_tulle") {
			if strings.Contains(s.String(), "root") {
				t.Errorf("a header became a label: %s", s)
			}
		}
	})
}

func kind(p echo.Protocol) string {
	if p == echo.TCP || p == echo.Greeting {
		return "tcp"
	}
	return "http"
}

// How requests ended: statuses of the app and of proxies, gRPC's, clients that went away, and requests that never arrived, which only
// their own proxy sees.
func TestMetricsOfFailures(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v))
		client, v1, v2 := w.Pod("web-5d8f-x"), w.Pod("reviews-v1"), w.Pod("reviews-v2")
		both := func(labels ...string) func() float64 {
			return func() float64 {
				labels := append([]string{"reporter", "destination", "source_workload", "web"}, labels...)
				return v1.Counted("envoy_tulle_requests_total", labels...) + v2.Counted("envoy_tulle_requests_total", labels...)
			}
		}
		source := func(labels ...string) func() float64 {
			return func() float64 {
				return client.Counted("envoy_tulle_requests_total", append([]string{"reporter", "source", "source_workload", "web"}, labels...)...)
			}
		}

		for code, n := range map[int]int{404: 3, 500: 4, 504: 5} {
			for range n {
				if r, err := client.Call(echo.HTTP1, echo.Request{Address: "10.96.0.5:80", Path: fmt.Sprintf("/?status=%d", code)}); err != nil || r.Status != code {
					t.Fatal(r, err)
				}
			}
			labels := []string{"response_code", fmt.Sprint(code), "response_code_class", fmt.Sprintf("%dxx", code/100), "grpc_status", "", "response_flags", "-"}
			settles(t, fmt.Sprint(labels), both(labels...), float64(n))
			settles(t, "source "+fmt.Sprint(labels), source(labels...), float64(n))
		}

		for code, n := range map[codes.Code]int{codes.NotFound: 3, codes.Unavailable: 4, 99: 2} {
			for range n {
				if err := callForStatus(t, client, code); status.Code(err) != code {
					t.Fatal(err)
				}
			}
			label := fmt.Sprint(int(code))
			if code > 16 {
				label = "other"
			}
			settles(t, "gRPC "+label, both("grpc_status", label, "response_code", "200"), float64(n))
			settles(t, "source, gRPC "+label, source("grpc_status", label, "response_code", "200"), float64(n))
		}

		// Nobody is there: no endpoint, and a port on which no app listens.
		for range 3 {
			if r := client.Get("http://10.96.0.7:80/"); r.Status != http.StatusServiceUnavailable {
				t.Fatal(r.Status, r.Text)
			}
			if r := client.Get(fmt.Sprintf("http://%s:8099/", v1.IP4())); r.Status != http.StatusServiceUnavailable {
				t.Fatal(r.Status, r.Text)
			}
		}
		settles(t, "UH", source("destination_service", "nobody", "response_flags", "UH", "response_code", "503", "mtls", "unknown"), 3)
		settles(t, "a port without an app, at its own proxy", both("response_flags", "UF", "response_code", "503", "mtls", "true"), 3)
		settles(t, "a port without an app, at the client's proxy", source("destination_service", "reviews", "response_flags", "-", "response_code", "503", "mtls", "true"), 3)

		// The client does not wait for the answer.
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := client.Client(false).Call(ctx, echo.HTTP1, echo.Request{Address: "10.96.0.5:80", Path: "/?delay=1m"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		settles(t, "a client that went away", both("response_code", "0", "response_code_class", "0xx", "response_flags", "DC"), 1)
		settles(t, "source, a client that went away", source("response_code", "0", "response_code_class", "0xx", "response_flags", "DC"), 1)

		// A connection that nobody takes is opened and closed, with the reason.
		tcp := func(metric string, labels ...string) func() float64 {
			return func() float64 { return client.Counted("envoy_tulle_tcp_connections_"+metric+"_total", labels...) }
		}
		if _, err := client.Call(echo.TCP, echo.Request{Address: "10.96.0.7:9000"}); err == nil {
			t.Fatal("somebody answered")
		}
		if _, err := client.Call(echo.Greeting, echo.Request{Address: fmt.Sprintf("%s:9002", w.Pod("legacy").IP4())}); err == nil {
			t.Fatal("somebody answered")
		}
		for _, metric := range []string{"opened", "closed"} {
			settles(t, metric+" to nobody", tcp(metric, "response_flags", "UH", "mtls", "unknown"), 1)
			settles(t, metric+" refused", tcp(metric, "destination_service", "legacy", "destination_namespace", "outside", "destination_version", "7", "response_flags", "UF,URX", "mtls", "unknown"), 1)
		}
		for _, s := range client.Scrape("envoy_tulle") {
			if s.Labels["mtls"] == "false" {
				t.Errorf("nothing was sent in plaintext: %s", s)
			}
		}
	})
}

func callForStatus(t *testing.T, p *envoy.Pod, code codes.Code) error {
	conn, err := grpc.NewClient("passthrough:///10.96.0.5:80", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return p.Dial(ctx, address) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = grpc_testing.NewTestServiceClient(conn).UnaryCall(t.Context(), &grpc_testing.SimpleRequest{
		ResponseStatus: &grpc_testing.EchoStatus{Code: int32(code), Message: "as you wish"}, //nolint:gosec // small
	})
	return err
}

// Requests that go around in their own proxy, because they are the first to an address with rules, or because their connection was silent
// first, are counted once, with the version that they went to; a rule that can't be followed is counted at its Service.
func TestMetricsCountLoopsOnce(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v))
		w.Apply(strings.Replace(reviewsRules, "- name: others", "- {name: broken, match: [{headers: [{name: broken, value: x}]}], to: [{version: gone}]}\n    - name: others", 1))
		client := w.Pod("web-5d8f-x")
		for range 5 {
			client.ForgetAndRestartProxy()
			client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80", Header: map[string]string{"end-user": "jason"}})
			client.MustCall(echo.GRPC, echo.Request{Address: "10.96.0.5:80"})
			if n := client.Stat(`^http\.reroute\.downstream_rq_total$`); n == 0 {
				t.Error("no request went around")
			}
			settles(t, "for testers", func() float64 { return client.Counted("envoy_tulle_requests_total", "destination_version", "v2") }, 1)
			settles(t, "for others", func() float64 { return client.Counted("envoy_tulle_requests_total", "destination_version", "v1") }, 1)
			settles(t, "of all", func() float64 { return client.Counted("envoy_tulle_requests_total") }, 2)
		}
		if r, err := client.Call(echo.HTTP1, echo.Request{Address: "10.96.0.5:80", Header: map[string]string{"broken": "x"}}); err != nil || r.Status != 500 {
			t.Fatal(r, err)
		}
		settles(t, "of the broken rule", func() float64 {
			return client.Counted("envoy_tulle_requests_total", "destination_service", "reviews", "destination_namespace", "shop", "response_code", "500")
		}, 1)

		// Silent until detection has given up, then a request: no TCP connection to anybody, and one request.
		client.RestartProxy()
		conn, err := client.Dial(t.Context(), "10.96.0.5:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		eventually(t, "detection gives up", func() bool { return client.Stat(`^tcp\.outbound\.downstream_cx_total$`) == 1 })
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		_ = conn.Close()
		settles(t, "of a silent connection", func() float64 { return client.Counted("envoy_tulle_requests_total", "destination_version", "v1") }, 1)
		eventually(t, "the connection ends", func() bool { return client.Stat(`^listener\.outbound\.downstream_cx_active$`) == 0 })
		if n := client.Counted("envoy_tulle_tcp_connections_opened_total"); n != 0 {
			t.Errorf("%v TCP connections counted, it was one of HTTP", n)
		}
	})
}

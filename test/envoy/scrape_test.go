package envoy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Under Strict a Prometheus that has no certificate gets what an app declares, at its proxy's stats port, and nothing else of the app; the app's
// own ports stay closed to it.
func TestAppMetricsUnderStrict(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/scrape.yaml", envoy.On(v))
		web, prometheus := w.Pod("web"), w.Pod("prometheus")
		for _, port := range []int{8080, 9090, 9091} {
			r, err := prometheus.Call(echo.HTTP1, echo.Request{Address: fmt.Sprintf("%s:%d", web.IP4(), port), Path: "/metrics"})
			if err == nil {
				t.Errorf("port %d is open in plaintext: %d", port, r.Status)
			}
		}
		if n := web.Count(); n != 0 {
			t.Fatalf("the app got %d requests without mTLS", n)
		}

		get := func(path string) *echo.Response {
			return prometheus.Get(fmt.Sprintf("http://%s:15020%s", web.IP4(), path))
		}
		declared := map[string]string{
			"/app/9090/metrics":     "/metrics", // a port of a Service that is named http-metrics
			"/app/9091/stats/x":     "/stats/x", // prometheus.io/port and /path of the pod
			"/app/9090/metrics?a=b": "/metrics", // with the params of Prometheus
		}
		for path, want := range declared {
			if r := get(path); r.Status != http.StatusOK || r.Answer == nil || r.Name != "web" || r.Path != want {
				t.Errorf("%s: %d %s %+v, want %s of the app", path, r.Status, r.Text, r.Answer, want)
			}
		}
		if n := web.Count(); n != len(declared) {
			t.Errorf("the app got %d requests, %d were sent", n, len(declared))
		}
		for _, path := range []string{
			"/app/8080/metrics", "/app/9091/metrics", "/app/9090/", "/app/9090/metrics/", "/app/9090/metrics/../secret", "/app/9090/secret", "/app/9090//metrics",
			"/app/9090/%6detrics", "/app/15020/metrics", "/app/15001/metrics", "/app//metrics", "/metrics", "/stats", "/config_dump", "/quitquitquit", "/stats/prometheus/../../config_dump",
		} {
			if r := get(path); r.Status != http.StatusNotFound {
				t.Errorf("%s: %d %.80s", path, r.Status, r.Text)
			}
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, "PURGE"} {
			for _, path := range []string{"/app/9090/metrics", "/stats/prometheus"} {
				if status := request(t, prometheus, web.IP4().String()+":15020", method, path); status != http.StatusNotFound {
					t.Errorf("%s %s: %d", method, path, status)
				}
			}
		}
		if n := web.Count(); n != len(declared) {
			t.Errorf("the app got %d requests more than Prometheus sent to what is declared", n-len(declared))
		}
		silentAboutApp(t, w)
	})
}

// silentAboutApp: a pod that says that it is not to be scraped is not, also where its Service's port is named for metrics; and what is declared later is
// handed on, what is not declared any more no longer.
func silentAboutApp(t *testing.T, w *envoy.World) {
	prometheus, quiet := w.Pod("prometheus"), w.Pod("quiet")
	if r := prometheus.Get(fmt.Sprintf("http://%s:15020/app/9090/metrics", quiet.IP4())); r.Status != http.StatusNotFound || quiet.Count() != 0 {
		t.Errorf("a pod that is not to be scraped: %d", r.Status)
	}
	service := `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.5
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: %s, port: 9090}]
`
	of := func(port int) int {
		return prometheus.Get(fmt.Sprintf("http://%s:15020/app/%d/metrics", w.Pod("web").IP4(), port)).Status
	}
	w.Apply(fmt.Sprintf(service, "http-other"))
	if got := of(9090); got != http.StatusNotFound {
		t.Errorf("after the port lost its name: %d", got)
	}
	w.Apply(fmt.Sprintf(service, "prometheus"))
	if got := of(9090); got != http.StatusOK {
		t.Errorf("after the port has a name again: %d", got)
	}
}

// Whoever reaches the stats port can have the app do a few scrapes at a time, no more, and no probe waits for them.
func TestScrapesAtOnceAreBounded(t *testing.T) {
	const sent, most = 60, 8
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/scrape.yaml", envoy.On(v))
		web, prometheus := w.Pod("web"), w.Pod("prometheus")
		var served, refused atomic.Int32
		var all sync.WaitGroup
		for range sent {
			all.Go(func() {
				r, err := prometheus.Call(echo.HTTP1, echo.Request{Address: web.IP4().String() + ":15020", Path: "/app/9090/metrics?delay=1500ms"})
				switch {
				case err == nil && r.Status == http.StatusOK:
					served.Add(1)
				case err == nil && r.Status == http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
		eventually(t, "the others are refused", func() bool { return int(refused.Load()) >= sent-3*most })
		if n := web.Count(); n > most {
			t.Errorf("the app serves %d scrapes at once, want at most %d", n, most)
		}
		if r := prometheus.Get(fmt.Sprintf("http://%s:15021/app/liveness", web.IP4())); r.Status != http.StatusOK {
			t.Errorf("a probe beside them: %d %s", r.Status, r.Text)
		}
		all.Wait()
		t.Logf("of %d scrapes at once, %d were served, %d refused", sent, served.Load(), refused.Load())
		if served.Load() == 0 || int(served.Load()+refused.Load()) != sent {
			t.Errorf("%d served, %d refused, of %d", served.Load(), refused.Load(), sent)
		}
	})
}

// A meshed Prometheus calls the stats port of thousands of pods, by address. Its proxy looks none of them up and keeps none.
func TestMeshedPrometheusStaysSmall(t *testing.T) {
	const pods, limit = 3000, 1 << 20
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/scrape.yaml", envoy.On(v))
		collector := w.Pod("collector")
		crowd := w.AddCrowd("crowd", []string{"serve", "-http=15020"}, netip.MustParseAddr("10.250.255.1"), netip.MustParsePrefix("10.251.0.0/20"))
		collector.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"}) // its proxy is at work
		before, asked, counted := collector.SettledHeap(), w.Asked(), crowd.Count()
		a := netip.MustParseAddr("10.251.0.0")
		for range pods {
			a = a.Next()
			collector.MustCall(echo.HTTP1, echo.Request{Address: netip.AddrPortFrom(a, 15020).String(), Path: "/stats/prometheus"})
		}
		if n := crowd.Count() - counted; n != pods {
			t.Errorf("%d scrapes arrived, %d were sent", n, pods)
		}
		after := collector.SettledHeap()
		t.Logf("heap %d kB, after scrapes of %d pods %d kB", before>>10, pods, after>>10)
		if after-before > limit || w.Asked() != asked {
			t.Errorf("the heap grew by %d kB, the proxy asked for %d addresses", (after-before)>>10, w.Asked()-asked)
		}
		if r := collector.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"}); r.Name != "web" {
			t.Errorf("answered by %s", r.Name)
		}
	})
}

// request sends a request of any method on a connection of its own and returns the status.
func request(t *testing.T, p *envoy.Pod, address, method, path string) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Dial(ctx, address) }}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

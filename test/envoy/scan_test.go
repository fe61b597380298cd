package envoy_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// holdsCluster says whether a pod's Envoy has a cluster.
func holdsCluster(p *envoy.Pod, name string) bool {
	return strings.Contains(p.Admin(http.MethodGet, "/clusters"), name+"::")
}

// heldDestinations counts the addresses that a pod's Envoy has clusters of.
func heldDestinations(p *envoy.Pod) int {
	held := map[string]bool{}
	for line := range strings.Lines(p.Admin(http.MethodGet, "/clusters")) {
		if name, _, _ := strings.Cut(line, "::"); strings.HasPrefix(name, "http|") || strings.HasPrefix(name, "tcp|") {
			held[name] = true
		}
	}
	return len(held)
}

// eventually waits for what has no signal.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// What one pod asks for is pushed to its sibling, which then asks for nothing; it is taken back when nobody has asked for it for
// some time; and the sibling's next request asks, and gets it.
func TestLearnedNamesComeAndGo(t *testing.T) {
	const name = "http|10.96.0.5:80"
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/scan.yaml", envoy.On(v), envoy.WithLimits(func(c *xds.Config) {
			c.LearnedTTL, c.Linger = 8*time.Second, 100*time.Millisecond
		}))
		asking, sibling, bystander := w.Pod("scanner"), w.Pod("sibling"), w.Pod("bystander")
		asking.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
		eventually(t, "the sibling is sent what its workload asked for", func() bool { return holdsCluster(sibling, name) })
		if asked := w.Metric("tulle_xds_asked_names"); asked != 1 {
			t.Fatalf("%v destinations were asked for before the sibling's first request, want 1", asked)
		}
		sibling.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
		if asked := w.Metric("tulle_xds_asked_names"); asked != 1 {
			t.Errorf("%v destinations are asked for, want 1: the sibling had no need to", asked)
		}
		if holdsCluster(bystander, name) {
			t.Error("a pod of another workload was sent it too")
		}

		eventually(t, "it is taken back", func() bool { return !holdsCluster(sibling, name) })
		if !holdsCluster(asking, name) {
			t.Error("it was taken from the pod that asked for it")
		}
		sibling.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
		asking.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
		if asked := w.Metric("tulle_xds_asked_names"); asked != 2 {
			t.Errorf("%v destinations are asked for, want 2: the sibling's request must have asked again", asked)
		}
		if got, want := w.Pod("reviews").Count(), 4; got != want {
			t.Errorf("the backend got %d requests, want %d", got, want)
		}
	})
}

// A pod scans 10,000 addresses, of which 2,500 are Services. It gets as many as a proxy may hold, and an error for the others. What it
// held before goes on working, its sibling is sent none of it, and nobody else's requests notice. (Fewer on the older Envoys.)
func TestScanHurtsOnlyTheScanner(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		count, existing := 4000, 1500
		if v == envoy.Pinned {
			count, existing = 10_000, 2500
		}
		scan(t, envoy.Start(t, "testdata/scan.yaml", envoy.On(v), envoy.WithLimits(func(c *xds.Config) { c.LearnWindow = 5 * time.Second })), count, existing)
	})
}

// A request to a destination beyond the limit is told so at once. The proxy does not ask again, so that a later one is told when the time is up.
func TestRefusedDestinationIsExplained(t *testing.T) {
	t.Parallel()
	const (
		refused = "the control plane gives this proxy no configuration for http|10.96.0.6:80: it asks for more destinations than it may"
		late    = "no configuration for http|10.96.0.6:80 came from the control plane in time, or it refused one before"
	)
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/scan.yaml", envoy.On(v), envoy.WithLimits(func(c *xds.Config) { c.MaxAsked, c.MaxOthers = 1, 1 }))
		client := w.Pod("bystander")
		client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
		// The first answer reaches the threads of an Envoy one after the other: a second request may still get it.
		for first, waited := true, false; !waited; first = false {
			began := time.Now()
			response, err := client.Call(echo.HTTP1, echo.Request{Address: "10.96.0.6:80"})
			if err != nil {
				t.Fatal(err)
			}
			took, want := time.Since(began), refused
			if waited = took >= onDemandTimeout-clockSlack; waited {
				want = late
			}
			if response.Status != http.StatusServiceUnavailable || !strings.HasPrefix(response.Text, want) {
				t.Fatalf("after %s got %d %q, want 503 %q", took, response.Status, response.Text, want)
			}
			if first && waited || took > onDemandTimeout+2*time.Second {
				t.Errorf("the first: %t, and it took %s", first, took)
			}
		}
		client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
		if got := w.Pod("reviews").Count(); got != 2 {
			t.Errorf("the backend got %d requests, want 2", got)
		}
	})
}

func scan(t *testing.T, w *envoy.World, count, existing int) {
	const maxAsked, maxOthers = 2000, 1000 // the defaults
	w.Apply(scannedServices(existing))
	scanner, sibling, bystander := w.Pod("scanner"), w.Pod("sibling"), w.Pod("bystander")
	reviews := envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}}
	reviewsTCP := echo.Request{Address: "10.96.0.5:9000"}
	scanner.MustCall(reviews.Protocol, reviews.Request)
	scanner.MustCall(echo.TCP, reviewsTCP)
	heapBefore, planeBefore := scanner.SettledHeap(), planeHeap()

	loads := []*envoy.Load{scanner.StartLoad(1, reviews), sibling.StartLoad(1, reviews), bystander.StartLoad(1, reviews)}
	began := time.Now()
	addresses := scannedAddresses(count, existing)
	answers := map[string]int{}
	for from := 0; from < count; from += 200 {
		report := scanner.Burst(addresses[from : from+200])
		answers["200"] += report.OK()
		for text, n := range report.Failures {
			text = addressPattern.ReplaceAllString(text, "…")
			answers[text] += n
		}
	}
	t.Logf("scanned %d addresses in %.0f s: %v", count, time.Since(began).Seconds(), answers)
	for i, l := range loads {
		report := l.Stop()
		t.Logf("meanwhile, pod %d: %v", i, report)
		if report.Failed() > 0 {
			t.Errorf("requests of %s: %v", []string{"the scanner to what it held", "its sibling", "a pod of another workload"}[i], report)
		}
	}

	held := heldDestinations(scanner)
	if held > maxAsked {
		t.Errorf("the scanner's Envoy holds %d destinations, more than %d", held, maxAsked)
	}
	if held < maxOthers {
		t.Errorf("the scanner's Envoy holds %d destinations: the scan did not reach the limit of %d", held, maxOthers)
	}
	if got := w.Metric("tulle_xds_limited_total", "limit", "asked"); got < float64(count-maxAsked) {
		t.Errorf("%v asks were refused, want at least %d", got, count-maxAsked)
	}
	for _, limit := range []string{"asked", "learned"} {
		if w.Metric("tulle_xds_limited_proxies", "limit", limit, "namespace", "shop", "pod", "scanner") != 1 {
			t.Errorf("no metric names the scanner for the limit %q", limit)
		}
	}
	// A scan that is fast enough reaches the limit of its rate, too.
	if all, own := w.Metric("tulle_xds_limited_proxies"), w.Metric("tulle_xds_limited_proxies", "namespace", "shop", "pod", "scanner"); all != own {
		t.Errorf("%v times a proxy is named for a limit, of which the scanner %v times", all, own)
	}
	if n := w.Metric("tulle_xds_streams_ended_total"); n != 0 {
		t.Errorf("%v streams ended", n)
	}
	scanner.MustCall(reviews.Protocol, reviews.Request)
	scanner.MustCall(echo.TCP, reviewsTCP)
	before := w.Metric("tulle_xds_limited_total", "limit", "asked")
	if r, err := scanner.Call(echo.TCP, echo.Request{Address: "10.96.200.1:9000"}); err == nil && r.Answer != nil {
		t.Errorf("a TCP connection beyond the limit was answered by %s", r.Answer.Name)
	}
	if now := w.Metric("tulle_xds_limited_total", "limit", "asked"); now != before+1 {
		t.Errorf("%v asks were refused for one TCP connection", now-before)
	}

	// What the sibling itself asks for now is learned, later than the scan would have been.
	w.Apply(scannedServices(existing + 1))
	last := scannedService(existing)
	sibling.MustCall(echo.HTTP1, echo.Request{Address: last})
	eventually(t, "what the sibling asked for is learned", func() bool { return w.Metric("tulle_xds_pushed_names") >= 2 })
	if got := heldDestinations(sibling); got > 2 {
		t.Errorf("the sibling holds %d destinations, want what it asked for itself", got)
	}
	if got := heldDestinations(bystander); got != 1 {
		t.Errorf("a pod of another workload holds %d destinations, want 1", got)
	}
	heapAfter, planeAfter := scanner.SettledHeap(), planeHeap()
	t.Logf("the scanner's Envoy holds %d destinations, %.0f MB of heap more than before (%.0f kB each); the test's process, with the control plane, %.0f MB more",
		held, mb(heapAfter-heapBefore), float64(heapAfter-heapBefore)/float64(held)/1024, mb(planeAfter-planeBefore))
	if grown := mb(heapAfter - heapBefore); grown > 250 {
		t.Errorf("the scanner's Envoy has grown by %.0f MB, want at most 250", grown)
	}
	if grown := mb(planeAfter - planeBefore); grown > 150 {
		t.Errorf("the control plane has grown by %.0f MB, want at most 150", grown)
	}
}

var addressPattern = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(:[0-9]+)?`)

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func planeHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// scannedService is the address of one of many Services.
func scannedService(i int) string { return fmt.Sprintf("10.96.%d.%d:80", 10+i/200, 1+i%200) }

func scannedServices(n int) string {
	var b strings.Builder
	for i := range n {
		host, _, _ := strings.Cut(scannedService(i), ":")
		fmt.Fprintf(&b, `
---
apiVersion: v1
kind: Service
metadata: {name: scanned-%d, namespace: shop}
spec:
  clusterIP: %s
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 8080}]
`, i, host)
	}
	return b.String()
}

// scannedAddresses are those of Services and others of the same range, in no order.
func scannedAddresses(n, services int) []envoy.Call {
	var calls []envoy.Call
	for i := range n {
		address := fmt.Sprintf("10.96.%d.%d:80", 100+i/200, 1+i%200)
		if i < services {
			address = scannedService(i)
		}
		calls = append(calls, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: address}})
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	return calls
}

package xds

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// hostility is a server with a well-behaved proxy, and what it takes to see that another one does no harm.
type hostility struct {
	*rig
	t         *testing.T
	view      *testView
	log       *safeBuffer
	neighbour *client
	before    uint64
	changes   int
}

func startHostility(t *testing.T, change func(*Config), lines ...string) *hostility {
	h := &hostility{t: t, log: &safeBuffer{}}
	h.rig = start(t, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(h.log, nil))
		if change != nil {
			change(c)
		}
	})
	h.view = h.publish(newTestView(), append([]string{passthrough}, lines...)...)
	h.neighbour = h.connect(t, "other-1")
	h.neighbour.request("cluster", "")
	h.neighbour.want("cluster passthrough@1")
	h.before = heap()
	return h
}

// heap returns the bytes in use, of the server and the clients in this process, without what gRPC has in its pools: those outlive a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// wantBoundedMemory fails when the heap has grown by more than a number of MB.
func (h *hostility) wantBoundedMemory(megabytes float64) {
	h.t.Helper()
	grown := (float64(heap()) - float64(h.before)) / (1 << 20)
	h.t.Logf("heap of server and clients grew by %.1f MB", grown)
	if grown > megabytes {
		h.t.Errorf("heap grew by %.1f MB, want at most %.0f", grown, megabytes)
	}
}

// wantNeighbourServed publishes a change, which the well-behaved proxy must get.
func (h *hostility) wantNeighbourServed() {
	h.t.Helper()
	h.changes++
	version := fmt.Sprint("change-", h.changes)
	h.view = h.publish(h.view, "cluster passthrough "+version)
	h.neighbour.want("cluster passthrough@" + version)
}

// wantNamed waits for a line of the log that names the proxy and something else.
func (h *hostility) wantNamed(text string) {
	h.t.Helper()
	h.eventually("a log line that names the pod and "+text, func() bool {
		for line := range strings.Lines(h.log.String()) {
			if strings.Contains(line, "pod=shop/cart-1") && strings.Contains(line, text) {
				return true
			}
		}
		return false
	})
}

// eventually waits for what has no signal: a line in the log, a metric.
func (h *hostility) eventually(what string, done func() bool) {
	h.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(patience); !done(); {
		select {
		case <-tick.C:
		case <-timeout:
			h.t.Fatalf("%s: not within %s; the log is\n%.4000s", what, patience, h.log.String())
		}
	}
}

// wantLimited waits for both metrics of a limit.
func (h *hostility) wantLimited(l limit) {
	h.t.Helper()
	h.wantNamed("limit=" + l.String())
	if testutil.ToFloat64(h.metrics.limited.WithLabelValues(l.String())) == 0 {
		h.t.Errorf("nothing is counted for the limit %q", l)
	}
	if testutil.ToFloat64(h.metrics.limitedProxies.WithLabelValues(l.String(), "shop", "cart-1")) != 1 {
		h.t.Errorf("the proxy is not among those that have reached the limit %q", l)
	}
}

func (h *hostility) wantEnded(c *client, reason string, code codes.Code, text string) {
	h.t.Helper()
	wantError(h.t, c.failure(), code, text)
	h.wantNamed("reason=" + reason)
	if n := testutil.ToFloat64(h.metrics.ended.WithLabelValues(reason)); n != 1 {
		h.t.Errorf("%v streams ended as %q, want 1", n, reason)
	}
}

// safeBuffer is a log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestScanHurtsOnlyItself: a proxy that asks for 10,000 addresses gets as many as a proxy may hold and is told at once that there
// are none beyond. It keeps its stream and what it had.
func TestScanHurtsOnlyItself(t *testing.T) {
	const addresses = 10_000
	lines := services(2500)
	for i := range addresses {
		lines = append(lines, fmt.Sprintf("cluster http|10.0.%d.%d:80 nobody", i/250, i%250))
	}
	h := startHostility(t, nil, lines...)
	c, sibling := h.connect(t, "cart-1"), h.connect(t, "cart-2")
	sibling.request("cluster", "")
	sibling.want("cluster passthrough@1")
	c.request("cluster", "")
	c.request("cluster", "+"+serviceName(0))
	c.want("cluster " + serviceName(0) + "@1")
	answered := func(name string) bool {
		for {
			for i, got := range c.got {
				if rest, ok := strings.CutPrefix(got, "cluster "); ok && strings.TrimPrefix(rest, "-") == name || strings.HasPrefix(rest, name+"@") {
					c.got = append(c.got[:i], c.got[i+1:]...)
					return !strings.HasPrefix(rest, "-")
				}
			}
			c.ack(c.receive())
		}
	}
	held := 1
	ask := func(n int, name func(int) string) {
		for from := 0; from < n; from += 100 {
			var lines []string
			for i := from; i < from+100; i++ {
				lines = append(lines, "+"+name(i))
			}
			c.request("cluster", strings.Join(lines, " "))
			for i := from; i < from+100; i++ {
				if answered(name(i)) {
					held++
				}
			}
		}
	}
	ask(addresses, func(i int) string { return fmt.Sprintf("http|10.0.%d.%d:80", i/250, i%250) })
	if held != h.config.MaxOthers {
		t.Errorf("the proxy got %d destinations, want %d", held, h.config.MaxOthers)
	}
	ask(2400, func(i int) string { return serviceName(1 + i) })
	if held != h.config.MaxAsked {
		t.Errorf("the proxy got %d destinations with Services, want %d", held, h.config.MaxAsked)
	}
	h.view = h.publish(h.view, "cluster "+serviceName(0)+" 2")
	c.want("cluster " + serviceName(0) + "@2")
	h.wantLimited(limitAsked)
	h.wantLimited(limitLearned)
	h.wantNeighbourServed()
	// The sibling learns none of it.
	h.ageLearned(time.Now().Add(2 * h.config.LearnWindow))
	h.view = h.publish(h.view, "cluster passthrough last")
	sibling.want("cluster passthrough@last")
	for _, got := range sibling.got {
		if !strings.HasPrefix(got, "cluster passthrough@") {
			t.Fatalf("the sibling got %s", got)
		}
	}
	h.wantBoundedMemory(16)
}

// TestSubscribesToEverything: names beyond the limit cost nothing, of each type, subscribed to and announced.
func TestSubscribesToEverything(t *testing.T) {
	h := startHostility(t, nil)
	c := h.connect(t, "cart-1")
	for kind := resource.Cluster; kind <= resource.VirtualHost; kind++ {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind.URL(), InitialResourceVersions: map[string]string{}}
		for i := range 20_000 {
			name := fmt.Sprint(kind, "-", i)
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, name)
			req.InitialResourceVersions[name] = "1"
		}
		c.send(req)
	}
	h.wantLimited(limitNames)
	h.wantNeighbourServed()
	h.eventually("all is read", func() bool {
		// Each type's names beyond 10,000.
		return testutil.ToFloat64(h.metrics.limited.WithLabelValues("names"))+testutil.ToFloat64(h.metrics.limited.WithLabelValues("asked")) >= 6*10_000
	})
	h.wantBoundedMemory(48)
	h.wantNeighbourServed()
}

// TestSubscribesToEverythingInTurn: a proxy that never stays with what it asked for, and acknowledges none of it, fills no memory either.
func TestSubscribesToEverythingInTurn(t *testing.T) {
	const turns, each = 150, 40
	view := newTestView()
	for i := range turns * each {
		c := testResource(resource.Ref{Type: resource.Cluster, Name: fmt.Sprint("a", i)}, "1")
		view.resources[c.Ref] = c
	}
	s := newSession(&resource.Proxy{}, view, bounds{100, 50, 50}, time.Second)
	for turn := range turns {
		var lines []string
		for i := range each {
			lines = append(lines, fmt.Sprint("+a", turn*each+i))
			if turn > 0 {
				lines = append(lines, fmt.Sprint("-a", (turn-1)*each+i))
			}
		}
		if _, err := s.request(scriptRequest("cluster", strings.Join(lines, " "))); err != nil {
			t.Fatal(err)
		}
		s.flush(time.Unix(int64(turn), 0))
		if len(s.entries) > maxEntries*100+1 {
			t.Fatalf("%d entries after %d names", len(s.entries), (turn+1)*each)
		}
	}
	if l := s.takeLimited(); l[limitNames] == 0 {
		t.Error("the limit was never reached")
	}
}

// TestNeverReads: the server keeps one response under way and ends the stream.
func TestNeverReads(t *testing.T) {
	h := startHostility(t, func(c *Config) { c.SendTimeout = time.Second })
	bundle := &resource.Resource{Ref: resource.Ref{Type: resource.Bundle, Name: serviceName(1)}, Version: "big"}
	next, _ := h.view.with("")
	next.resources[bundle.Ref] = bundle
	for i := range 256 {
		big := testResource(resource.Ref{Type: resource.Cluster, Name: fmt.Sprint("big", i)}, "1")
		big = resource.WithBody(*big, &anypb.Any{TypeUrl: big.Type.URL(), Value: make([]byte, 1<<18)}) // 64 MB in all, which all proxies share
		next.resources[big.Ref] = big
		bundle.Needs = append(bundle.Needs, big.Ref)
	}
	h.view = next
	h.Publish(next, nil)
	h.before = heap()
	c := h.connect(t, "cart-1")
	c.request("cluster", "")
	h.until(t, "connected", func(s []ProxyState) bool { return len(s) == 2 })
	teachDirectly(h.Server, "1", serviceName(1))
	h.until(t, "under way", func(s []ProxyState) bool {
		return slices.ContainsFunc(s, func(p ProxyState) bool { return p.Proxy.Pod == "cart-1" && p.Pending.Count >= 256 })
	})
	h.wantBoundedMemory(16)
	h.wantNeighbourServed()
	h.wantNamed("reason=slow")
	h.wantEnded(c, "slow", codes.ResourceExhausted, "the proxy has read nothing for 1s")
}

// TestNeverAcknowledges: a stream that leaves a response unacknowledged for too long is ended, whatever else it says.
func TestNeverAcknowledges(t *testing.T) {
	h := startHostility(t, func(c *Config) { c.AckTimeout = 200 * time.Millisecond }, "cluster a 1")
	c := h.connect(t, "cart-1")
	c.request("cluster", "")
	for c.stream.Context().Err() == nil {
		if _, err := c.stream.Recv(); err != nil {
			wantError(t, err, codes.ResourceExhausted, "the proxy has acknowledged nothing that it was sent for 200ms")
			break
		}
		c.request("cluster", "+a")
	}
	h.wantNamed("reason=unacknowledged")
	h.wantNeighbourServed()
	h.until(t, "the neighbour is still there", func(s []ProxyState) bool { return len(s) == 1 && s[0].Proxy.Pod == "other-1" })
}

// TestRefusesEverything: whatever Envoy's text says, what is refused is sent a few times and no more, and the neighbour gets its own.
func TestRefusesEverything(t *testing.T) {
	for name, message := range map[string]func(*discoveryv3.DeltaDiscoveryResponse) string{
		"names none": func(*discoveryv3.DeltaDiscoveryResponse) string { return "no" },
		"names one": func(r *discoveryv3.DeltaDiscoveryResponse) string {
			return "Error adding/updating cluster(s) " + r.Resources[0].Name + ": no"
		},
		"long": func(*discoveryv3.DeltaDiscoveryResponse) string { return strings.Repeat("no", 8<<10) },
	} {
		t.Run(name, func(t *testing.T) {
			const clusters = 64
			h := startHostility(t, nil)
			var needs []string
			var lines []string
			for i := range clusters {
				needs = append(needs, fmt.Sprint("cluster:c", i))
				lines = append(lines, fmt.Sprintf("cluster c%d 1 from=Mesh/shop/shop", i))
			}
			h.view = h.publish(h.view, append(lines, "bundle http|10.96.0.1:80 1 needs="+strings.Join(needs, ","))...)
			c := h.connect(t, "cart-1")
			c.request("cluster", "")
			c.want("cluster passthrough@1")
			// Learned, so that the neighbour is not sent them.
			teachDirectly(h.Server, "1", "http|10.96.0.1:80")
			responses := 0
			for refused := map[string]bool{}; len(refused) < clusters; responses++ {
				r := c.receive()
				if len(r.Resources) == 1 {
					refused[r.Resources[0].Name] = true
				}
				c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce,
					ErrorDetail: status.New(codes.Internal, message(r)).Proto()})
				for _, named := range r.Resources {
					if strings.Contains(message(r), " "+named.Name+": ") {
						refused[named.Name] = true
					}
				}
			}
			if responses > 2*clusters {
				t.Errorf("%d responses for %d resources", responses, clusters)
			}
			states := h.until(t, "all rejected", func(s []ProxyState) bool {
				for _, p := range s {
					if p.Proxy.Pod == "cart-1" {
						return len(p.Rejections) == clusters && p.Pending.Count == 0
					}
				}
				return false
			})
			for _, p := range states {
				for _, r := range p.Rejections {
					if len(r.Message) > maxMessage+len("…") {
						t.Fatalf("a message of %d bytes is kept", len(r.Message))
					}
				}
			}
			if n := strings.Count(h.log.String(), "refuses configuration"); n > lineBurst+5 {
				t.Errorf("%d log lines about rejections", n)
			}
			h.wantNamed("refuses configuration")
			h.wantNeighbourServed()
			h.wantBoundedMemory(16)
		})
	}
}

// teachDirectly has a workload's pods learn a name.
func teachDirectly(s *Server, uid, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.learned {
		if key == keyOf(&s.newest[uid].proxy) {
			l.asked[name] = lesson{time.Now(), uid}
			l.tell([]learning{{name, true}})
		}
	}
}

// TestRejectionsAreSlowedDown steps a loop by hand: a proxy that refuses 32 MB is sent the next response later.
func TestRejectionsAreSlowedDown(t *testing.T) {
	h := startHostility(t, nil, "cluster a 1")
	s := testStream(h.Server, h.view, "1")
	now := time.Unix(0, 0)
	const most = rejectionBurst / minRejection
	for i := range most + 640 {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Cluster.URL(), ErrorDetail: status.New(codes.Internal, "no").Proto()}
		if err := s.take(req, now); err != nil {
			t.Fatal(err)
		}
		if slow := !s.penalty.IsZero(); slow != (i >= most) {
			t.Fatalf("after %d rejections: slowed down: %v", i+1, slow)
		}
	}
	// 640 × 16 kB at 1 MB a second.
	if want := now.Add(10 * time.Second); !s.penalty.Equal(want) || s.next() != want {
		t.Errorf("slowed down until %s, and the loop sleeps until %s; want %s", s.penalty, s.next(), want)
	}
	// What is due meanwhile, and asks that are held together, wake nobody before.
	s.flushAt, s.hold = now.Add(-time.Second), now.Add(5*time.Millisecond)
	if err := s.step(t.Context(), now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if want := now.Add(10 * time.Second); s.next() != want {
		t.Errorf("the loop sleeps until %s, want %s", s.next(), want)
	}
	if n := testutil.ToFloat64(h.metrics.limited.WithLabelValues("rejections")); n != 640 {
		t.Errorf("%v counted, want 640", n)
	}
}

// TestSendsTooMuch: a flood is read as fast as a proxy may send, and the rest waits at the sender.
func TestSendsTooMuch(t *testing.T) {
	h := startHostility(t, nil)
	c := h.connect(t, "cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	var sent atomic.Int64
	began := time.Now()
	go func() {
		// Nonces that nobody knows: there is nothing to answer.
		for c.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Cluster.URL(), ResponseNonce: strings.Repeat("x", 400)}) == nil {
			sent.Add(1)
		}
	}()
	h.wantLimited(limitRate)
	var last int64
	h.eventually("the sender is held up", func() bool {
		before := last
		time.Sleep(100 * time.Millisecond)
		last = sent.Load()
		return last-before <= requestRate/5
	})
	// What it may send at once and since then, and what fits into the windows and buffers between the two.
	if most := requestBurst + requestRate*time.Since(began).Seconds() + 5000; float64(last) > most {
		t.Errorf("%d requests were taken, want at most %.0f", last, most)
	}
	t.Logf("%d requests were sent before the sender was held up", last)
	h.wantNeighbourServed()
	h.wantBoundedMemory(16)
}

// TestReconnectsTooOften: a proxy that opens one stream after the other is served, later and later; what it did on one counts on the next.
func TestReconnectsTooOften(t *testing.T) {
	h := startHostility(t, nil)
	for range requestBurst/openingCost + 3 {
		c := h.connect(t, "cart-1")
		c.request("cluster", "")
		c.want("cluster passthrough@1")
	}
	h.wantLimited(limitRate)
	h.wantNeighbourServed()
	h.forgetPods(time.Now())
	if n := len(h.allowances); n != 2 {
		t.Errorf("%d allowances are kept while the pods are connected, want 2", n)
	}
	h.stop()
	h.until(t, "all gone", func(s []ProxyState) bool { return len(s) == 0 })
	h.forgetPods(time.Now().Add(time.Minute))
	if n := len(h.allowances); n != 0 {
		t.Errorf("%d allowances are kept of pods that left a minute ago", n)
	}
}

func TestBucket(t *testing.T) {
	b := bucket{rate: 10, burst: 5}
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	for _, step := range []struct {
		ms   int
		n    float64
		wait time.Duration
	}{
		{0, 5, 0}, {0, 1, 100 * time.Millisecond}, {100, 0, 0}, {100, 10, time.Second}, {1100, 0, 0}, {60_000, 5, 0}, {60_000, 1, 100 * time.Millisecond},
	} {
		if got := b.take(step.n, at(step.ms)); got.Round(time.Millisecond) != step.wait {
			t.Errorf("%v at %d ms: wait %s, want %s", step.n, step.ms, got, step.wait)
		}
	}
	lines := bucket{rate: 1, burst: 2}
	allowed := 0
	for range 10 {
		if lines.allow(at(0)) {
			allowed++
		}
	}
	if allowed != 2 || !lines.allow(at(1000)) || lines.allow(at(1000)) {
		t.Errorf("%d lines at once, want 2, and 1 a second later", allowed)
	}
}

// TestLongNames: names, and versions, that are longer than any of ours are not kept, of whatever type: what a proxy may send in hours would not fit.
func TestLongNames(t *testing.T) {
	h := startHostility(t, nil)
	c := h.connect(t, "cart-1")
	long := strings.Repeat("n", 8<<10)
	for kind := resource.Cluster; kind <= resource.VirtualHost; kind++ {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind.URL(), InitialResourceVersions: map[string]string{fmt.Sprint("short-", kind): long}}
		for i := range 20 {
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, fmt.Sprint(long, kind, i))
			req.InitialResourceVersions[fmt.Sprint(long, kind, i)] = "1"
		}
		c.send(req)
	}
	h.wantLimited(limitNames)
	h.eventually("all are counted", func() bool { return testutil.ToFloat64(h.metrics.limited.WithLabelValues("names")) == 6*(20+20+1) })
	h.wantBoundedMemory(3) // 4 MB were sent
	h.wantNeighbourServed()
}

// TestLongestNameOfOurs: the endpoints of a TrafficSplit with as many backends as there may be, with names as long as they may be, are served.
func TestLongestNameOfOurs(t *testing.T) {
	name := "split|" + strings.Repeat("n", 63) + "/" + strings.Repeat("r", 63) + "|65535|plaintext|" + strings.TrimSuffix(strings.Repeat(strings.Repeat("b", 63)+",", 64), ",")
	if len(name) > longestName(resource.Endpoints) {
		t.Fatalf("%d bytes are refused, the bound is %d", len(name), longestName(resource.Endpoints))
	}
	h := startHostility(t, nil)
	c := h.connect(t, "cart-1")
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Endpoints.URL(), ResourceNamesSubscribe: []string{name}})
	h.eventually("it is looked at", func() bool {
		return slices.ContainsFunc(h.Proxies(), func(p ProxyState) bool {
			return slices.ContainsFunc(p.Pending.Refs, func(r resource.Ref) bool { return r.Name == name })
		})
	})
	if n := testutil.ToFloat64(h.metrics.limited.WithLabelValues("names")); n != 0 {
		t.Errorf("%v names are refused", n)
	}
}

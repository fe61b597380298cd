package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// services are lines of a view with Services at 10.96.0.0 and up, which may be learned.
func services(n int) []string {
	lines := []string{passthrough}
	for i := range n {
		lines = append(lines, fmt.Sprintf("bundle %[1]s 1 needs=cluster:%[1]s\ncluster %[1]s 1", serviceName(i)))
	}
	return lines
}

func serviceName(i int) string { return fmt.Sprintf("http|10.96.%d.%d:80", i/250, i%250) }

// TestLearnedNames: pods of a workload are sent what one of them asked for some time ago, and nothing else.
func TestLearnedNames(t *testing.T) {
	r := start(t, func(c *Config) { c.Linger = time.Millisecond })
	r.publish(newTestView(), append(services(9), "cluster http|10.0.0.9:80 a-pod")...)
	asking, sibling, stranger := r.connect(t, "cart-1"), r.connect(t, "cart-2"), r.connect(t, "other-1")
	for _, c := range []*client{asking, sibling, stranger} {
		// A stream's first request announces: others learn nothing from it.
		c.request("cluster", "+* +"+serviceName(7))
		c.want("cluster passthrough@1")
		c.want("cluster " + serviceName(7) + "@1")
		// Only after these requests does it announce all that could use a cluster.
		for _, kind := range []string{"listener", "vhost"} {
			c.request(kind, "")
			c.ack(c.receive())
		}
	}
	asking.request("cluster", "+http|10.0.0.9:80 +"+serviceName(5))
	asking.want("cluster " + serviceName(5) + "@1")
	if pushed := testutil.ToFloat64(r.metrics.pushed); pushed != 0 {
		t.Errorf("%v names pushed before they are a minute old", pushed)
	}
	now := time.Now()
	r.ageLearned(now.Add(r.config.LearnWindow + time.Second))
	sibling.want("cluster " + serviceName(5) + "@1")
	asking.request("cluster", "+"+serviceName(6))
	asking.want("cluster " + serviceName(6) + "@1")
	r.ageLearned(now.Add(3 * r.config.LearnWindow))
	sibling.want("cluster " + serviceName(6) + "@1")

	later := r.connect(t, "cart-1")
	later.request("cluster", "")
	later.want("cluster " + serviceName(5) + "@1")
	later.want("cluster " + serviceName(6) + "@1")
	r.until(t, "replaced", func(s []ProxyState) bool { return len(s) == 3 })
	for _, c := range []*client{sibling, later, stranger} {
		for _, got := range c.got {
			if strings.Contains(got, "10.0.0.9") || strings.Contains(got, serviceName(7)) || c == stranger {
				t.Errorf("learned %s", got)
			}
		}
	}
	r.until(t, "2 asked names and 4 pushed, each of two streams", func([]ProxyState) bool {
		return testutil.ToFloat64(r.metrics.asked) == 2 && testutil.ToFloat64(r.metrics.pushed) == 4
	})

	// Nobody asks any more: what was pushed is taken back, and asking for it again works.
	r.ageLearned(time.Now().Add(r.config.LearnedTTL + 3*r.config.LearnWindow))
	sibling.want("cluster -" + serviceName(5))
	sibling.request("cluster", "+"+serviceName(5))
	sibling.want("cluster " + serviceName(5) + "@1")
}

// TestScanIsNotLearned: of a pod that tries out 10,000 Services its siblings get none, whichever they are and however it goes on.
func TestScanIsNotLearned(t *testing.T) {
	c := Config{}.withDefaults()
	at := time.Unix(0, 0)
	var clockNow time.Duration
	l := newLearnedSet()
	ask := func(pod string, name int) {
		if l.pods[pod] == nil {
			l.pods[pod] = &teacher{pending: map[string]time.Time{}}
		}
		if p := l.pods[pod]; p.ask(1, c.LearnAsks, c.LearnWindow, at.Add(clockNow)) {
			p.pending[serviceName(name)] = at.Add(clockNow)
		}
	}
	wait := func(d time.Duration) {
		for range d / (10 * time.Second) {
			clockNow += 10 * time.Second
			l.age(at.Add(clockNow), &c)
		}
	}
	known := func() []string { return slices.Sorted(maps.Keys(l.asked)) }

	ask("sibling", 1)
	ask("scanner", 2)
	wait(2 * c.LearnWindow)
	if got := known(); !slices.Equal(got, []string{serviceName(1), serviceName(2)}) {
		t.Fatalf("learned %v before the scan", got)
	}
	// It begins slowly, goes fast, and ends slowly.
	for i := range 30 {
		ask("scanner", 1000+i)
		clockNow += time.Second
	}
	for i := range 10_000 {
		ask("scanner", 2000+i)
		if i%100 == 0 {
			wait(10 * time.Second)
		}
	}
	for i := range 50 {
		ask("scanner", 500+i)
		clockNow += time.Second
	}
	ask("sibling", 3)
	wait(3 * c.LearnWindow)
	if got := known(); !slices.Equal(got, []string{serviceName(1), serviceName(2), serviceName(3)}) {
		t.Errorf("%d names are learned after the scan, want what was asked for before it and what the sibling asked for: %.300v", len(got), got)
	}
	// A pod that scans no more is learned from again.
	ask("scanner", 4)
	wait(3 * c.LearnWindow)
	if got := known(); !slices.Contains(got, serviceName(4)) {
		t.Errorf("learned %v, want %s too", got, serviceName(4))
	}
	// One that scans so slowly that it can't be told from a busy one teaches as many as a pod may.
	for i := range 3000 {
		ask("slow", 3000+i)
		if i%100 == 0 {
			wait(c.LearnWindow)
		}
	}
	wait(3 * c.LearnWindow)
	if n := l.taught("slow"); n != c.PodNames {
		t.Errorf("%d names are learned of one pod, want %d", n, c.PodNames)
	}
	// Pods that ask no more are forgotten.
	wait(3 * c.LearnWindow)
	if len(l.pods) != 0 {
		t.Errorf("%d pods are remembered", len(l.pods))
	}
}

func TestLearnedSetIsBounded(t *testing.T) {
	l := newLearnedSet()
	by := func(pod string, s int64) lesson { return lesson{time.Unix(s, 0), pod} }
	l.learn("a", by("1", 1), 2, 2)
	l.learn("b", by("1", 2), 2, 2)
	l.learn("a", by("1", 3), 2, 2)
	if added, _ := l.learn("c", by("1", 4), 2, 2); added {
		t.Error("a pod taught more than it may")
	}
	added, removed := l.learn("c", by("2", 4), 2, 2)
	if !added || removed != "b" {
		t.Errorf("added %v, removed %q; want c to take the place of b, the one asked for least recently", added, removed)
	}
	if expired := l.expire(time.Unix(4, 0)); !slices.Equal(expired, []string{"a"}) {
		t.Errorf("expired %v, want a", expired)
	}
}

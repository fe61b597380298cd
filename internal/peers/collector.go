package peers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// Attempts to reach a replica come after minRetry, then after twice as long each time, up to maxRetry.
	minRetry, maxRetry = 200 * time.Millisecond, 2 * time.Second
	// judge is how often the collector looks whether a replica has become silent.
	judge = time.Second
)

// Collector reads the reports of all other live replicas. The leader has one for as long as it leads.
type Collector struct {
	// Self is the name of the leader's own pod.
	Self string
	// Port at which replicas serve their reports.
	Port string
	// TLS must take nobody for a replica who is none.
	TLS *tls.Config
	// Changed is called when Fleet may return something else.
	Changed func()
	Log     *slog.Logger

	mu       sync.Mutex
	informed bool // Follow was called
	replicas map[types.UID]*replica
}

// replica is a live one. What is not fixed is guarded by the collector.
type replica struct {
	name, address string
	stop          context.CancelFunc
	state         *State
	heard         time.Time
	silent        bool
}

// Fleet returns what is known of the proxies of all replicas, given what the leader knows.
func (c *Collector) Fleet(view View, own Own) Fleet {
	c.mu.Lock()
	defer c.mu.Unlock()
	replicas := make([]Replica, 0, len(c.replicas))
	for _, r := range c.replicas {
		replicas = append(replicas, Replica{Name: r.name, State: r.state, Heard: r.heard})
	}
	f := Merge(time.Now(), view, own, replicas)
	f.Incomplete = f.Incomplete || !c.informed
	return f
}

// Run notices replicas that become silent, and those that report again, until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	tick := time.NewTicker(judge)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if c.judge(now) {
				c.Changed()
			}
		}
	}
}

func (c *Collector) judge(now time.Time) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.replicas {
		silent := now.Sub(r.heard) >= SilentAfter
		if silent == r.silent {
			continue
		}
		r.silent, changed = silent, true
		if silent {
			c.Log.Error("a live replica does not report its proxies: conditions that count them are Unknown", "pod", r.name, "since", r.heard)
		} else {
			c.Log.Info("replica reports again", "pod", r.name)
		}
	}
	return changed
}

// Follow makes pods, all of the operator's, those that count. It reads from those that are live until ctx ends.
func (c *Collector) Follow(ctx context.Context, pods []corev1.Pod) {
	c.mu.Lock()
	live := map[types.UID]*replica{}
	for i := range pods {
		pod := &pods[i]
		if pod.Name == c.Self || !Live(pod) {
			continue
		}
		r := c.replicas[pod.UID]
		if r == nil || r.address != pod.Status.PodIP {
			r = c.start(ctx, pod)
		}
		live[pod.UID] = r
	}
	for uid, r := range c.replicas {
		if live[uid] != r {
			r.stop()
		}
	}
	c.replicas, c.informed = live, true
	c.mu.Unlock()
	c.Changed()
}

func (c *Collector) start(ctx context.Context, pod *corev1.Pod) *replica {
	ctx, stop := context.WithCancel(ctx)
	r := &replica{name: pod.Name, address: pod.Status.PodIP, stop: stop, heard: time.Now()}
	go c.read(ctx, r)
	return r
}

// read reads the reports of a replica, again and again, until ctx ends.
func (c *Collector) read(ctx context.Context, r *replica) {
	log := c.Log.With("pod", r.name)
	retry := minRetry
	for {
		reports, err := c.readOnce(ctx, r)
		if ctx.Err() != nil {
			return
		}
		if reports > 0 || retry == minRetry {
			log.Warn("reading the proxies of another replica", "reports", reports, "error", err)
		}
		if reports > 0 {
			retry = minRetry
		}
		// Jitter keeps two leaders, of which one has not noticed, from asking in step.
		timer := time.NewTimer(retry/2 + rand.N(retry)) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		retry = min(2*retry, maxRetry)
	}
}

// readOnce reads one stream until it ends or is silent, and returns how many reports it had.
func (c *Collector) readOnce(ctx context.Context, r *replica) (reports int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(SilentAfter, func() { cancel(fmt.Errorf("nothing for %s", SilentAfter)) })
	defer silence.Stop()
	transport := &http.Transport{TLSClientConfig: c.TLS, DisableKeepAlives: true, TLSHandshakeTimeout: SilentAfter / 2}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(r.address, c.Port)+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("it answers %s", response.Status)
	}
	state, decoder := &State{}, json.NewDecoder(response.Body)
	for {
		var report Report
		if err := decoder.Decode(&report); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return reports, err
		}
		silence.Reset(SilentAfter)
		reports++
		c.take(ctx, r, state, report)
	}
}

// take takes in a report. A new stream's state replaces that of the one before with its first report, which has all.
func (c *Collector) take(ctx context.Context, r *replica, state *State, report Report) {
	c.mu.Lock()
	now := time.Now()
	changed := r.state != state || !report.quiet()
	state.apply(report, now)
	r.state, r.heard = state, now
	c.mu.Unlock()
	if changed && ctx.Err() == nil {
		c.Changed()
	}
}

// Package xdsload is a load client for a control plane: many sidecars in one process, each with a connection, a token and a delta ADS
// stream of its own, which ask, acknowledge, warm and come back as Envoy does, and hold nothing but what a measurement needs.
package xdsload

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Target is the control plane.
type Target struct {
	// Address is host:port, ServerName the name in its certificate.
	Address, ServerName string
	Roots               *x509.CertPool
}

// Use is a destination that a sidecar calls: a name on the wire (http|10.96.0.5:80). Rules says that it has HTTP rules, so that the sidecar
// is not configured before it holds their virtual host.
type Use struct {
	Name  string
	Rules bool
}

// Proxy is one sidecar: its pod, the pod's token, and what it calls once it is ready.
type Proxy struct {
	Namespace, Pod, Token string
	Uses                  []Use
}

// Fleet is all sidecars of this process.
type Fleet struct {
	target   Target
	sidecars []*sidecar
	contents sync.Map // content → []resource.Ref, shared: most resources are the same for all
	watches  sync.Map // resource.Ref → *Receipts

	connecting sync.WaitGroup
	cancel     context.CancelFunc
	lost       atomic.Int64
	lastLoss   atomic.Pointer[error]
	received   atomic.Int64
	sent       atomic.Int64
	responses  atomic.Int64
	bodies     sync.Map // resource.Type → *atomic.Int64
}

// New returns a fleet that is not connected.
func New(target Target, proxies []Proxy) *Fleet {
	f := &Fleet{target: target}
	for i, p := range proxies {
		f.sidecars = append(f.sidecars, newSidecar(f, i, p))
	}
	return f
}

// Connect opens the streams of all sidecars at once and returns, sorted, how long each took until it was fully configured. Those that hold
// something from before announce it, as Envoy does. The error says which sidecar is not configured when ctx ends, and what it waits for.
// The streams go on until Disconnect; one that breaks is opened again after a moment and counted.
func (f *Fleet) Connect(ctx context.Context) ([]time.Duration, error) {
	streams, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	began := time.Now()
	for _, s := range f.sidecars {
		s.configured = make(chan struct{})
		f.connecting.Go(func() { s.runUntil(streams) })
	}
	took := make([]time.Duration, 0, len(f.sidecars))
	for _, s := range f.sidecars {
		select {
		case <-s.configured:
			took = append(took, s.configuredAt.Sub(began))
		case <-ctx.Done():
			return nil, fmt.Errorf("sidecar %s/%s is not configured after %v: %s", s.proxy.Namespace, s.proxy.Pod, time.Since(began).Round(time.Millisecond), s.waits())
		}
	}
	slices.Sort(took)
	return took, nil
}

// Disconnect ends all streams and returns when they have ended. What the sidecars hold stays.
func (f *Fleet) Disconnect() {
	if f.cancel != nil {
		f.cancel()
		f.connecting.Wait()
	}
}

// Wire returns how many bytes went over the connections so far, with TLS and HTTP/2: to the sidecars, and from them.
func (f *Fleet) Wire() (received, sent int64) { return f.received.Load(), f.sent.Load() }

// Bodies returns how many bytes of responses came so far, by their type: what of the wire is configuration, before TLS and HTTP/2.
func (f *Fleet) Bodies() map[resource.Type]int64 {
	out := map[resource.Type]int64{}
	f.bodies.Range(func(kind, n any) bool {
		out[kind.(resource.Type)] = n.(*atomic.Int64).Load()
		return true
	})
	return out
}

func (f *Fleet) note(kind resource.Type, bytes int) {
	n, _ := f.bodies.LoadOrStore(kind, new(atomic.Int64))
	n.(*atomic.Int64).Add(int64(bytes))
}

// Responses returns how many responses all sidecars got so far.
func (f *Fleet) Responses() int64 { return f.responses.Load() }

// Lost returns how many streams ended that nobody ended here, and what the last of them ended with.
func (f *Fleet) Lost() (int, error) {
	var last error
	if err := f.lastLoss.Load(); err != nil {
		last = *err
	}
	return int(f.lost.Load()), last
}

// Woken returns, by sidecar, how many responses it got so far.
func (f *Fleet) Woken() []int64 {
	out := make([]int64, len(f.sidecars))
	for i, s := range f.sidecars {
		out[i] = s.responses.Load()
	}
	return out
}

// Users returns the sidecars, by their place in the fleet, that use a destination.
func (f *Fleet) Users(name string) []int {
	var users []int
	for i, s := range f.sidecars {
		if slices.ContainsFunc(s.proxy.Uses, func(u Use) bool { return u.Name == name }) {
			users = append(users, i)
		}
	}
	return users
}

// Watch notes when each sidecar receives the resource in a state that match tells, until Forget. There is one watch a resource.
func (f *Fleet) Watch(ref resource.Ref, users int, match func(body []byte) bool) *Receipts {
	r := &Receipts{fleet: f, ref: ref, users: users, match: match, verdicts: map[string]bool{}, at: map[int]time.Time{}, all: make(chan struct{})}
	f.watches.Store(ref, r)
	return r
}

// Receipts says when sidecars received a change.
type Receipts struct {
	fleet *Fleet
	ref   resource.Ref
	users int
	match func([]byte) bool
	all   chan struct{}

	mu       sync.Mutex
	verdicts map[string]bool // by version
	at       map[int]time.Time
}

// All is closed once as many sidecars have received the change as use it.
func (r *Receipts) All() <-chan struct{} { return r.all }

// Forget ends the watch and returns when each sidecar received the change, by its place in the fleet.
func (r *Receipts) Forget() map[int]time.Time {
	r.fleet.watches.Delete(r.ref)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

func (r *Receipts) note(sidecar int, version string, body []byte, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fits, known := r.verdicts[version]
	if !known {
		fits = r.match(body)
		r.verdicts[version] = fits
	}
	if _, again := r.at[sidecar]; !fits || again {
		return
	}
	r.at[sidecar] = now
	if len(r.at) == r.users {
		close(r.all)
	}
}

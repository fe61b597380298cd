package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/cluster"
	"github.com/tulle-mesh/tulle/test/bench/result"
	"github.com/tulle-mesh/tulle/test/bench/xdsload"
)

// changeTimeout is when a change that has not arrived counts as lost.
const changeTimeout = 20 * time.Second

// receipts are what single changes led to.
type receipts struct {
	// last are the receipts by the last user of each change, all those by every user; since the write's return, sorted.
	last, all []time.Duration
	// others is how many responses went to sidecars that don't use what changed.
	others int64
	cost
	changes int
}

// changing makes changes, one after the other, each after the last one has arrived and a pause.
func (b *bench) changing(ctx context.Context, f *xdsload.Fleet, service int, n int, pause time.Duration, next func(i int) cluster.Change) (*receipts, error) {
	r := &receipts{changes: n}
	users := f.Users(b.cluster.Destination(service))
	before := f.Woken()
	m, err := b.meter(f)
	if err != nil {
		return nil, err
	}
	for i := range n {
		since, err := b.change(ctx, f, next(i), len(users))
		if err != nil {
			return nil, fmt.Errorf("change %d: %w", i, err)
		}
		r.all = append(r.all, since...)
		r.last = append(r.last, since[len(since)-1])
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	if r.cost, err = m.end(); err != nil {
		return nil, err
	}
	for i, woken := range f.Woken() {
		if _, uses := slices.BinarySearch(users, i); !uses {
			r.others += woken - before[i]
		}
	}
	slices.Sort(r.last)
	slices.Sort(r.all)
	return r, nil
}

// change makes one change, waits until all users have received it, and returns, sorted, how long after the write's return each did.
func (b *bench) change(ctx context.Context, f *xdsload.Fleet, c cluster.Change, users int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	arrived := f.Watch(c.Ref, users, c.Matches)
	defer arrived.Forget()
	written, err := c.Write(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-arrived.All():
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %d of %d users received the change within %v", c.Ref, len(arrived.Forget()), users, changeTimeout)
	}
	var since []time.Duration
	for _, at := range arrived.Forget() {
		since = append(since, at.Sub(written))
	}
	slices.Sort(since)
	return since, nil
}

// toggle makes the last endpoint of a Service ready when it is not, and the other way around. A case begins with what the last one left.
func (b *bench) toggle(service int) cluster.Change {
	ready := b.unready[service]
	b.unready[service] = !ready
	return b.cluster.EndpointChange(service, ready)
}

// toggles does so each time.
func (b *bench) toggles(service int) func(int) cluster.Change {
	return func(int) cluster.Change { return b.toggle(service) }
}

// single measures changes in the small mesh, each after quiet.
func (b *bench) single(ctx context.Context) error {
	f, err := b.newFleet(ctx, b.small)
	if err != nil {
		return err
	}
	if _, err := b.connect(ctx, f); err != nil {
		return err
	}
	defer f.Disconnect()
	n := b.changes - b.changes%2
	for _, kind := range []struct {
		name             string
		service, changes int
		pause            time.Duration
		next             func(int) cluster.Change
		p99, p50Istiod   float64
		p99Istiod        float64
		wire, wireIstiod float64
		cpuIstiod        float64
	}{
		{"one endpoint changes, all sidecars use it", cluster.Common, n, 60 * time.Millisecond, b.toggles(cluster.Common), 20, 130, 153, 0, 0, 0},
		{"one endpoint changes, one sidecar uses it", cluster.Lonely, n, 60 * time.Millisecond, b.toggles(cluster.Lonely), 20, 130, 153, 0, 0, 0},
		// The status that the operator writes after each is itself a change: quiet begins after it.
		{"one route weight changes, all sidecars use it", cluster.Ruled, max(2, n/4), 400 * time.Millisecond,
			func(i int) cluster.Change { return b.cluster.WeightChange(int32(11 + i%80)) }, 50, 700, 1000, 100, 51_000, 0.79}, //nolint:gosec // small
	} {
		profiled := b.cpu(ctx, kind.name, time.Duration(kind.changes)*kind.pause)
		r, err := b.changing(ctx, f, kind.service, kind.changes, kind.pause, kind.next)
		profiled()
		if err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		perChange := float64(r.wire) / float64(r.changes) / 1000
		b.say("%s: last user p50 %.1f, p99 %.1f, max %.1f ms; %.1f kB and %.2f ms of CPU each; %d responses to others; generator %.0f %%, API server %.0f %%, lag %v", kind.name,
			result.Quantile(r.last, 0.5), result.Quantile(r.last, 0.99), result.Quantile(r.last, 1), perChange, r.perChange(), r.others,
			100*r.share(r.client), 100*r.share(r.apiserver), r.lag)
		figures := []result.Figure{
			{Name: "last user informed, p50", Unit: "ms", Is: result.Quantile(r.last, 0.5), Baseline: &kind.p50Istiod, Of: istiod},
			{Name: "last user informed, p99", Unit: "ms", Is: result.Quantile(r.last, 0.99), Below: &kind.p99, Baseline: &kind.p99Istiod, Of: istiod,
				Note: fmt.Sprintf("%d changes, %.1f ms at most; the generator used %.0f %% of its CPU, kube-apiserver and etcd %.0f %% of the same; its goroutines woke up to %.1f ms late (p99)", r.changes,
					result.Quantile(r.last, 1), 100*r.share(r.client), 100*r.share(r.apiserver), float64(r.lag.Microseconds())/1000)},
			{Name: "all users, p50", Unit: "ms", Is: result.Quantile(r.all, 0.5)},
			{Name: "responses to sidecars that don't use it", Unit: "a change", Is: float64(r.others) / float64(r.changes), Below: new(0.01)},
			{Name: "on the wire, to all sidecars", Unit: "kB a change", Is: perChange},
			{Name: "CPU of the operator", Unit: "ms a change", Is: r.perChange()},
		}
		if kind.wire > 0 {
			figures[4].Below, figures[4].Baseline, figures[4].Of = &kind.wire, &kind.wireIstiod, istiod
			figures[5].Baseline, figures[5].Of = new(1000*kind.cpuIstiod), istiod
		}
		for _, figure := range append(figures, r.propagated()...) {
			figure.Case = fmt.Sprintf("2. %s (%s)", kind.name, b.small)
			b.run.Add(figure)
		}
	}
	return nil
}

// perChange returns the operator's CPU time a change, in milliseconds.
func (r *receipts) perChange() float64 {
	return r.server.Seconds() * 1000 / float64(r.changes)
}

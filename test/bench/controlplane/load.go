package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/cluster"
	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/bench/result"
	"github.com/tulle-mesh/tulle/test/bench/xdsload"
)

// loaded is what changes under load led to.
type loaded struct {
	all   []time.Duration // of every user of every change, since the write's return, sorted
	made  int
	late  int // changes that were not begun in time, since so many were still under way
	errs  []error
	cost  cost
	peak  int64
	after int64 // RSS
}

// underLoad has endpoints change at a rate in the large mesh, then all sidecars come back at once.
func (b *bench) underLoad(ctx context.Context) error {
	f, err := b.newFleet(ctx, b.big)
	if err != nil {
		return err
	}
	defer f.Disconnect()
	c, err := b.connect(ctx, f)
	if err != nil {
		return err
	}
	b.say("%d sidecars in %v, %v of CPU, RSS %d MB (peak %d MB)", b.big.sidecars, c.everyoneIn.Round(time.Millisecond), c.toLast.server, c.rss>>20, c.peak>>20)
	name := "3. Load: " + b.big.String()
	for _, figure := range []result.Figure{
		{Name: "all sidecars, which hold nothing, fully configured", Unit: "s", Is: c.everyoneIn.Seconds(),
			Note: b.limits(&c.toLast)},
		{Name: "CPU of the operator until then", Unit: "s", Is: c.toLast.server.Seconds()},
		{Name: "on the wire, to all sidecars", Unit: "MB", Is: megabytes(c.toQuiet.wire)},
	} {
		figure.Case = name
		b.run.Add(figure)
	}
	profiled := b.cpu(ctx, "load", b.options.load)
	l, err := b.load(ctx, f)
	profiled()
	b.heap(ctx, "load")
	if err != nil {
		return err
	}
	lost, lastLoss := f.Lost()
	note := fmt.Sprintf("%d changes, %d receipts; %s", l.made, len(l.all), b.limits(&l.cost))
	if l.late > 0 {
		note += fmt.Sprintf("; %d changes were left out, since as many as one a second a Service were under way", l.late)
	}
	why := ""
	if lastLoss != nil {
		why = "the last one: " + lastLoss.Error()
	}
	case3 := fmt.Sprintf("3. Load: %d endpoint changes/s for %v", b.rate, b.options.load)
	for _, figure := range []result.Figure{
		{Name: "receipt by a user, p50", Unit: "ms", Is: result.Quantile(l.all, 0.5)},
		{Name: "receipt by a user, p99", Unit: "ms", Is: result.Quantile(l.all, 0.99), Below: new(200.0), Note: note},
		{Name: "receipt by a user, max", Unit: "ms", Is: result.Quantile(l.all, 1)},
		{Name: "CPU of the operator", Unit: "cores", Is: l.cost.share(l.cost.server), Below: new(1.0)},
		{Name: "peak RSS of the operator", Unit: "MB", Is: megabytes(l.peak), Below: new(1000.0)},
		{Name: "streams lost", Unit: "", Is: float64(lost), Below: new(1.0), Note: why},
		{Name: "changes not received by all users", Unit: "", Is: float64(len(l.errs)), Below: new(1.0)},
	} {
		figure.Case = case3
		b.run.Add(figure)
	}
	for _, figure := range l.cost.propagated() {
		figure.Case = case3
		b.run.Add(figure)
	}
	b.say("under load: p50 %.1f, p99 %.1f, max %.1f ms, %.2f cores, peak %d MB, %d lost, %d failed; %s", result.Quantile(l.all, 0.5), result.Quantile(l.all, 0.99),
		result.Quantile(l.all, 1), l.cost.share(l.cost.server), l.peak>>20, lost, len(l.errs), note)
	if len(l.errs) > 0 {
		b.say("the first failure: %v", l.errs[0])
	}
	return b.reconnect(ctx, f)
}

// limits says what a figure may be limited by.
func (b *bench) limits(c *cost) string {
	return fmt.Sprintf("the operator used %.0f %% of its CPU; of the other one the generator %.0f %%, kube-apiserver and etcd %.0f %%; the generator's goroutines woke up to %.1f ms late (p99)",
		100*c.share(c.server), 100*c.share(c.client), 100*c.share(c.apiserver), float64(c.lag.Microseconds())/1000)
}

// load makes changes at the rate. A Service changes again only after its last change has arrived.
func (b *bench) load(ctx context.Context, f *xdsload.Fleet) (*loaded, error) {
	l := &loaded{}
	if err := process.ResetPeak(b.manager.Pid); err != nil {
		return nil, err
	}
	m, err := b.meter(f)
	if err != nil {
		return nil, err
	}
	users := map[int]int{}
	for service := range b.cluster.Services() {
		users[service] = len(f.Users(b.cluster.Destination(service)))
	}
	var mu sync.Mutex
	var running sync.WaitGroup
	busy := map[int]bool{}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable
	tick := time.NewTicker(time.Second / time.Duration(b.rate))
	defer tick.Stop()
	for end := time.Now().Add(b.options.load); time.Now().Before(end) && ctx.Err() == nil; <-tick.C {
		service := cluster.Common + random.IntN(b.cluster.Services()-cluster.Common)
		mu.Lock()
		for tries := 0; (busy[service] || !cluster.Plain(service) || users[service] == 0) && tries < 100; tries++ {
			service = cluster.Common + random.IntN(b.cluster.Services()-cluster.Common)
		}
		if busy[service] || !cluster.Plain(service) || users[service] == 0 {
			l.late++
			mu.Unlock()
			continue
		}
		busy[service] = true
		change := b.toggle(service)
		l.made++
		mu.Unlock()
		running.Go(func() {
			since, err := b.change(ctx, f, change, users[service])
			mu.Lock()
			defer mu.Unlock()
			delete(busy, service)
			l.all = append(l.all, since...)
			if err != nil {
				l.errs = append(l.errs, err)
			}
		})
	}
	running.Wait()
	if l.cost, err = m.end(); err != nil {
		return nil, err
	}
	slices.Sort(l.all)
	l.after, l.peak, err = process.RSS(b.manager.Pid)
	return l, errors.Join(err, ctx.Err())
}

// reconnect has all sidecars come back at once, with what they hold.
func (b *bench) reconnect(ctx context.Context, f *xdsload.Fleet) error {
	before, _, err := process.RSS(b.manager.Pid)
	if err != nil {
		return err
	}
	f.Disconnect()
	profiled := b.cpu(ctx, "reconnect", 10*time.Second)
	c, err := b.connect(ctx, f)
	profiled()
	b.heap(ctx, "reconnected")
	if err != nil {
		return err
	}
	for _, figure := range []result.Figure{
		{Name: "all sidecars, which hold everything, served again", Unit: "s", Is: c.everyoneIn.Seconds(), Below: new(10.0), Note: b.limits(&c.toLast)},
		{Name: "CPU of the operator until then", Unit: "s", Is: c.toLast.server.Seconds()},
		{Name: "on the wire, to all sidecars", Unit: "MB", Is: megabytes(c.toQuiet.wire)},
		{Name: "peak RSS, as a part of that before", Unit: "", Is: float64(c.peak) / float64(before), Below: new(2.0),
			Note: fmt.Sprintf("%d MB before, %d MB at most", before>>20, c.peak>>20)},
	} {
		figure.Case = fmt.Sprintf("3. All %d reconnect at once", b.big.sidecars)
		b.run.Add(figure)
	}
	b.say("reconnected in %v, %v of CPU, RSS %d MB before, peak %d MB", c.everyoneIn.Round(time.Millisecond), c.toLast.server, before>>20, c.peak>>20)
	return nil
}

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/bench/result"
	"github.com/tulle-mesh/tulle/test/bench/xdsload"
)

// istiod names the baseline of the first cases: figures that were given with the goals, of the same work on the same kind of machine.
const istiod = "istiod (2026-08), as it comes"

// configuration is what it took to configure a fleet.
type configuration struct {
	took       []time.Duration // of each sidecar, sorted
	toLast     cost            // until the last one was configured
	toQuiet    cost            // until the operator was quiet again, with what it wrote to the API server
	rss, peak  int64
	beforeRSS  int64
	everyoneIn time.Duration
	bodies     map[resource.Type]int64
}

// connect connects a fleet and measures.
func (b *bench) connect(ctx context.Context, f *xdsload.Fleet) (*configuration, error) {
	c := &configuration{}
	var err error
	if c.beforeRSS, _, err = process.RSS(b.manager.Pid); err != nil {
		return nil, err
	}
	if err := process.ResetPeak(b.manager.Pid); err != nil {
		return nil, err
	}
	last, err := b.meter(f)
	if err != nil {
		return nil, err
	}
	quiet, err := b.meter(f)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if c.took, err = f.Connect(limited); err != nil {
		return nil, err
	}
	c.everyoneIn = c.took[len(c.took)-1]
	if c.toLast, err = last.end(); err != nil {
		return nil, err
	}
	if err := b.manager.Quiet(ctx); err != nil {
		return nil, err
	}
	if c.toQuiet, err = quiet.end(); err != nil {
		return nil, err
	}
	c.bodies = f.Bodies()
	c.rss, c.peak, err = process.RSS(b.manager.Pid)
	return c, err
}

// newFleet makes the sidecars of a size.
func (b *bench) newFleet(ctx context.Context, s size) (*xdsload.Fleet, error) {
	proxies, err := b.cluster.Proxies(ctx, s.sidecars, s.uses)
	if err != nil {
		return nil, err
	}
	target, err := b.cluster.Target(ctx)
	if err != nil {
		return nil, err
	}
	return xdsload.New(target, proxies), nil
}

// first measures how a fresh operator configures a small mesh's sidecars, which all come at once and hold nothing.
func (b *bench) first(ctx context.Context) error {
	var all []*configuration
	for round := range b.rounds {
		if round > 0 {
			if err := b.restart(ctx); err != nil {
				return err
			}
		}
		f, err := b.newFleet(ctx, b.small)
		if err != nil {
			return err
		}
		c, err := b.connect(ctx, f)
		b.heap(ctx, "connected")
		f.Disconnect()
		if err != nil {
			return err
		}
		b.say("round %d: %d sidecars in %v (p50 %v), %v of CPU (%v until quiet), %.2f MB, RSS %d MB, peak %d MB; generator %.0f %% of its CPU, API server %.0f %%, lag %v", round+1,
			b.small.sidecars, c.everyoneIn.Round(time.Millisecond), c.took[len(c.took)/2].Round(time.Millisecond), c.toLast.server, c.toQuiet.server,
			megabytes(c.toQuiet.wire), c.rss>>20, c.peak>>20, 100*c.toLast.share(c.toLast.client), 100*c.toLast.share(c.toLast.apiserver), c.toLast.lag)
		all = append(all, c)
	}
	slices.SortFunc(all, func(x, y *configuration) int { return int(x.everyoneIn - y.everyoneIn) })
	c := all[len(all)/2]
	bodies := fmt.Sprintf("%.2f MB of clusters, %.2f of endpoints, %.2f of listeners, %.2f of secrets, %.2f of routes and virtual hosts", megabytes(c.bodies[resource.Cluster]),
		megabytes(c.bodies[resource.Endpoints]), megabytes(c.bodies[resource.Listener]), megabytes(c.bodies[resource.Secret]),
		megabytes(c.bodies[resource.RouteConfiguration]+c.bodies[resource.VirtualHost]))
	name := "1. First configuration: " + b.small.String()
	generator := fmt.Sprintf("median of %d rounds, %.2f to %.2f s; meanwhile the generator used %.0f %% of its CPU, kube-apiserver and etcd %.0f %% of the same", len(all),
		all[0].everyoneIn.Seconds(), all[len(all)-1].everyoneIn.Seconds(), 100*c.toLast.share(c.toLast.client), 100*c.toLast.share(c.toLast.apiserver))
	for _, f := range []result.Figure{
		{Name: "all sidecars fully configured", Unit: "s", Is: c.everyoneIn.Seconds(), Below: new(1.0), Baseline: new(10.4), Note: generator},
		{Name: "CPU of the operator until then", Unit: "s", Is: c.toLast.server.Seconds(), Below: new(1.0), Baseline: new(10.0)},
		{Name: "CPU of the operator until it was quiet", Unit: "s", Is: c.toQuiet.server.Seconds(), Note: "with the statuses that it writes"},
		{Name: "on the wire, to all sidecars", Unit: "MB", Is: megabytes(c.toQuiet.wire), Below: new(10.0), Baseline: new(245.0), Note: "bytes of the connections, with TLS; in them " + bodies},
		{Name: "peak RSS of the operator", Unit: "MB", Is: megabytes(c.peak), Below: new(120.0), Baseline: new(532.0)},
	} {
		f.Case = name
		if f.Baseline != nil {
			f.Of = istiod
		}
		b.run.Add(f)
	}
	return nil
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

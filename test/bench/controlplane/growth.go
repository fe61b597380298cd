package main

import (
	"context"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/cluster"
	"github.com/tulle-mesh/tulle/test/bench/result"
)

// growServices measures what the number of services adds to changes that have the same users, and to memory.
func (b *bench) growServices(ctx context.Context) error {
	s := b.small
	s.services = b.cluster.Services()
	s.sidecars = min(s.sidecars, s.services)
	return b.growth(ctx, s, "services in the mesh", float64(s.services))
}

// growSidecars measures what the number of sidecars adds.
func (b *bench) growSidecars(ctx context.Context) error {
	for _, n := range b.sidecars {
		if err := b.restart(ctx); err != nil {
			return err
		}
		if err := b.growth(ctx, size{b.cluster.Services(), n, b.small.uses}, "sidecars connected", float64(n)); err != nil {
			return err
		}
	}
	return nil
}

// growth measures the changes of what one sidecar and what all sidecars use, and memory.
func (b *bench) growth(ctx context.Context, s size, axis string, x float64) error {
	f, err := b.newFleet(ctx, s)
	if err != nil {
		return err
	}
	defer f.Disconnect()
	c, err := b.connect(ctx, f)
	if err != nil {
		return err
	}
	b.run.Plot("memory by "+axis, "RSS of the operator, at rest", axis, "MB", x, megabytes(c.rss))
	b.run.Plot("memory by "+axis, "peak while all connect", axis, "MB", x, megabytes(c.peak))
	b.run.Plot("first configuration by "+axis, "all sidecars configured", axis, "s", x, c.everyoneIn.Seconds())
	b.run.Plot("first configuration by "+axis, "CPU of the operator", axis, "s", x, c.toLast.server.Seconds())
	for _, kind := range []struct {
		line    string
		service int
	}{{"one sidecar uses it", cluster.Lonely}, {"all sidecars use it", cluster.Common}} {
		changes := b.changes - b.changes%2
		r, err := b.changing(ctx, f, kind.service, changes, time.Millisecond, b.toggles(kind.service))
		if err != nil {
			return err
		}
		users := float64(len(f.Users(b.cluster.Destination(kind.service))))
		b.run.Plot("CPU of an endpoint change by "+axis, kind.line, axis, "ms a change", x, r.perChange())
		b.run.Plot("receipt of an endpoint change by "+axis, kind.line+", last one, p50", axis, "ms", x, result.Quantile(r.last, 0.5))
		b.run.Plot("CPU of an endpoint change by its users", axis+" vary", "users of the service", "ms a change", users, r.perChange())
		b.say("%v of %s, %s: %.3f ms of CPU a change, last receipt p50 %.1f ms, %.2f responses to others a change", x, axis, kind.line, r.perChange(),
			result.Quantile(r.last, 0.5), float64(r.others)/float64(r.changes))
	}
	return nil
}

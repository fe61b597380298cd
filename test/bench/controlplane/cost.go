package main

import (
	"fmt"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/cluster"
	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/bench/result"
	"github.com/tulle-mesh/tulle/test/bench/xdsload"
)

// cost is what a stretch of time cost.
type cost struct {
	took           time.Duration
	server, client time.Duration // CPU
	apiserver      time.Duration // CPU of kube-apiserver and etcd
	// wire is what went to the sidecars, up what came from them, in bytes.
	wire, up  int64
	responses int64
	// propagation is how long changes took, as the operator itself measures it (tulle_xds_propagation_seconds): from its informer's event to a sidecar's
	// first response being sent.
	propagation cluster.Histogram
	// lag is how late the generator's goroutines woke up, at the 99th percentile.
	lag time.Duration
}

// meter measures a cost.
type meter struct {
	b     *bench
	fleet *xdsload.Fleet
	began time.Time
	last  cost
	lag   *process.Lag
}

func (b *bench) meter(f *xdsload.Fleet) (*meter, error) {
	m := &meter{b: b, fleet: f, began: time.Now(), lag: process.MeasureLag()}
	var err error
	m.last, err = m.read()
	return m, err
}

// end returns the cost since the beginning.
func (m *meter) end() (cost, error) {
	took := time.Since(m.began)
	now, err := m.read()
	return cost{
		took: took, server: now.server - m.last.server, client: now.client - m.last.client, apiserver: now.apiserver - m.last.apiserver,
		wire: now.wire - m.last.wire, up: now.up - m.last.up, responses: now.responses - m.last.responses, lag: m.lag.End(),
		propagation: now.propagation.Since(m.last.propagation),
	}, err
}

func (m *meter) read() (cost, error) {
	var c cost
	var err error
	if c.server, err = process.CPU(m.b.manager.Pid); err != nil {
		return c, err
	}
	if c.client, err = process.CPU(os.Getpid()); err != nil {
		return c, err
	}
	for _, name := range []string{"kube-apiserver", "etcd"} {
		for _, pid := range m.b.children[name] {
			used, err := process.CPU(pid)
			if err != nil {
				return c, err
			}
			c.apiserver += used
		}
	}
	c.wire, c.up = m.fleet.Wire()
	c.responses = m.fleet.Responses()
	c.propagation, err = m.b.manager.Histogram("tulle_xds_propagation_seconds")
	return c, err
}

// propagated are the figures of the operator's own measure, beside which the sidecars' stand.
func (c *cost) propagated() []result.Figure {
	note := fmt.Sprintf("%d pushes that tulle_xds_propagation_seconds counted, from the informer's event to the response being sent; the bound of its bucket", c.propagation.Count())
	const most = 1_000_000 // ms; the last bucket has no bound
	return []result.Figure{
		{Name: "propagation as the operator measures it, p50 at most", Unit: "ms", Is: min(most, 1000*c.propagation.AtMost(0.5)), Note: note},
		{Name: "propagation as the operator measures it, p99 at most", Unit: "ms", Is: min(most, 1000*c.propagation.AtMost(0.99))},
	}
}

// share returns CPU time as a part of one core.
func (c *cost) share(used time.Duration) float64 { return used.Seconds() / c.took.Seconds() }

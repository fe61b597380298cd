package operator

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// sweepPeriod is how often what was compiled and nobody watches any more is forgotten.
const sweepPeriod = time.Minute

// sweep forgets what was compiled and nobody watches any more, until ctx ends.
func (o *operator) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			o.publisher.Sweep(o.xds.Watched)
		}
	}
}

// compileFailures returns what counts and logs the resources that can't be made.
func (o *operator) compileFailures() (func(resource.ScopedRef, error), error) {
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "tulle", Subsystem: "compile", Name: "failures_total",
		Help: "Resources that could not be made, by cause: invalid (Envoy's own rules refuse it) or panic (a programming error).",
	}, []string{"cause"})
	if o.Registry != nil {
		if err := o.Registry.Register(failures); err != nil {
			return nil, err
		}
	}
	return func(ref resource.ScopedRef, err error) {
		cause := "invalid"
		if p := (*compile.Panic)(nil); errors.As(err, &p) {
			cause = "panic"
		}
		failures.WithLabelValues(cause).Inc()
		o.Log.Error("cannot compile", "part", "compile", "resource", ref.Ref.String(), "pod", ref.Pod, "error", err)
	}, nil
}

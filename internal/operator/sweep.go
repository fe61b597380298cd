package operator

import (
	"context"
	"runtime/debug"
	"time"
)

// sweepPeriod is how often what was compiled and nobody watches any more is forgotten.
const sweepPeriod = time.Minute

// sweep forgets what was compiled and nobody watches any more, and publishes what did not reach everybody, until ctx ends.
func (o *operator) sweep(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-o.ingest.Published():
	}
	// All that the cluster has was read at once; without this, the memory that it took is given back over minutes.
	debug.FreeOSMemory()
	if err := releaseProgram(); err != nil {
		o.Log.Info("pages of the program that only the start needed stay in memory", "error", err)
	}
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			o.publisher.Sweep(o.xds.Watched)
			o.publisher.Again()
		}
	}
}

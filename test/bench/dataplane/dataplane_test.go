// Package dataplane measures what real sidecars cost, beside stock Envoys with as little configuration as there can be, and beside none.
package dataplane

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/bench/result"
)

// full is what the goals are for, quick what shows in two minutes that it all works.
func full(fortio string) Options {
	return Options{
		Fortio: fortio, LoadCPU: 0, ProxyCPU: 1, Callers: 8, Rounds: 5, Fixed: 2 * time.Second, Saturated: 2 * time.Second,
		Rate: 1000, Within: 1.1, FirstRounds: 3, Virtual: 500, HeapRounds: 3, Services: 10_000, Parts: true,
	}
}

func quick(fortio string) Options {
	o := full(fortio)
	o.Rounds, o.Fixed, o.Saturated = 1, 500*time.Millisecond, 500*time.Millisecond
	o.FirstRounds, o.Virtual, o.HeapRounds, o.Services, o.Parts = 1, 100, 1, 1000, false
	return o
}

// BenchmarkDataPlane runs once, whatever b.N is. TULLE_BENCH_FORTIO names the load generator, TULLE_BENCH_OUT the file for the results, and
// TULLE_BENCH_QUICK makes it short. Nothing here fails by time; it does when a request fails.
func BenchmarkDataPlane(b *testing.B) {
	fortio, err := filepath.Abs(cmp.Or(os.Getenv("TULLE_BENCH_FORTIO"), "../../../bin/fortio"))
	if err != nil {
		b.Fatal(err)
	}
	o := full(fortio)
	if os.Getenv("TULLE_BENCH_QUICK") != "" {
		o = quick(fortio)
	}
	run := result.New("data plane")
	run.Condition("all Envoys on CPU %d, with 2 workers each; the generator, the servers and the control plane on CPU %d", o.ProxyCPU, o.LoadCPU)
	run.Condition("fortio 1.40.1 as client and server, %d connections, no retries: a run in which the server answered other than the client sent ends the benchmark", o.Callers)
	run.Condition("loads of %s at %g requests/s and of %s at saturation, %d rounds of all ways in turn; figures are medians, with the least and the most in the last column",
		o.Fixed, o.Rate, o.Saturated, o.Rounds)
	run.Condition("each app and its proxy in a network namespace of its own, joined by a bridge; CPU time of processes by their clock")
	if err := process.Pin(os.Getpid(), []int{o.LoadCPU}); err != nil {
		b.Fatal(err)
	}
	b.Run("traffic", func(b *testing.B) { traffic(b, run, o) })
	b.Run("first", func(b *testing.B) { first(b, run, o) })
	b.Run("heap", func(b *testing.B) { heap(b, run, o) })
	if o.Parts {
		b.Run("heap-parts", func(b *testing.B) { heapParts(b, run) })
		b.Run("cpu-parts", func(b *testing.B) { cpuParts(b, run, o) })
	}
	b.Run("resident", func(b *testing.B) { resident(b, run, o) })
	fmt.Println(run.Table())
	if out := os.Getenv("TULLE_BENCH_OUT"); out != "" && !b.Failed() {
		if err := run.Write(out); err != nil {
			b.Fatal(err)
		}
	}
}

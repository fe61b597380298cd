package dataplane

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/bench/result"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// world is one with the given objects, backends and a client.
func world(t testing.TB, services string, options ...envoy.Option) *envoy.World {
	t.Helper()
	file := filepath.Join(t.TempDir(), "world.yaml")
	if err := os.WriteFile(file, []byte(services+backends), 0o600); err != nil {
		t.Fatal(err)
	}
	return envoy.Start(t, file, options...)
}

// How many services are used for the heap of one: it is what those beyond the first few add.
const few, more = 10, 110

// heap measures the heap of a service that is used: what it is told of it, and what the connections to it cost until they end.
func heap(t testing.TB, run *result.Run, o Options) {
	l4, l7 := layers()
	for _, c := range []struct {
		layer
		what string
		goal float64
	}{
		{l4, "at L4 with mTLS", 0.09},
		{l7, "with HTTP rules and two versions", 0.15},
	} {
		w := world(t, c.mesh(more)+c.services(more))
		var configured, connected []float64
		for range o.HeapRounds {
			with, without := heapOf(t, w, c.layer)
			configured, connected = append(configured, without), append(connected, with)
		}
		goal := c.goal
		run.Add(result.Figure{Case: heapCase, Name: "for each used service " + c.what, Unit: "MB", Is: median(configured), Rounds: configured, Below: &goal,
			Note: fmt.Sprintf("what services %d to %d add to Envoy's allocated memory after a request each, idle connections closed", few+1, more)})
		run.Add(result.Figure{Case: heapCase, Name: "for each used service " + c.what + ", and a connection to it", Unit: "MB", Is: median(connected), Rounds: connected})
	}
}

const heapCase = "Heap of a sidecar"

// heapOf returns what a used service adds to the heap of a fresh proxy, in MB: with the connections that it keeps to it, and without.
func heapOf(t testing.TB, w *envoy.World, l layer) (with, without float64) {
	t.Helper()
	client := w.Pod("client")
	client.ForgetAndRestartProxy()
	before := w.Answered()
	var connected, idle []int64
	used := 0
	for _, until := range []int{few, more} {
		for ; used < until; used++ {
			client.MustCall(l.call(used))
		}
		connected = append(connected, client.SettledHeap())
		for _, backend := range []string{"backend-v1", "backend-v2"} {
			w.Pod(backend).RestartProxy() // which ends all connections to it
		}
		idle = append(idle, client.SettledHeap())
	}
	if n := w.Answered() - before; n != more {
		t.Errorf("the proxy asked for %d destinations, and %d were called", n, more)
	}
	each := func(heaps []int64) float64 { return float64(heaps[1]-heaps[0]) / (more - few) / 1e6 }
	return each(connected), each(idle)
}

// resident measures the memory of a sidecar that uses ten services of a small mesh and of a large one.
func resident(t testing.TB, run *result.Run, o Options) {
	l4, l7 := layers()
	goal := 75.0
	var small float64
	for _, services := range []int{few, o.Services} {
		w := world(t, l7.mesh(few/2)+l7.services(few/2)+l4.services(services-few/2))
		client := w.Pod("client")
		var all []float64
		for range o.HeapRounds {
			client.ForgetAndRestartProxy()
			for i := range few / 2 {
				for range 100 {
					client.MustCall(l7.call(i))
					client.MustCall(l4.call(i * (services - few) / few * 2))
				}
			}
			client.SettledHeap()
			now, _, err := process.RSS(client.ProxyPID())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, float64(now)/1e6)
		}
		f := result.Figure{Case: "Memory of a sidecar that uses 10 services", Name: fmt.Sprintf("RSS, %d services in the mesh", services), Unit: "MB",
			Is: median(all), Rounds: all, Below: &goal, Note: "half of those used have HTTP rules and two versions; 100 requests each"}
		if baseline := small; baseline > 0 {
			f.Baseline, f.Of = &baseline, fmt.Sprintf("%d services in the mesh", few)
		}
		small = f.Is
		run.Add(f)
	}
}

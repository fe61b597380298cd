package dataplane

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/result"
)

// Options say how much is measured.
type Options struct {
	// Fortio is the path of the load generator and server.
	Fortio string
	// LoadCPU is that of the generator, the server and the control plane, ProxyCPU that of all Envoys.
	LoadCPU, ProxyCPU int
	// Callers is how many connections a load has.
	Callers int
	// Rounds of all paths, and how long each load takes at the rate and at saturation.
	Rounds    int
	Fixed     time.Duration
	Saturated time.Duration
	// Rate of the loads that are not at saturation, in requests a second.
	Rate float64
	// Within is the goal: to cost at most this much of what the stock Envoys cost.
	Within float64
	// FirstRounds is how many fresh proxies make first requests, Virtual how many virtual hosts each then holds.
	FirstRounds, Virtual int
	// HeapRounds is how many fresh proxies each figure of memory is the median of.
	HeapRounds int
	// Services is how many there are in the large mesh.
	Services int
	// Parts says whether what costs heap is looked for.
	Parts bool
}

// pace is a rate with its name; 0 is as many as there can be.
type pace struct {
	name     string
	rate     float64
	duration time.Duration
}

// traffic measures all paths with all protocols, in rounds that go through the paths in turn, and notes what came of it.
func traffic(t testing.TB, run *result.Run, o Options) {
	all := paths(t, o)
	for _, protocol := range protocols() {
		for _, pace := range []pace{
			{fmt.Sprintf("%g requests/s", o.Rate), o.Rate, o.Fixed},
			{"saturation", 0, o.Saturated},
		} {
			samples := map[string][]sample{}
			for range o.Rounds {
				for _, p := range all {
					if !p.carries(protocol) {
						continue
					}
					s, err := p.load(o, protocol, pace.rate, pace.duration)
					if err != nil {
						t.Fatalf("%s over %s at %s: %v", protocol.Title, p.name, pace.name, err)
					}
					samples[p.name] = append(samples[p.name], s)
				}
			}
			note(run, o, fmt.Sprintf("Traffic: %s, %s", protocol.Title, pace.name), pace.rate == 0, samples)
		}
	}
}

// note adds a protocol's figures at a pace: what the proxies add to going directly, and what they cost.
func note(run *result.Run, o Options, name string, saturated bool, samples map[string][]sample) {
	for _, q := range []struct {
		name string
		of   func(sample) float64
	}{
		{"p50", func(s sample) float64 { return s.P50 }},
		{"p90", func(s sample) float64 { return s.P90 }},
		{"p99", func(s sample) float64 { return s.P99 }},
	} {
		added := func(path string) []float64 { return over(samples[path], samples[direct], q.of) }
		f := compare(name, "added at "+q.name, "ms", added(tulleName), added(stockTwo))
		f.Note = fmt.Sprintf("%s; direct %s ms", f.Note, result.Number(median(each(samples[direct], q.of))))
		if q.name == "p99" && !saturated {
			f.Below = below(o, f)
		}
		run.Add(f)
		one := compare(name, "added at "+q.name+" by one stock Envoy, plaintext", "ms", added(stockOne), added(stockTwo))
		run.Add(one)
	}
	if saturated {
		// What a proxy adds to the latency of another, higher load says little: the goal is for the latency itself.
		p99 := func(s sample) float64 { return s.P99 }
		f := compare(name, "p99", "ms", each(samples[tulleName], p99), each(samples[stockTwo], p99))
		f.Below = below(o, f)
		run.Add(f)
	}
	f := compare(name, "CPU of both proxies per 1,000 requests", "ms", each(samples[tulleName], sample.cpu), each(samples[stockTwo], sample.cpu))
	f.Below = below(o, f)
	f.Note += "; " + sides("of Tulle", samples[tulleName]) + ", " + sides("of the stock Envoys", samples[stockTwo])
	run.Add(f)
	run.Add(compare(name, "CPU of one stock Envoy per 1,000 requests, plaintext", "ms", each(samples[stockOne], sample.cpu), each(samples[stockTwo], sample.cpu)))
	if between := samples[stockHTTP2]; len(between) > 0 {
		run.Add(compare(name, "CPU of both stock Envoys per 1,000 requests, with HTTP/2 between them", "ms", each(between, sample.cpu), each(samples[stockTwo], sample.cpu)))
	}
	if saturated {
		rate := func(s sample) float64 { return s.Rate }
		f := compare(name, "requests/s", "", each(samples[tulleName], rate), each(samples[stockTwo], rate))
		f.Note += "; direct " + result.Number(median(each(samples[direct], rate)))
		run.Add(f)
	}
	generator := func(s sample) float64 { return 100 * (s.ClientCPU + s.ServerCPU) }
	f = compare(name, "CPU of the generator and the server", "%", each(samples[tulleName], generator), each(samples[direct], generator))
	f.Of = direct
	run.Add(f)
}

// compare makes a figure of rounds, with the stock Envoys' as baseline.
func compare(name, what, unit string, is, baseline []float64) result.Figure {
	b := median(baseline)
	return result.Figure{
		Case: name, Name: what, Unit: unit, Is: median(is), Rounds: is, Baseline: &b, Of: stockTwo,
		Note: fmt.Sprintf("%s to %s, baseline %s to %s",
			result.Number(slices.Min(is)), result.Number(slices.Max(is)), result.Number(slices.Min(baseline)), result.Number(slices.Max(baseline))),
	}
}

// below is the goal that goes with a figure's baseline.
func below(o Options, f result.Figure) *float64 {
	goal := *f.Baseline * o.Within
	return &goal
}

// sides says what the client's and the server's proxy use per 1,000 requests.
func sides(whose string, samples []sample) string {
	side := func(i int) string {
		return result.Number(median(each(samples, func(s sample) float64 { return s.CPU[i] })))
	}
	system := median(each(samples, func(s sample) float64 { return s.System }))
	return fmt.Sprintf("%s the client's %s, the server's %s, %s in the kernel", whose, side(0), side(1), result.Number(system))
}

func each(samples []sample, of func(sample) float64) []float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, of(s))
	}
	return all
}

// over is what samples are above those of the same round that went directly.
func over(samples, base []sample, of func(sample) float64) []float64 {
	var all []float64
	for i, s := range samples {
		all = append(all, of(s)-of(base[i]))
	}
	return all
}

// median of at least one value.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

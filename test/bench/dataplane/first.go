package dataplane

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/result"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// apart is how long after an answer the next destination is asked for: a little more than the 5 ms within which the control plane answers
// all asks together, so that each is alone.
const apart = 8 * time.Millisecond

// held is up to how many virtual hosts the goals are for.
const held = 100

// bucket is how many first requests make a point of the plot.
const bucket = 25

// times are those of the requests of one proxy to its destinations in turn: of the first to each, and of the second.
type times struct{ first, second []time.Duration }

// first measures what the first request to a destination costs: its proxy asks the control plane, and waits. That each was the first is
// said by the control plane's count of answers; that no second one was, too.
func first(t testing.TB, run *result.Run, o Options) {
	l4, l7 := layers()
	for _, c := range []struct {
		layer
		what string
		goal float64
	}{
		{l4, "at L4 with mTLS", 5},
		{l7, fmt.Sprintf("with HTTP rules, up to %d virtual hosts held", held), 10},
	} {
		w := world(t, c.mesh(o.Virtual)+c.services(o.Virtual))
		var near times
		plot := map[int][]time.Duration{}
		for range o.FirstRounds {
			w.Pod("client").ForgetAndRestartProxy()
			all := firsts(t, w, c.layer, o.Virtual, o.Virtual)
			near.first = append(near.first, all.first[:min(held, o.Virtual)]...)
			near.second = append(near.second, all.second[:min(held, o.Virtual)]...)
			for i, d := range all.first {
				plot[i/bucket] = append(plot[i/bucket], d)
			}
		}
		noteFirst(run, c.what, c.goal, near)
		for b, list := range plot {
			slices.Sort(list)
			run.Plot("first requests", c.name+", p50", "destinations held", "ms", float64(b*bucket)+bucket/2, result.Quantile(list, 0.5))
			run.Plot("first requests", c.name+", p99", "destinations held", "ms", float64(b*bucket)+bucket/2, result.Quantile(list, 0.99))
		}
		// The workload's next proxy is given all that this one asked for.
		w.Pod("client").RestartProxy()
		sibling := firsts(t, w, c.layer, min(held, o.Virtual), 0)
		slices.Sort(sibling.first)
		slices.Sort(sibling.second)
		second := result.Quantile(sibling.second, 0.5)
		none := 1.0
		run.Add(result.Figure{Case: "First request " + c.what, Name: "asks of a pod whose sibling has asked", Unit: "", Is: float64(asks(w.Pod("client"))), Below: &none,
			Note: fmt.Sprintf("%d first requests, p50 %s ms", len(sibling.first), result.Number(result.Quantile(sibling.first, 0.5)))})
		run.Add(result.Figure{Case: "First request " + c.what, Name: "of a pod whose sibling has asked, p50", Unit: "ms", Is: result.Quantile(sibling.first, 0.5), Baseline: &second, Of: "the second request",
			Note: "nothing is asked: what is left is the connection to the server, with its handshake"})
	}
}

// noteFirst adds the figures of a layer. Of each request all time counts, from opening the connection to the answer.
func noteFirst(run *result.Run, what string, goal float64, all times) {
	slices.Sort(all.first)
	slices.Sort(all.second)
	for _, q := range []struct {
		name  string
		q     float64
		below float64
	}{{"p50", 0.5, goal}, {"p99", 0.99, 25}} {
		second, below := result.Quantile(all.second, q.q), q.below
		run.Add(result.Figure{
			Case: "First request " + what, Name: "all of it, " + q.name, Unit: "ms", Is: result.Quantile(all.first, q.q), Below: &below,
			Baseline: &second, Of: "the second request",
			Note: fmt.Sprintf("%d requests, each the first by the control plane's count of answers; the handshake with the server is in it", len(all.first)),
		})
	}
}

// firsts sends two requests to each of n destinations, and checks how many of them were asked for.
func firsts(t testing.TB, w *envoy.World, l layer, n, asked int) times {
	t.Helper()
	client := w.Pod("client")
	before := w.Answered()
	var all times
	for i := range n {
		time.Sleep(apart)
		all.first = append(all.first, timed(client, l, i))
		answered := w.Answered()
		all.second = append(all.second, timed(client, l, i))
		if again := w.Answered(); again != answered {
			t.Errorf("the second request to %s was asked about", l.address(i))
		}
	}
	if answered := w.Answered() - before; answered != asked {
		t.Errorf("the control plane answered %d asks of %d first requests, not %d", answered, n, asked)
	}
	return all
}

// timed sends a request and returns how long it took.
func timed(client *envoy.Pod, l layer, i int) time.Duration {
	protocol, request := l.call(i)
	began := time.Now()
	client.MustCall(protocol, request)
	return time.Since(began)
}

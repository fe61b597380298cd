package envoy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// A request that came out of the loop and still finds no rules ends there, with a reason: it does not go round again.
func TestSecondLoopEnds(t *testing.T) {
	const address = "10.96.0.5:80"
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		rules := &forgotten{cluster: "http|" + address, virtualHost: "outbound/http|" + address}
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.WithView(rules.wrap))
		w.Apply(reviewsRules)
		client := w.Pod("client")
		tester := echo.Request{Address: address, Header: map[string]string{"end-user": "jason"}}
		// The first request has the cluster asked for, the second finds it there.
		for sent := int64(1); sent <= 2; sent++ {
			r, err := client.Call(echo.HTTP1, tester)
			if err != nil {
				t.Fatal(err)
			}
			if r.Status != http.StatusServiceUnavailable || !strings.Contains(r.Text, "the HTTP rules of this address are not here yet") {
				t.Errorf("request %d: status %d %q, want 503 that names the reason", sent, r.Status, r.Text)
			}
			if n := client.Stat(`^http\.reroute\.downstream_rq_total$`); n != sent {
				t.Errorf("%d requests made %d turns through the reroute listener", sent, n)
			}
		}
		if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count(); n != 0 {
			t.Errorf("the backends got %d requests that followed no rules", n)
		}

		// The reason was the true one: once the rules are there, they are followed, and the loop is not used.
		w.Republish(rules.remember()...)
		w.Apply(services(1)) // returns when every proxy holds everything
		if r := client.MustCall(echo.HTTP1, tester); r.Version != "v2" {
			t.Errorf("with rules, the tester went to %s", r.Version)
		}
		if n := client.Stat(`^http\.reroute\.downstream_rq_total$`); n != 2 {
			t.Errorf("with rules, %d requests in all were seen by the reroute listener, not 2", n)
		}
	})
}

// forgotten keeps a virtual host back, and lets the cluster that needs it go without, as a control plane would that
// breaks the promise that a loop comes after its rules.
type forgotten struct {
	cluster, virtualHost string
	turning
}

// wrap is an envoy.ViewWrapper.
func (f *forgotten) wrap(v resource.View) resource.View {
	if f.hasTurned() {
		return v
	}
	return &changedView{v, f.change}
}

func (f *forgotten) change(r *resource.Resource, ref resource.ScopedRef) *resource.Resource {
	switch {
	case r.Type == resource.VirtualHost && r.Name == f.virtualHost:
		f.note(ref)
		return nil
	case r.Type == resource.Cluster && r.Name == f.cluster:
		f.note(ref)
		alone := *r
		alone.Needs = nil
		return &alone
	}
	return r
}

// remember ends it, and returns what will differ.
func (f *forgotten) remember() []resource.ScopedRef { return f.turn() }

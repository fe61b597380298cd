package envoy_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// A proxy is ready with its first complete configuration and not before: not while it has none, for a minute, and not while it has
// all but one listener, when Envoy already calls itself live. From the first moment that it is ready on, traffic flows out and in.
func TestReadyMeansConfigured(t *testing.T) {
	t.Parallel()
	const late = time.Minute
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		inbound := &withheld{turning: turning{turned: true}, is: func(r resource.Ref) bool { return r == resource.Ref{Type: resource.Listener, Name: "inbound"} }}
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.WithView(inbound.wrap))
		w.Delete("Pod", "shop/reviews-v2")
		pods := []*envoy.Pod{w.Pod("client"), w.Pod("reviews-v1")}

		w.StopControlPlane()
		for _, p := range pods {
			p.RestartProxyUnready()
		}
		for began := time.Now(); time.Since(began) < late; <-time.After(50 * time.Millisecond) {
			for _, p := range pods {
				if status := p.Ready(); status != 0 {
					t.Fatalf("%s after the start, without a control plane, a proxy is asked whether it is ready and answers %d", time.Since(began), status)
				}
			}
		}

		inbound.hide()
		w.StartControlPlaneUnsynced()
		for _, name := range []string{"client", "reviews-v1"} {
			w.AwaitPending(name, resource.Ref{Type: resource.Listener, Name: "stats"})
		}
		for _, p := range pods {
			if state := ownState(t, p); state != "LIVE" {
				t.Errorf("with all but one listener, Envoy calls itself %s, want LIVE: the test does not show that this differs from ready", state)
			}
			if status := p.Ready(); status != 0 {
				t.Errorf("with all but one listener, a proxy is asked whether it is ready and answers %d", status)
			}
		}

		w.Republish(inbound.show()...)
		for _, p := range pods {
			for deadline := time.Now().Add(30 * time.Second); p.Ready() != http.StatusOK; <-time.After(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("not ready with the complete configuration")
				}
			}
			want := []string{"inbound", "outbound", "probes", "reroute", "silent", "stats"}
			if got := listeners(t, p); !slices.Equal(got, want) {
				t.Errorf("a proxy is ready with the listeners %v, want %v", got, want)
			}
		}
		for _, p := range echo.Protocols() {
			pods[0].MustCall(p, reviewsOver(p))
		}
	})
}

// ownState is what Envoy calls itself.
func ownState(t *testing.T, p *envoy.Pod) string {
	t.Helper()
	var info struct {
		State string `json:"state"`
	}
	if err := json.Unmarshal([]byte(p.Admin(http.MethodGet, "/server_info")), &info); err != nil {
		t.Fatal(err)
	}
	return info.State
}

// listeners returns the names of the listeners that are at work in a pod's Envoy.
func listeners(t *testing.T, p *envoy.Pod) []string {
	t.Helper()
	var dump struct {
		Configs []struct {
			Listeners []struct {
				Name   string          `json:"name"`
				Active json.RawMessage `json:"active_state"`
			} `json:"dynamic_listeners"`
		} `json:"configs"`
	}
	if err := json.Unmarshal([]byte(p.Admin(http.MethodGet, "/config_dump")), &dump); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range dump.Configs {
		for _, l := range c.Listeners {
			if l.Active != nil {
				names[l.Name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

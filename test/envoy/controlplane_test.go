package envoy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// onDemandTimeout is how long a proxy waits for the control plane's word on an address.
const onDemandTimeout = 5 * time.Second

// What a proxy holds goes on without the control plane; what it does not hold fails with a reason and works again after.
func TestControlPlaneStoppedAndRestarted(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(services(2) + meshWithRules(1))
		client := w.Pod("client")
		held := envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}}
		heldTCP := envoy.Call{Protocol: echo.TCP, Request: echo.Request{Address: "10.96.0.5:9000"}}
		http1, tcp := client.StartLoad(2, held), client.StartLoad(1, heldTCP)

		w.StopControlPlane()
		began := time.Now()
		for i := range 2 {
			r := client.Get("http://" + serviceIP(i) + ":80/")
			if r.Status != http.StatusServiceUnavailable || !strings.Contains(r.Text, serviceIP(i)+":80") || !strings.Contains(r.Text, "control plane") {
				t.Errorf("a new address without a control plane: status %d %q, want 503 that names it", r.Status, r.Text)
			}
		}
		if took := time.Since(began); took > 2*onDemandTimeout+2*time.Second {
			t.Errorf("two new addresses took %s to fail", took)
		}

		w.StartControlPlane()
		for i := range 2 {
			if r := client.Get("http://" + serviceIP(i) + ":80/"); r.Status != http.StatusOK {
				t.Errorf("with the control plane back: status %d %q", r.Status, r.Text)
			}
		}
		w.ReplaceControlPlane()
		w.Apply(reviewsRules)
		for _, l := range []*envoy.Load{http1, tcp} {
			if report := l.Stop(); report.Failed() > 0 {
				t.Error(report)
			}
		}
		if r := client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80", Header: map[string]string{"end-user": "jason"}}); r.Version != "v2" {
			t.Errorf("rules applied after the replacement are not followed: %s", r.Version)
		}
	})
}

// The endpoints of an address come two seconds after its cluster: the requests wait, none fails.
func TestEndpointsLate(t *testing.T) {
	const delay = 2 * time.Second
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		endpoints := new(late)
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.WithView(endpoints.wrap))
		client := w.Pod("client")
		began := time.Now()
		timer := time.AfterFunc(delay, func() { w.Republish(endpoints.show()...) })
		defer timer.Stop()
		var calls []envoy.Call
		for _, p := range echo.Protocols() {
			calls = append(calls, envoy.Call{Protocol: p, Request: echo.Request{Address: fmt.Sprintf("10.96.0.5:%d", port(p))}})
		}
		if report := client.Burst(calls); report.Failed() > 0 {
			t.Error(report)
		}
		if took := time.Since(began); took < delay {
			t.Errorf("took %s: the endpoints were not late", took)
		}
	})
}

package envoy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Proxies are sent off to connect again, again and again, while traffic flows and new addresses are asked for: no request is lost.
func TestConnectionsAge(t *testing.T) {
	const addresses, reconnects = 250, 3
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.ConnectionAge(time.Second))
		w.Apply(services(addresses) + meshWithRules(addresses/2))
		client := w.Pod("client")
		connections := func() int64 { return client.Stat("cluster.xds.upstream_cx_total") }
		load := client.StartLoad(2, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}})
		before := connections()
		pace := time.NewTicker(60 * time.Millisecond)
		defer pace.Stop()
		first := 0
		for ; first < addresses && connections() < before+reconnects; first++ {
			<-pace.C
			r, err := client.Call(echo.HTTP1, echo.Request{Address: fmt.Sprintf("%s:80", serviceIP(first))})
			if err != nil || r.Answer == nil || r.Status != 200 {
				t.Errorf("first request to %s: %+v %v", serviceIP(first), r, err)
			}
		}
		if report := load.Stop(); report.Failed() > 0 {
			t.Error(report)
		} else {
			t.Logf("%s, and %d first requests; %d connections to the control plane", report, first, connections()-before)
		}
		if got := connections(); got < before+reconnects {
			t.Errorf("%d new connections to the control plane, want at least %d", got-before, reconnects)
		}
	})
}

package envoy_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// An Envoy that rejects a resource is heard: its words arrive with the objects that the resource was made from, and
// nothing else is disturbed.
func TestRejectionIsReportedAndDisturbsNothing(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		const bad = "svc|shop/s0|80|v1"
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.WithView(breakCluster(t, bad)))
		w.Apply(services(3) + meshWithRules(3))
		client := w.Pod("client")
		load := client.StartLoad(2, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: serviceIP(1) + ":80"}})
		if r := client.Get("http://" + serviceIP(0) + ":80/"); r.Status == 200 {
			t.Errorf("the rejected resource works: %+v", r)
		}
		for _, i := range []int{1, 2} {
			client.MustCall(echo.HTTP1, echo.Request{Address: serviceIP(i) + ":80"})
		}
		if report := load.Stop(); report.Failed() > 0 {
			t.Error(report)
		}
		rejections := w.Rejections("client")
		if len(rejections) != 1 {
			t.Fatalf("%d rejections, want one: %+v", len(rejections), rejections)
		}
		r := rejections[0]
		if r.Ref.Name != bad || !strings.Contains(r.Message, "eds_cluster_config") && !strings.Contains(r.Message, "EDS") {
			t.Errorf("%+v: want %s with Envoy's own words", r, bad)
		}
		if len(r.Origins) != 1 || r.Origins[0].Kind != "Mesh" || r.Origins[0].Namespace != "shop" {
			t.Errorf("origins %+v, want Mesh shop/mesh", r.Origins)
		}
	})
}

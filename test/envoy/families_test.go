package envoy_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// IPv6 and dual-stack: Services of each family, pods of one family and of both.
func TestAddressFamilies(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/families.yaml", envoy.On(v))
		for _, c := range []struct{ client, address string }{
			{"dual", "10.96.0.5"},
			{"dual", "[fd00:96::5]"},  // the second address of a dual-stack Service
			{"dual", "[fd00:96::66]"}, // an IPv6 Service
			{"only4", "10.96.0.5"},
			{"only6", "[fd00:96::66]"}, // a Service's endpoints are those of its first family
		} {
			for _, p := range echo.Protocols() {
				w.Run(fmt.Sprintf("%s %s %s", c.client, c.address, p), func(t *testing.T) {
					for range 2 {
						r := w.Pod(c.client).MustCall(p, echo.Request{Address: fmt.Sprintf("%s:%d", c.address, port(p)), Body: "ping"})
						if r.Body != "ping" {
							t.Errorf("%+v", r.Answer)
						}
					}
				})
			}
		}
	})
}

// A pod calls its own Service and its own address: the request goes through its proxy out and in, once each.
func TestPodCallsItself(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/self.yaml", envoy.On(v))
		self := w.Pod("self")
		calls := 0
		for _, p := range echo.Protocols() {
			for _, address := range []string{
				fmt.Sprintf("10.96.0.7:%d", port(p)),
				fmt.Sprintf("[fd00:96::7]:%d", port(p)),
				fmt.Sprintf("%s:%d", self.IP4(), port(p)),
				fmt.Sprintf("[%s]:%d", self.IP6(), port(p)),
			} {
				inbound := self.Stat(`^listener\.inbound\.downstream_cx_total$`)
				self.MustCall(p, echo.Request{Address: address})
				calls++
				if n := self.Stat(`^listener\.inbound\.downstream_cx_total$`) - inbound; n > 1 {
					t.Errorf("%s to %s went through the inbound listener %d times", p, address, n)
				}
			}
		}
		if self.Count() != calls {
			t.Errorf("the backend counted %d requests, %d were sent", self.Count(), calls)
		}
	})
}

package envoy_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

func TestX(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/metrics.yaml", envoy.On(v))
		for _, name := range []string{"web-5d8f-x", "by-hand", "stranger"} {
			for _, p := range echo.Protocols() {
				to := fmt.Sprintf("10.96.0.5:%d", port(p))
				if name == "stranger" {
					to = fmt.Sprintf("%s:%d", w.Pod("reviews-v1").IP4(), map[int]int{80: 8080, 9000: 9000, 9001: 9001}[port(p)])
				}
				w.Pod(name).MustCall(p, echo.Request{Address: to, Body: "ping"})
			}
		}
		c := w.Pod("web-5d8f-x")
		c.Get("http://10.96.0.7:80/")
		c.Get("http://10.96.0.8:80/")
		c.MustCall(echo.TCP, echo.Request{Address: "10.96.0.8:9000", Body: "x"})
		for _, name := range []string{"reviews-v1", "reviews-v2", "web-5d8f-x"} {
			fmt.Println("==", name)
			for _, s := range w.Pod(name).Scrape("envoy_tulle") {
				fmt.Println(s)
			}
		}
	})
}

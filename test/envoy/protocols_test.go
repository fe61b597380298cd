package envoy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// onEachVersion runs a test on every supported minor of Envoy.
func onEachVersion(t *testing.T, test func(t *testing.T, v envoy.Version)) {
	for _, v := range envoy.Versions() {
		t.Run(string(v), func(t *testing.T) { test(t, v) })
	}
}

// port is the Service port of a protocol in testdata/basic.yaml.
func port(p echo.Protocol) int {
	switch p {
	case echo.TCP:
		return 9000
	case echo.Greeting:
		return 9001
	}
	return 80
}

// reviewsRules sends testers to v2 and everybody else to v1.
const reviewsRules = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: Strict}
  services:
  - name: reviews
    versions:
    - {name: v1, labels: {version: v1}}
    - {name: v2, labels: {version: v2}}
    routes:
    - name: testers
      match: [{headers: [{name: end-user, value: jason}]}]
      to: [{version: v2}]
    - name: others
      to: [{version: v1}]
`

// Every protocol works as the very first thing that a proxy is asked to do, with and without HTTP rules for the address, and
// follows the rules from the first request on.
func TestFirstRequestOfEveryProtocol(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		client := w.Pod("client")
		for _, rules := range []bool{false, true} {
			if rules {
				w.Apply(reviewsRules)
			}
			for _, p := range echo.Protocols() {
				w.Run(fmt.Sprintf("%s rules=%v", p, rules), func(t *testing.T) {
					client.ForgetAndRestartProxy()
					address := fmt.Sprintf("10.96.0.5:%d", port(p))
					if strings.Contains(client.ConfigDump(), address) {
						t.Fatalf("the fresh proxy knows %s already:\n%s", address, client.ConfigDump())
					}
					before := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count()
					// The first creates the cluster, the second finds it, the third is after the loop is no longer needed.
					for i := range 3 {
						r := client.MustCall(p, echo.Request{Address: address, Body: "ping", Header: map[string]string{"end-user": "jason"}})
						http := p != echo.TCP && p != echo.Greeting
						if rules && http && r.Version != "v2" {
							t.Errorf("request %d went to %s %s, the rule says v2", i, r.Name, r.Version)
						}
						if r.Protocol != p || r.Body != "ping" {
							t.Errorf("request %d arrived as %+v", i, r.Answer)
						}
					}
					if !strings.Contains(client.ConfigDump(), address) {
						t.Errorf("the proxy does not know %s: the request did not go through it", address)
					}
					if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count() - before; n != 3 {
						t.Errorf("the backends counted %d requests, 3 were sent", n)
					}
				})
			}
		}
	})
}

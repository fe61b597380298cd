package envoy_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// services makes n Services in front of the pods with app=reviews, with addresses from 10.96.1.0 on.
func services(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `
---
apiVersion: v1
kind: Service
metadata: {name: s%d, namespace: shop}
spec:
  clusterIP: %s
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 8080}]
`, i, serviceIP(i))
	}
	return b.String()
}

func serviceIP(i int) string { return fmt.Sprintf("10.96.%d.%d", 1+i/200, 1+i%200) }

// meshWithRules has rules for the first n of services: everybody goes to v1.
func meshWithRules(n int) string {
	var b strings.Builder
	b.WriteString(`
---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: Strict}
`)
	if n > 0 {
		b.WriteString("  services:\n")
	}
	for i := range n {
		fmt.Fprintf(&b, `  - name: s%d
    versions: [{name: v1, labels: {version: v1}}]
    routes: [{name: all, to: [{version: v1}]}]
`, i)
	}
	return b.String()
}

// 400 first requests at the same time, with and without bodies, over 200 Services, half of them with HTTP rules.
func TestConcurrentFirstRequests(t *testing.T) {
	const count, withRules = 200, 100
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(services(count) + meshWithRules(withRules))
		client := w.Pod("client")
		for _, p := range []echo.Protocol{echo.HTTP1, echo.HTTP2} {
			w.Run(string(p), func(t *testing.T) {
				client.ForgetAndRestartProxy()
				before := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count()
				var calls []envoy.Call
				for i := range count {
					r := echo.Request{Address: serviceIP(i) + ":80"}
					calls = append(calls, envoy.Call{Protocol: p, Request: r})
					r.Method, r.Body = "POST", strings.Repeat("x", 10_000)
					calls = append(calls, envoy.Call{Protocol: p, Request: r})
				}
				report := client.Burst(calls)
				if report.Failed() > 0 || report.Sent != 2*count {
					t.Error(report)
				}
				if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count() - before; n != report.Sent {
					t.Errorf("the backends counted %d requests, %d were sent", n, report.Sent)
				}
			})
		}
	})
}

// HTTP rules come and go under load: no request fails, and none goes in a circle.
func TestRulesAddedAndRemovedUnderLoad(t *testing.T) {
	const cycles = 20
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		client := w.Pod("client")
		load := client.StartLoad(4, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}})
		alive := client.StartLoad(2, envoy.Call{Protocol: echo.HTTP2, Request: echo.Request{Address: "10.96.0.5:80", Method: "POST", Body: "x"}, KeepAlive: true})
		for range cycles {
			w.Apply(reviewsRules)
			if r := client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80", Header: map[string]string{"end-user": "jason"}}); r.Version != "v2" {
				t.Errorf("with rules, the tester went to %s", r.Version)
			}
			w.Apply(meshWithRules(0))
		}
		first, second := load.Stop(), alive.Stop()
		if first.Failed()+second.Failed() > 0 {
			t.Errorf("a connection each: %s\nkept connections: %s", first, second)
		}
		counted := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count()
		if sent := first.Sent + second.Sent + cycles; counted != sent {
			t.Errorf("the backends counted %d requests, %d were sent", counted, sent)
		}
		// A request loops at most once: more connections to the internal listener than requests would be a circle.
		if loops := client.Stat(`^http\.reroute\.downstream_rq_total$`); loops > int64(first.Sent+second.Sent) {
			t.Errorf("%d requests made %d turns through the reroute listener", first.Sent+second.Sent, loops)
		}
	})
}

// weightedRules sends 90 % of the requests to v1 and 10 % to v2.
const weightedRules = `
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
    - name: canary
      to: [{version: v1, weight: 90}, {version: v2, weight: 10}]
`

// Weights hold within two points over 10,000 requests.
func TestWeights(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(weightedRules)
		const sent = 10_000
		report := w.Pod("client").Repeat(sent, 8, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}, KeepAlive: true})
		if report.Failed() > 0 {
			t.Fatal(report)
		}
		if share := 100 * float64(report.By["version v2"]) / sent; math.Abs(share-10) > 2 {
			t.Errorf("v2 got %.1f %% of %d requests, its weight is 10 %%", share, sent)
		}
		if v1, v2 := w.Pod("reviews-v1").Count(), w.Pod("reviews-v2").Count(); v1 != report.By["version v1"] || v2 != report.By["version v2"] || v1+v2 != sent {
			t.Errorf("the backends counted %d and %d, the client %v", v1, v2, report.By)
		}
	})
}

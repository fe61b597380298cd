package envoy_test

import (
	"bufio"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// What the first request to an address with rules needed is not kept: no connection of the loop, which nobody uses again, and no cluster
// of all pods, when the rules leave no request for it. When they do, the cluster is there.
func TestFirstRequestLeavesNothingBehind(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(reviewsRules)
		client := w.Pod("client")
		for i, p := range []echo.Protocol{echo.HTTP1, echo.HTTP2, echo.GRPC, echo.GRPCStream, echo.WebSocket} {
			client.ForgetAndRestartProxy()
			c := client.Client(true) // the app keeps its connection; the loop must not
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			for range 3 {
				r, err := c.Call(ctx, p, echo.Request{Address: "10.96.0.5:80"})
				if err != nil || r.Answer == nil || r.Version != "v1" {
					t.Fatalf("%s: %v %v", p, r, err)
				}
			}
			cancel()
			if n := client.Stat(`^http\.reroute\.downstream_rq_total$`); n != 1 {
				t.Errorf("%s: %d requests went through the loop, want the first of 3", p, n)
			}
			eventually(t, fmt.Sprintf("%s: the loop's connection to end", p), func() bool { return client.Stat(`^http\.reroute\.downstream_cx_active$`) == 0 })
			if i == 0 && holds(client, "svc|shop/reviews|80|") {
				t.Error("holds the cluster of all pods, to which no rule points")
			}
		}
		w.Apply(`
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: Strict}
  services:
  - name: reviews
    versions: [{name: v2, labels: {version: v2}}]
    routes:
    - name: testers
      match: [{headers: [{name: end-user, value: jason}]}]
      to: [{version: v2}]
`)
		if !holds(client, "svc|shop/reviews|80|") {
			t.Error("does not hold the cluster of all pods, to which the requests go that no rule matches")
		}
		client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
	})
}

// CONNECT, which no match can name, follows the rule that is for every request.
func TestConnectFollowsTheRuleForEverything(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(reviewsRules)
		const tunnels = 10
		for range tunnels {
			if status := connect(t, w.Pod("client"), "10.96.0.5:80"); status != "HTTP/1.1 200 OK" {
				t.Errorf("CONNECT: %q", status)
			}
		}
		if v1, v2 := w.Pod("reviews-v1").Count(), w.Pod("reviews-v2").Count(); v1 != tunnels || v2 != 0 {
			t.Errorf("%d went to v1 and %d to v2, want all %d at v1", v1, v2, tunnels)
		}
	})
}

// connect sends a CONNECT request and returns the first line of the answer.
func connect(t *testing.T, p *envoy.Pod, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	conn, err := p.Dial(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address)
	line, _, err := bufio.NewReader(conn).ReadLine()
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

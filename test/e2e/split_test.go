package e2e

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// trafficSplit is a TrafficSplit of Service shop in a version of the API.
func trafficSplit(version string, backends ...string) string {
	var list []string
	for _, b := range backends {
		name, weight, _ := strings.Cut(b, "=")
		list = append(list, fmt.Sprintf("{service: %s, weight: %s}", name, weight))
	}
	return fmt.Sprintf(`
apiVersion: split.smi-spec.io/%s
kind: TrafficSplit
metadata: {name: rollout}
spec: {service: shop, backends: [%s]}`, version, strings.Join(list, ", "))
}

// A person's TrafficSplit, written as the oldest version of the API has it, divides what clients with a proxy send. To a client without one the root is the
// plain Service that it is: its own selector counts. What can't be followed is in what kubectl describes of the split.
func TestSplitOfAPerson(t *testing.T) {
	t.Parallel()
	c := connect(t)
	const url = "http://shop:9080/details/0"
	client := func(name string) string { return app{name: name, args: loadgen(url).args}.manifest() }
	plain := strings.Replace(client("plain"), "metadata: {labels: {app: plain}}", `metadata: {labels: {app: plain, mesh.tulle.dev/inject: "false"}}`, 1)
	c.apply(mesh("Permissive"), client("meshed"), plain,
		app{name: "primary", args: []string{"details", "-version=primary"}}.manifest(),
		app{name: "canary", args: []string{"details", "-version=canary"}}.manifest(), `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: primary}
  ports: [{name: http, port: 9080, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: odd}
spec:
  selector: {app: canary}
  ports: [{name: http, port: 9081, targetPort: http}]`)
	c.rollout("primary", "canary", "meshed", "plain")
	c.wait("condition=Ready", "mesh/mesh")
	if hasProxy(c.pods("plain")[0]) || !hasProxy(c.pods("meshed")[0]) {
		t.Fatal("one client should have a proxy, the other none")
	}
	if _, err := c.firstGet("plain", url); err != nil {
		t.Fatal(err)
	}

	c.apply(trafficSplit("v1alpha1", "canary=500m", "primary=1500m"))
	c.wait("jsonpath={.status.splits.count}=1", "mesh/mesh")
	c.eventually("the proxy to follow the split", func() bool { return c.loadFrom("meshed", "-for=1s", "-rate=20").saw("details", "canary") > 0 })
	divided := c.loadFrom("meshed", "-for=10s", "-rate=100")
	divided.wantNoFailure(t)
	if share := 100 * float64(divided.saw("details", "canary")) / float64(divided.Sent); math.Abs(share-25) > 6 {
		t.Errorf("the canary got %.1f %% of %d requests, its weight is 500m of 2", share, divided.Sent)
	}
	whole := c.loadFrom("plain", "-for=3s", "-rate=50")
	whole.wantNoFailure(t)
	if whole.saw("details", "primary") != whole.Sent {
		t.Errorf("the client without a proxy saw %v, want the root's own pods", whole.Versions)
	}
	t.Logf("%d requests divided, %d of a client without a proxy", divided.Sent, whole.Sent)

	// A client of another version replaces the whole spec.
	c.apply(trafficSplit("v1alpha2", "canary=1", "odd=1"))
	c.eventually("an event on the split", func() bool {
		return strings.Contains(c.kubectl("describe", "trafficsplits.split.smi-spec.io", "rollout"), "spec.backends[1].service: Service odd has port 9081 (http) and the root shop has 9080 (http), "+
			"so its weight goes to the others; give both the same port")
	})
	all := c.loadFrom("meshed", "-for=3s", "-rate=50")
	all.wantNoFailure(t)
	if all.saw("details", "canary") != all.Sent {
		t.Errorf("the client saw %v, want the only backend that can take part", all.Versions)
	}
	if still := c.loadFrom("plain", "-for=1s", "-rate=50"); still.saw("details", "primary") != still.Sent {
		t.Errorf("the client without a proxy saw %v", still.Versions)
	}
	c.kubectl("delete", "trafficsplits.split.smi-spec.io", "rollout")
	c.eventually("the Service to be a plain one", func() bool {
		report := c.loadFrom("meshed", "-for=1s", "-rate=20")
		report.wantNoFailure(t)
		return report.saw("details", "primary") == report.Sent
	})
}

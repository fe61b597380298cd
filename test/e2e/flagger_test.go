package e2e

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/rand"
)

// TestFlagger has the real Flagger release versions by TrafficSplits of each version of the API that it speaks, judged by what the real
// Prometheus scraped: a good one is promoted without a failed request, a bad one is rolled back.
func TestFlagger(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.prometheus()
	if out, err := c.try(nil, "-n", "flagger-system", "get", "deployment", "flagger"); err != nil {
		t.Fatalf("Flagger is not there: run `make test-e2e` without KUBECONFIG, which brings it to a lab of its own: %v %s", err, out)
	}
	c.apply(mesh("Strict"), c.manifests("dist", "flagger-metrictemplates.yaml"))
	for _, version := range []string{"v1alpha1", "v1alpha2", "v1alpha3"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := release{cluster: c, name: "shop-" + version, client: "load-" + version, api: "smi:" + version}
			r = r.in(t)
			r.begin()
			t.Run("a good version is promoted", func(t *testing.T) { r.in(t).promotes(t, "good-"+rand.String(4)) })
			t.Run("a bad version is rolled back", func(t *testing.T) { r.in(t).rollsBack(t, "bad-"+rand.String(4)) })
		})
	}
}

// release is an app that Flagger releases, and a client of it.
type release struct {
	cluster           *cluster
	name, client, api string
}

// in is the release for a test of its own.
func (r release) in(t *testing.T) release {
	c := *r.cluster
	c.t, r.cluster = t, &c
	return r
}

// begin starts the app and its client, and hands the app over to Flagger.
func (r release) begin() {
	r.cluster.t.Helper()
	r.cluster.apply(r.app("first", 0).manifest(), app{name: r.client, args: []string{"loadgen", "-rate=0", "-url=http://" + r.name + ":9080/details/0"}}.manifest())
	r.cluster.rollout(r.name, r.client)
	r.cluster.wait("condition=Ready", "mesh/mesh")
	r.cluster.startLoad(r.client, "-rate=20")
	r.cluster.apply(r.canary())
	r.await("Initialized")
}

// app is the app in a version, of whose answers failPercent are errors. Flagger copies it to a Deployment of its own, by types of the API
// that know no preStop hook that sleeps.
func (r release) app(version string, failPercent int) app {
	return app{name: r.name, lingers: true, args: []string{"details", "-linger=8s", "-version=" + version, fmt.Sprintf("-fail-percent=%d", failPercent)}}
}

// canary is what a person writes for Flagger, with the shortest interval that Flagger takes.
func (r release) canary() string {
	return fmt.Sprintf(`
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: %[1]s}
spec:
  provider: %[2]s
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: %[1]s}
  service: {port: 9080, targetPort: http, portName: http}
  analysis:
    interval: 10s
    threshold: 2
    stepWeights: [20, 50]
    metrics:
    - {name: success, templateRef: {name: tulle-request-success-rate}, thresholdRange: {min: 99}, interval: 20s}
    - {name: duration, templateRef: {name: tulle-request-duration}, thresholdRange: {max: 5000}, interval: 20s}`, r.name, r.api)
}

// promotes releases a version that works, under load.
func (r release) promotes(t *testing.T, version string) {
	c := r.cluster
	c.apply(r.app(version, 0).deployment())
	r.await("Succeeded")
	report := c.loadFrom(r.client, "-stop")
	report.wantNoFailure(t)
	t.Logf("%d requests since before Flagger took over, %d failed", report.Sent, report.Sent-report.Succeeded)
	if seen := report.saw("details", version); seen == 0 || report.saw("details", "first") == 0 {
		t.Errorf("the client saw %v, want both versions", report.Versions)
	}
	r.wantServed(t, version, report)
	c.startLoad(r.client, "-rate=20")
}

// rollsBack releases a version of which half the answers are errors.
func (r release) rollsBack(t *testing.T, version string) {
	c := r.cluster
	before := c.loadFrom(r.client, "-for=2s", "-rate=20")
	c.startLoad(r.client, "-rate=20")
	c.apply(r.app(version, 50).deployment())
	r.await("Failed")
	during := c.loadFrom(r.client, "-stop")
	if during.Statuses["500"] == 0 || during.Sent != during.Succeeded+during.Statuses["500"] {
		t.Errorf("the client got %v of %d, want some of the bad version's 500 and else success", during.Statuses, during.Sent)
	}
	// Flagger stops after one bad measurement at a fifth of the traffic: half of a tenth of all, at most, is seen to fail.
	if share := float64(during.Statuses["500"]) / float64(during.Sent); share > 0.2 {
		t.Errorf("%.0f %% of the requests failed before the rollback", 100*share)
	}
	t.Logf("%d of %d requests failed before the rollback", during.Sent-during.Succeeded, during.Sent)
	after := c.loadFrom(r.client, "-for=5s", "-rate=40")
	after.wantNoFailure(t)
	if got, want := after.Versions[""]["details"], before.Versions[""]["details"]; len(got) != 1 || len(want) != 1 || got[only(want)] != after.Sent {
		t.Errorf("after the rollback the client saw %v, before the release %v", got, want)
	}
}

// wantServed checks that the split is what Flagger left, and names its writer.
func (r release) wantServed(t *testing.T, version string, report report) {
	t.Helper()
	c := r.cluster
	split := c.kubectl("get", "trafficsplits.split.smi-spec.io", r.name, "-o", "jsonpath={.spec.service} {.metadata.ownerReferences[0].kind} {range .spec.backends[*]}{.service}={.weight} {end}")
	want := fmt.Sprintf("%[1]s Canary %[1]s-canary=0 %[1]s-primary=100 ", r.name)
	if split != want {
		t.Errorf("the split is %q, want %q", split, want)
	}
	now := c.loadFrom(r.client, "-for=2s", "-rate=20")
	now.wantNoFailure(t)
	if now.saw("details", version) != now.Sent {
		t.Errorf("after the promotion the client saw %v, want %s only", now.Versions, version)
	}
}

// await waits for a phase of the Canary.
func (r release) await(phase string) {
	r.cluster.t.Helper()
	r.cluster.eventuallyWithin(2*patience, r.name+" to be "+phase, func() bool {
		out, err := r.cluster.try(nil, "get", "canaries.flagger.app", r.name, "-o", "jsonpath={.status.phase}")
		failed := phase != "Failed" && strings.TrimSpace(out) == "Failed"
		if failed {
			events, _ := r.cluster.try(nil, "get", "events", "--field-selector=involvedObject.name="+r.name, "-o", "custom-columns=MESSAGE:.message")
			r.cluster.t.Fatalf("Flagger gave %s up:\n%s", r.name, events)
		}
		return err == nil && strings.TrimSpace(out) == phase
	})
}

// only is the key of a map that has one.
func only(m map[string]int64) string {
	for key := range m {
		return key
	}
	return ""
}

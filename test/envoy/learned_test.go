package envoy_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// sibling is a pod of the workload StatefulSet/siblings.
func sibling(name string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: shop
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: siblings, uid: siblings, controller: true}]
spec:
  serviceAccountName: siblings
  containers: [{name: app, image: tulle.dev/echo:dev}]
`, name)
}

// What a pod has asked for, its siblings hold without asking, and so does its own next proxy: their first calls need no
// control plane. That goes for Services, with HTTP rules and without; addresses of pods are not learned.
func TestSiblingsHoldWhatWasLearned(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(reviewsRules + services(1) + sibling("first") + sibling("connected"))
		learned := []envoy.Call{
			{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80", Header: map[string]string{"end-user": "jason"}}},
			{Protocol: echo.HTTP1, Request: echo.Request{Address: serviceIP(0) + ":80"}},
			{Protocol: echo.TCP, Request: echo.Request{Address: "10.96.0.5:9000", Body: "ping"}},
		}
		backend := w.Pod("reviews-v1").IP4().String()
		unlearned := []envoy.Call{
			{Protocol: echo.HTTP1, Request: echo.Request{Address: backend + ":8080"}},
			{Protocol: echo.TCP, Request: echo.Request{Address: backend + ":9000", Body: "ping"}},
		}
		first := w.Pod("first")
		for _, c := range append(unlearned, learned...) {
			first.MustCall(c.Protocol, c.Request)
		}
		if asks(first) == 0 {
			t.Fatal("the first pod's proxy counts no ask: neither would another's")
		}
		for _, name := range []string{"http|" + backend + ":8080", "tcp|" + backend + ":9000"} {
			if !holds(first, name) {
				t.Errorf("the proxy that asked does not hold %s", name)
			}
		}

		first.RestartProxy()
		w.Apply(sibling("late")) // returns when the connected proxies, too, hold everything
		for _, name := range []string{"first", "connected", "late"} {
			w.Run(name+" holds", func(t *testing.T) { checkLearned(t, w.Pod(name), backend) })
		}
		if other := w.Pod("client"); holds(other, "http|"+serviceIP(0)+":80") || holds(other, "tcp|10.96.0.5:9000") {
			t.Error("another workload's proxy was given what it does not use")
		}

		w.StopControlPlane()
		for _, name := range []string{"first", "connected", "late"} {
			w.Run(name+" calls", func(t *testing.T) { checkCalls(t, w.Pod(name), learned) })
		}
		// Nobody answers any more: what is not held fails.
		r := first.Get("http://" + backend + ":8080/")
		if r.Status != http.StatusServiceUnavailable || !strings.Contains(r.Text, "control plane") {
			t.Errorf("a pod's address without a control plane: status %d %q, want 503 that names it", r.Status, r.Text)
		}
	})
}

// checkLearned checks what a proxy holds before its pod's first call.
func checkLearned(t *testing.T, p *envoy.Pod, backend string) {
	t.Helper()
	if !strings.Contains(p.ConfigDump(), `"outbound/http|10.96.0.5:80"`) {
		t.Error("does not hold the virtual host of 10.96.0.5:80")
	}
	for _, name := range []string{"http|" + serviceIP(0) + ":80", "tcp|10.96.0.5:9000"} {
		if !holds(p, name) {
			t.Errorf("does not hold %s", name)
		}
	}
	for _, name := range []string{
		"http|10.96.0.5:80", // the loop: only the proxy whose request waits for the rules needs it
		"http|" + backend + ":8080", "tcp|" + backend + ":9000",
	} {
		if holds(p, name) {
			t.Errorf("holds %s, which is not learned", name)
		}
	}
	if n := asks(p); n != 0 {
		t.Errorf("the proxy has asked before the first call: %s is %d", asked, n)
	}
}

// checkCalls checks a pod's first calls: they are answered, follow the rules, and the proxy neither asks nor loops.
func checkCalls(t *testing.T, p *envoy.Pod, calls []envoy.Call) {
	t.Helper()
	for _, c := range calls {
		r := p.MustCall(c.Protocol, c.Request)
		if c.Header["end-user"] == "jason" && r.Version != "v2" {
			t.Errorf("the tester went to %s", r.Version)
		}
	}
	if n := asks(p); n != 0 {
		t.Errorf("the proxy has asked: %s is %d", asked, n)
	}
	if n := p.Stat(`^http\.reroute\.downstream_rq_total$`); n != 0 {
		t.Errorf("%d requests went through the reroute listener", n)
	}
}

// holds reports whether a proxy has a cluster that is ready for use.
func holds(p *envoy.Pod, cluster string) bool {
	return strings.Contains("\n"+p.Admin(http.MethodGet, "/clusters"), "\n"+cluster+"::")
}

// asked is the statistic that grows with each destination that a proxy asks for. It isn't there before the first.
const asked = "cluster_manager.odcds.update_attempt"

func asks(p *envoy.Pod) int64 { return p.Stat("^" + regexp.QuoteMeta(asked) + "$") }

package envoy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

const rootHTTP, rootTCP = "10.96.0.10:80", "10.96.0.10:9000"

// split is a TrafficSplit of the Service web in testdata/split.yaml, between backends such as "web-canary=10".
func split(backends ...string) string { return splitFor("", backends...) }

// splitFor is split with more fields of the spec.
func splitFor(more string, backends ...string) string {
	var list []string
	for _, b := range backends {
		name, weight, _ := strings.Cut(b, "=")
		list = append(list, fmt.Sprintf("{service: %s, weight: %s}", name, weight))
	}
	return fmt.Sprintf(`
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, namespace: shop}
spec: {service: web, backends: [%s]%s}
`, strings.Join(list, ", "), more)
}

// backendCount is what the pods of testdata/split.yaml counted.
func backendCount(w *envoy.World, pods ...string) int {
	n := 0
	for _, p := range pods {
		n += w.Pod(p).Count()
	}
	return n
}

// A Service that no Mesh entry names is split as a TrafficSplit says, within two points over 10,000 requests, whoever its own selector
// selects. The backends' own addresses stay theirs, and when the split goes the Service is a plain one again.
func TestSplitWeights(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v))
		w.Apply(split("web-canary=30", "web-primary=70"))
		client := w.Pod("client")
		const sent = 10_000
		report := client.Repeat(sent, 8, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: rootHTTP}, KeepAlive: true})
		if report.Failed() > 0 {
			t.Fatal(report)
		}
		if share := 100 * float64(report.By["web"]) / sent; math.Abs(share-30) > 2 {
			t.Errorf("the canary got %.1f %% of %d requests, its weight is 30 of 100", share, sent)
		}
		if primary, canary := w.Pod("web-primary").Count(), w.Pod("web").Count(); primary != report.By["web-primary"] || canary != report.By["web"] {
			t.Errorf("the backends counted %d and %d, the client %v", primary, canary, report.By)
		}
		for address, want := range map[string]string{"10.96.0.11:80": "web-primary", "10.96.0.12:80": "web"} {
			for range 10 {
				if r := client.MustCall(echo.HTTP1, echo.Request{Address: address}); r.Name != want {
					t.Errorf("%s is answered by %s", address, r.Name)
				}
			}
		}
		w.Delete("TrafficSplit", "shop/web")
		for range 20 {
			if r := client.MustCall(echo.HTTP1, echo.Request{Address: rootHTTP}); r.Name != "web-primary" {
				t.Errorf("without the split, a request went to %s", r.Name)
			}
		}
	})
}

// The first request of a proxy follows the split, in every protocol, also where the split sends connections.
func TestSplitFirstRequest(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v))
		w.Apply(split("web-canary=100", "web-primary=0"))
		client := w.Pod("client")
		for _, p := range echo.Protocols() {
			w.Run(string(p), func(t *testing.T) {
				client.ForgetAndRestartProxy()
				before := w.Pod("web").Count()
				for i := range 3 {
					r := client.MustCall(p, echo.Request{Address: fmt.Sprintf("10.96.0.10:%d", port(p)), Body: "ping"})
					if r.Name != "web" || r.Body != "ping" {
						t.Errorf("request %d: answer %+v, want one of the canary", i, r.Answer)
					}
				}
				if n := w.Pod("web").Count() - before; n != 3 {
					t.Errorf("the canary counted %d, 3 were sent", n)
				}
			})
		}
		if n := w.Pod("web-primary").Count(); n != 0 {
			t.Errorf("the primary, whose weight is 0, got %d", n)
		}
	})
}

// loads are what flows while a split changes: new and kept connections, HTTP/1.1, HTTP/2 and gRPC, from two clients.
func loads(w *envoy.World) []*envoy.Load {
	client, second := w.Pod("client"), w.Pod("second")
	request := echo.Request{Address: rootHTTP}
	post := echo.Request{Address: rootHTTP, Method: "POST", Body: strings.Repeat("x", 4000)}
	return []*envoy.Load{
		client.StartLoad(1, envoy.Call{Protocol: echo.HTTP1, Request: request}),
		client.StartLoad(2, envoy.Call{Protocol: echo.HTTP1, Request: post, KeepAlive: true}),
		client.StartLoad(1, envoy.Call{Protocol: echo.GRPC, Request: request}),
		second.StartLoad(2, envoy.Call{Protocol: echo.HTTP2, Request: post, KeepAlive: true}),
	}
}

// stop ends loads, reports what failed, and returns how many were sent.
func stop(t *testing.T, loads []*envoy.Load) int {
	t.Helper()
	sent := 0
	for _, l := range loads {
		report := l.Stop()
		if report.Failed() > 0 {
			t.Error(report)
		}
		sent += report.Sent
	}
	return sent
}

// clusterChanges counts the clusters that an Envoy added, changed or removed.
func clusterChanges(p *envoy.Pod) int64 {
	return p.Stat(`^cluster_manager\.cluster_(added|modified|removed)$`)
}

// Weights change all the time under load, from nothing to everything and back at once, with the backends in any order: no request fails, each
// change is seen by the next request, and no cluster of any proxy is touched.
func TestSplitWeightsChangeUnderLoad(t *testing.T) {
	const cycles = 15
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v))
		w.Apply(split("web-canary=0", "web-primary=100"))
		client, second := w.Pod("client"), w.Pod("second")
		running := loads(w)
		before := clusterChanges(client) + clusterChanges(second)
		checks := 0
		var took []time.Duration
		for range cycles {
			for _, step := range []struct{ canary, primary int }{{100, 0}, {0, 100}, {2147483647, 0}, {50, 50}, {0, 1}} {
				begin := time.Now()
				w.Apply(split(fmt.Sprint("web-canary=", step.canary), fmt.Sprint("web-primary=", step.primary)))
				took = append(took, time.Since(begin))
				for _, p := range []*envoy.Pod{client, second} {
					r := p.MustCall(echo.HTTP1, echo.Request{Address: rootHTTP})
					checks++
					if step.canary == 0 && r.Name != "web-primary" || step.primary == 0 && r.Name != "web" {
						t.Errorf("weights %+v are acknowledged, and a request went to %s", step, r.Name)
					}
				}
			}
		}
		if n := clusterChanges(client) + clusterChanges(second) - before; n != 0 {
			t.Errorf("%d clusters were added, changed or removed: only weights were", n)
		}
		sent := stop(t, running) + checks
		if n := backendCount(w, "web", "web-primary"); n != sent {
			t.Errorf("the backends counted %d requests, %d were sent", n, sent)
		}
		slices.Sort(took)
		t.Logf("%d requests, none failed; a change of weights until both proxies acknowledged it: median %s, slowest of %d %s",
			sent, took[len(took)/2].Round(100*time.Microsecond), len(took), took[len(took)-1].Round(100*time.Microsecond))
	})
}

// startCanary starts the pod of a canary, which becomes ready once it serves.
func startCanary(w *envoy.World, name, app string) {
	w.Apply(canaryPod(name, app, "False"))
	w.Apply(canaryPod(name, app, "True"))
}

// endCanary ends a pod that gets nothing any more, as the kubelet does: not before what it got is answered. It returns how much that was.
func endCanary(t *testing.T, w *envoy.World, name, cluster string) int {
	t.Helper()
	for _, client := range []string{"client", "second"} {
		awaitLeft(t, w.Pod(client), "cluster.svc|shop/"+cluster+"|80|.")
	}
	n := w.Pod(name).Count()
	w.Delete("Pod", "shop/"+name)
	return n
}

// awaitLeft waits until a proxy under load sends nothing to a cluster any more: nothing is under way there, and of the next requests, more than all of its workers can have
// begun with what they knew before, all went elsewhere. That its main thread has acknowledged a change does not say that.
func awaitLeft(t *testing.T, p *envoy.Pod, cluster string) {
	t.Helper()
	const elsewhere = 20 * envoy.Workers
	last, since := int64(-1), int64(0)
	eventually(t, "nothing is sent to "+cluster, func() bool {
		var others int64
		stats := p.Stats(`^cluster\.svc\|shop/.*\.upstream_rq_(active|total)$`)
		for name, n := range stats {
			if strings.HasSuffix(name, "_total") && !strings.HasPrefix(name, cluster) {
				others += n
			}
		}
		if total := stats[cluster+"upstream_rq_total"]; total != last || stats[cluster+"upstream_rq_active"] > 0 {
			last, since = total, others
		}
		return others-since >= elsewhere
	})
}

// canaryPod is the pod of a canary, with its Service's selector as label.
func canaryPod(name, app, ready string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop, labels: {app: %s, version: canary}}
spec:
  serviceAccountName: %s
  containers: [{name: app, args: [serve, -http=8080, -tcp=9000, -greeting=9001]}]
status: {conditions: [{type: Ready, status: "%s"}]}
`, name, app, app, ready)
}

// canaryService is a Service like web-canary.
func canaryService(name, app string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: shop}
spec:
  selector: {app: %s}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}, {name: tcp-greeting, port: 9001}]
`, name, app)
}

// A rollout under load, as controllers do it: a canary that is scaled from nothing, takes over in steps and is scaled down again, weights that
// come before the endpoints and stay after them; then another backend, which comes together with the whole spec, and the old one and
// its Service go. No request fails. What is sent to a new backend is sent only once its cluster is warm.
func TestSplitBackendsComeAndGoUnderLoad(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v), envoy.MoreStats("cluster.svc"))
		w.Delete("Pod", "shop/web")
		w.Apply(split("web-canary=0", "web-primary=100"))
		running := loads(w)
		ended := 0
		check := func(from, want string) {
			t.Helper()
			if r := w.Pod(from).MustCall(echo.HTTP1, echo.Request{Address: rootHTTP}); r.Name != want {
				t.Errorf("%s has all of the weight, and %s answers", want, r.Name)
			}
			ended--
		}
		for range 3 {
			// The weight is there before the pod is.
			w.Apply(split("web-canary=10", "web-primary=90"))
			startCanary(w, "web", "web")
			for _, weight := range []int{50, 100} {
				w.Apply(split(fmt.Sprint("web-canary=", weight), fmt.Sprint("web-primary=", 100-weight)))
			}
			check("client", "web")
			// Its pod is told to end while it still has a share.
			w.Apply(split("web-canary=50", "web-primary=50"))
			w.Terminate("shop/web")
			ended += endCanary(t, w, "web", "web-canary")

			// A backend that nobody has heard of, in one write with the whole split.
			startCanary(w, "next", "next")
			w.Apply(canaryService("web-next", "next") + "---" + split("web-next=100", "web-primary=0"))
			check("second", "next")
			w.Delete("Service", "shop/web-canary")
			w.Apply(split("web-next=0", "web-primary=1"))
			ended += endCanary(t, w, "next", "web-next")
			w.Apply(split("web-primary=1"))
			w.Delete("Service", "shop/web-next")
			w.Apply(canaryService("web-canary", "web") + "---" + split("web-canary=0", "web-primary=100"))
		}
		sent := stop(t, running)
		if n := backendCount(w, "web-primary") + ended; n != sent {
			t.Errorf("the backends counted %d requests, %d were sent", n, sent)
		}
		t.Logf("%d requests, none failed", sent)
	})
}

// Only what a route group matches is split; the rest goes to the root itself. A Mesh's rule with a match comes before both.
func TestSplitMatches(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v))
		w.Apply(splitFor(", matches: [{kind: HTTPRouteGroup, name: testers}]", "web-canary=100", "web-primary=0") + `---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: testers, namespace: shop}
spec:
  matches:
  - {name: phones, pathRegex: "/api", methods: [GET, HEAD], headers: {user-agent: ".*iPhone.*"}}
  - {name: insiders, headers: {Cookie: "^(.*?; )?(type=insider)(;.*)?$"}}
---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: Strict}
  services:
  - name: web
    versions: [{name: primary, labels: {version: primary}}]
    routes:
    - {name: safe, match: [{headers: [{name: x-safe, value: "yes"}]}], to: [{version: primary, weight: 1}]}
`)
		phone := map[string]string{"user-agent": "an iPhone"}
		// As browsers send it. HTTP/2 may send each pair in a field of its own, and Envoy joins them in just this way again.
		insider := map[string]string{"cookie": "a=b; type=insider"}
		client := w.Pod("client")
		for _, c := range []struct {
			request echo.Request
			want    string
		}{
			{echo.Request{Path: "/api/x?y=z", Header: phone}, "web"},
			{echo.Request{Path: "/api", Header: phone}, "web"},
			{echo.Request{Path: "/other/api", Header: phone}, "web-primary"},
			{echo.Request{Path: "/api/x", Method: "POST", Header: phone}, "web-primary"},
			{echo.Request{Path: "/api/x"}, "web-primary"},
			{echo.Request{Path: "/anything", Method: "POST", Header: insider}, "web"},
			{echo.Request{Header: map[string]string{"cookie": "type=insiders"}}, "web-primary"},
			{echo.Request{Header: map[string]string{"cookie": "type=insider", "x-safe": "yes"}}, "web-primary"},
		} {
			c.request.Address = rootHTTP
			for _, p := range []echo.Protocol{echo.HTTP1, echo.HTTP2} {
				if r := client.MustCall(p, c.request); r.Name != c.want {
					t.Errorf("%s %+v went to %s, want %s", p, c.request, r.Name, c.want)
				}
			}
		}
		if r := client.MustCall(echo.TCP, echo.Request{Address: rootTCP}); r.Name != "web-primary" {
			t.Errorf("a connection went to %s, and route groups match none", r.Name)
		}
	})
}

// A split that sends nowhere fails at once, says why, and takes nothing else with it; one whose backends are not there yet leaves the Service
// as it is. A backend without endpoints gets nothing, and what it does not get is not lost.
func TestSplitThatCannotBeFollowed(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v))
		client := w.Pod("client")
		all := func(want string) {
			t.Helper()
			report := client.Repeat(100, 4, envoy.Call{Protocol: echo.HTTP1, Request: echo.Request{Address: rootHTTP}, KeepAlive: true})
			if report.By[want] != 100 {
				t.Errorf("%s answered %d of 100: %v %v", want, report.By[want], report, report.By)
			}
			if r := client.MustCall(echo.TCP, echo.Request{Address: rootTCP}); r.Name != want {
				t.Errorf("a connection went to %s", r.Name)
			}
		}
		w.Apply(split("web-canary=0", "web-primary=0"))
		r := client.Get("http://" + rootHTTP + "/")
		if r.Status != http.StatusInternalServerError || !strings.Contains(r.Text, "TrafficSplit shop/web can't be followed: all weights are 0") {
			t.Errorf("status %d %q", r.Status, r.Text)
		}
		begin := time.Now()
		if r, err := client.Call(echo.TCP, echo.Request{Address: rootTCP}); err == nil {
			t.Errorf("a connection was answered by %+v", r.Answer)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("the connection took %s to fail", d)
		}
		if r := client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.12:80"}); r.Name != "web" {
			t.Errorf("the backend's own address is answered by %s", r.Name)
		}
		if told := strings.Join(w.Problems("shop/mesh"), "\n"); !strings.Contains(told, "TrafficSplit web: spec.backends: all weights are 0") {
			t.Errorf("the Mesh is told %q", told)
		}
		w.Apply(split("absent=50", "web-canary=0"))
		all("web-primary")
		w.Apply(split("absent=90", "web-canary=10"))
		all("web")
		w.Apply(canaryService("idle", "idle") + "---" + split("idle=90", "web-canary=10", "web-primary=0"))
		all("web")
		// On a port that a backend lacks its weight goes to the others, on one that it has it takes part.
		w.Apply(strings.NewReplacer("port: 80,", "port: 81,", "port: 9000}", "port: 9002}").Replace(canaryService("odd", "web-primary")) + "---" + split("odd=1", "web-canary=0"))
		if told := strings.Join(w.Problems("shop/mesh"), "\n"); !strings.Contains(told, "PortNotFound : TrafficSplit web: spec.backends[0].service: Service odd has no port 80") {
			t.Errorf("the Mesh is told %q", told)
		}
		all("web-primary") // nobody is left who is to get something
		w.Apply(split("odd=90", "web-canary=10"))
		all("web")
		w.Apply(split("odd=100", "web-canary=0"))
		if r := client.MustCall(echo.Greeting, echo.Request{Address: "10.96.0.10:9001"}); r.Name != "web-primary" {
			t.Errorf("a connection to the port that it has went to %s", r.Name)
		}
	})
}

// Each backend has to prove that it is itself: the other's identity, which the same client accepts of the other, is refused, for requests and
// for connections.
func TestSplitExpectsTheBackendsOwnIdentity(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v), envoy.MoreStats("cluster."))
		w.Apply(split("web-canary=100", "web-primary=100"))
		client, canary := w.Pod("client"), w.Pod("web")
		w.Pretend("shop/web", "spiffe://cluster.local/ns/shop/sa/web-primary")
		canary.RestartProxy()
		before, sent, answered := canary.Count(), 0, 0
		for _, c := range []echo.Request{{Address: rootHTTP}, {Address: rootTCP}} {
			protocol := echo.HTTP1
			if c.Address == rootTCP {
				protocol = echo.TCP
			}
			good := 0
			for range 40 {
				sent++
				if r, err := client.Call(protocol, c); err == nil && r.Answer != nil {
					good++
					if r.Name != "web-primary" {
						t.Errorf("%s was answered by %s, which is not who it has to be", protocol, r.Name)
					}
				}
			}
			if good == 0 || good == 40 && protocol == echo.HTTP1 {
				t.Errorf("%s: %d of 40 were answered; the primary has half of the weight", protocol, good)
			}
			answered += good
		}
		if n := canary.Count() - before; n != 0 {
			t.Errorf("the impostor got %d", n)
		}
		if n := w.Pod("web-primary").Count(); n != answered {
			t.Errorf("the primary counted %d, %d were answered", n, answered)
		}
		if n := client.Stat(`ssl\.fail_verify_san$`); n == 0 {
			t.Error("no certificate was refused")
		}
	})
}

// Connections are divided by weight, too. A change of weights, and one of the backends, breaks none that is open, refuses none that is new,
// and is seen by the next.
func TestSplitOfConnections(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) { splitConnections(t, v, 0) })
}

// While others connect all the time, none of them is lost.
func TestSplitOfConnectionsUnderLoad(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) { splitConnections(t, v, 2) })
}

// splitConnections changes weights and backends of a split of connections while so many clients connect all the time.
func splitConnections(t *testing.T, v envoy.Version, clients int) {
	w := envoy.Start(t, "testdata/split.yaml", envoy.On(v))
	w.Apply(split("web-canary=20", "web-primary=80"))
	client := w.Pod("client")
	const sent = 2000
	report := client.Repeat(sent, 4, envoy.Call{Protocol: echo.TCP, Request: echo.Request{Address: rootTCP}})
	if report.Failed() > 0 {
		t.Fatal(report)
	}
	if share := 100 * float64(report.By["web"]) / sent; math.Abs(share-20) > 3 {
		t.Errorf("the canary got %.1f %% of %d connections, its weight is 20 of 100", share, sent)
	}
	open := openConnections(t, client, 10)
	load := client.StartLoad(clients, envoy.Call{Protocol: echo.TCP, Request: echo.Request{Address: rootTCP}})
	greetings := client.StartLoad(clients, envoy.Call{Protocol: echo.Greeting, Request: echo.Request{Address: "10.96.0.10:9001"}})
	checks := 0
	before := clusterChanges(client)
	check := func(want string) {
		t.Helper()
		// A worker may be accepting a connection while Envoy's main thread acknowledges; it has the news before it answers that one.
		for stale := 0; ; stale++ {
			checks++
			r := client.MustCall(echo.TCP, echo.Request{Address: rootTCP})
			if r.Name == want {
				return
			}
			if stale == envoy.Workers {
				t.Fatalf("after the change, %d connections in a row went to %s and others, want %s", stale+1, r.Name, want)
			}
		}
	}
	for range 10 {
		w.Apply(split("web-canary=100", "web-primary=0"))
		check("web")
		w.Apply(split("web-canary=0", "web-primary=100"))
		check("web-primary")
	}
	if n := clusterChanges(client) - before; n != 0 {
		t.Errorf("%d clusters were added, changed or removed: only weights were", n)
	}
	startCanary(w, "next", "next")
	for range 5 {
		// One that nobody has heard of, which for a moment has no endpoints; one in place of all others; and back.
		w.Apply(canaryService("web-next", "next") + "---" + split("web-next=100", "web-canary=0", "web-primary=0"))
		check("next")
		w.Apply(split("web-canary=1"))
		check("web")
		w.Delete("Service", "shop/web-next")
		w.Apply(split("web-primary=1"))
		check("web-primary")
	}
	w.Delete("TrafficSplit", "shop/web")
	check("web-primary")
	first, second := load.Stop(), greetings.Stop()
	if first.Failed()+second.Failed() > 0 {
		t.Errorf("%s\n%s", first, second)
	}
	for i, c := range open {
		if err := c.echo("still here"); err != nil {
			t.Errorf("connection %d of %d that were open: %v", i, len(open), err)
		}
	}
	all := sent + first.Sent + second.Sent + checks + len(open)
	if n := backendCount(w, "web", "web-primary", "next"); n != all {
		t.Errorf("the backends counted %d, %d were sent", n, all)
	}
	t.Logf("%d connections, none failed, and %d that were open stayed so", first.Sent+second.Sent, len(open))
}

// While the news of another backend are on their way, here without the identities that it has to have, connections go on to the backend before.
func TestSplitOfConnectionsGoesOnUntilItCanChange(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		identities := &withheld{is: func(r resource.Ref) bool {
			return r == resource.Ref{Type: resource.Secret, Name: "service|shop/web-canary"}
		}}
		w := envoy.Start(t, "testdata/split.yaml", envoy.On(v), envoy.WithView(identities.wrap))
		w.Apply(split("web-primary=1"))
		client, call := w.Pod("client"), envoy.Call{Protocol: echo.TCP, Request: echo.Request{Address: rootTCP}}
		client.MustCall(call.Protocol, call.Request)
		w.ApplyUnsynced(split("web-canary=1"))
		eventually(t, "the changed cluster warms", func() bool { return client.Stat(`^cluster_manager\.warming_clusters$`) > 0 })
		const sent = 200
		if report := client.Repeat(sent, 4, call); report.By["web-primary"] != sent {
			t.Errorf("before: %v %v", report, report.By)
		}

		w.Republish(identities.show()...)
		eventually(t, "the changed cluster is warm", func() bool { return client.Stat(`^cluster_manager\.warming_clusters$`) == 0 })
		if report := client.Repeat(sent, 4, call); report.Failed() > 0 || report.By["web"] < sent-envoy.Workers*4 {
			t.Errorf("after: %v %v", report, report.By)
		}
		if n := backendCount(w, "web", "web-primary"); n != 1+2*sent {
			t.Errorf("the backends counted %d, %d were sent", n, 1+2*sent)
		}
	})
}

// openConnection is a TCP connection to a backend.
type openConnection struct {
	io.ReadWriteCloser
	answers *bufio.Reader
}

// openConnections opens n connections through the split, each of which has been answered once.
func openConnections(t *testing.T, client *envoy.Pod, n int) []*openConnection {
	t.Helper()
	var list []*openConnection
	for range n {
		conn, err := client.Dial(context.Background(), rootTCP)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		c := &openConnection{conn, bufio.NewReader(conn)}
		if err := c.echo("hello"); err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

func (c *openConnection) echo(line string) error {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return err
	}
	answer, err := c.answers.ReadString('\n')
	if err == nil && !strings.Contains(answer, line) {
		err = fmt.Errorf("answer %q", answer)
	}
	return err
}

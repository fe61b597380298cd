package envoy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// hostile is a world with a victim, whose client never stops calling, and a tenant who tries to get at that.
type hostile struct {
	*envoy.World
	client, victim, visitor, evil, trap *envoy.Pod
	loads                               []*envoy.Load
	// visits are the calls that reached the victim on purpose, received those that the tenant's visitor made to the tenant.
	visits, received int
}

const hostileAddress = "10.96.66.1"

func startHostile(t *testing.T) *hostile {
	w := envoy.Start(t, "testdata/hostile.yaml")
	h := &hostile{World: w, client: w.Pod("client"), victim: w.Pod("shop/reviews"), visitor: w.Pod("visitor"), evil: w.Pod("evil/evil"), trap: w.Pod("trap")}
	pod := h.victim.IP4().String()
	for _, c := range []envoy.Call{
		{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}},
		{Protocol: echo.HTTP2, Request: echo.Request{Address: "10.96.0.5:80", Method: "POST", Body: "x"}, KeepAlive: true},
		{Protocol: echo.TCP, Request: echo.Request{Address: "10.96.0.5:9000"}},
		{Protocol: echo.HTTP1, Request: echo.Request{Address: pod + ":8080"}},
		{Protocol: echo.TCP, Request: echo.Request{Address: pod + ":9000"}},
	} {
		h.loads = append(h.loads, h.client.StartLoad(1, c))
	}
	return h
}

// finish ends the client's calls: the victim got all of them, and nobody else any.
func (h *hostile) finish(t *testing.T) {
	sent := h.visits
	for _, l := range h.loads {
		report := l.Stop()
		if report.Failed() > 0 {
			t.Error(report)
		}
		sent += report.Sent
	}
	if n := h.victim.Count(); n != sent {
		t.Errorf("the victim counted %d, its client and its visitors sent %d", n, sent)
	}
	t.Logf("%d calls of the victim's client, none failed", sent-h.visits)
}

// untouched checks that nobody of the tenant has been reached, and that the client's calls still are.
func (h *hostile) untouched(t *testing.T) {
	t.Helper()
	for range 3 {
		for _, p := range []echo.Protocol{echo.HTTP1, echo.TCP} {
			for _, a := range []string{"10.96.0.5", "reviews"} {
				address := fmt.Sprintf("%s:%d", a, port(p))
				if a == "reviews" {
					address = fmt.Sprintf("%s:%d", h.victim.IP4(), map[echo.Protocol]int{echo.HTTP1: 8080, echo.TCP: 9000}[p])
				}
				if r := h.client.MustCall(p, echo.Request{Address: address}); r.Name != "reviews" {
					t.Errorf("the client's %s call to %s went to %s", p, address, r.Name)
				}
				h.visits++
			}
		}
	}
	if n := h.evil.Count() + h.trap.Count(); n != h.received {
		t.Errorf("the tenant got %d connections, its visitor made %d", n, h.received)
	}
}

// refused checks that the visitor, who calls the tenant's Service, gets nowhere.
func (h *hostile) refused(t *testing.T, address string) {
	t.Helper()
	before := h.visitor.Count()
	for _, p := range []echo.Protocol{echo.HTTP1, echo.TCP} {
		r, err := h.visitor.Call(p, echo.Request{Address: fmt.Sprintf("%s:%d", address, port(p))})
		if err == nil && r.Answer != nil {
			t.Errorf("%s to %s is answered by %s", p, address, r.Name)
		}
	}
	if n := h.visitor.Count() - before; n != 0 {
		t.Errorf("the visitor's own loopback got %d connections", n)
	}
}

// service is a Service of the tenant without a selector, and a slice of it that lists an address.
func hostileService(address string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: s, namespace: evil}
spec: {clusterIP: %s, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: evil, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]
endpoints: [{addresses: ["%s"], targetRef: {kind: Pod, namespace: evil, name: evil}}]
`, hostileAddress, address)
}

// What a tenant does with objects of its own namespace takes no call from another's client, brings none to another's
// pods, and breaks none. What was left out is told to the tenant's own Mesh.
func TestTenantCannotReachForOthers(t *testing.T) {
	h := startHostile(t)
	told := func(t *testing.T, text string) {
		t.Helper()
		if problems := h.Problems("evil/evil"); !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, text) }) {
			t.Errorf("the tenant is told %q, not %q", problems, text)
		}
	}
	for name, c := range map[string]struct{ address, told string }{
		"another's pod":    {h.victim.IP4().String(), "belongs to pod shop/reviews"},
		"another's client": {h.client.IP4().String(), "belongs to pod shop/client"},
		"a cluster IP":     {"10.96.0.5", "is the cluster IP of Service shop/reviews"},
		"loopback":         {"127.0.0.1", "is no address that everybody can reach"},
		"metadata service": {"169.254.169.254", "is no address that everybody can reach"},
	} {
		h.Run("slice lists "+name, func(t *testing.T) {
			h.Apply(hostileService(c.address))
			told(t, "EndpointSlice s-1 of Service s lists "+c.address+", which "+c.told)
			h.refused(t, hostileAddress)
			h.untouched(t)
			h.Delete("EndpointSlice", "evil/s-1")
			h.Delete("Service", "evil/s")
		})
	}
	h.Run("slice of another's name", func(t *testing.T) {
		h.Apply(strings.NewReplacer("name: s-1", "name: reviews-ipv4", "service-name: s}", "service-name: reviews}", "name: s,", "name: other,").
			Replace(hostileService(h.trap.IP4().String())))
		h.untouched(t)
		h.Delete("EndpointSlice", "evil/reviews-ipv4")
		h.Delete("Service", "evil/other")
	})
	for name, spec := range map[string]string{
		"external addresses":   fmt.Sprintf("clusterIP: %s, externalIPs: [10.96.0.5, %s], loadBalancerIP: 10.96.0.5", hostileAddress, h.victim.IP4()),
		"a load balancer":      "type: LoadBalancer, clusterIP: " + hostileAddress + ", loadBalancerIP: 10.96.0.5",
		"the same cluster IP":  "clusterIP: 10.96.0.5",
		"a second cluster IP":  "clusterIP: " + hostileAddress + ", clusterIPs: [" + hostileAddress + ", 10.96.0.5]",
		"an ExternalName":      "type: ExternalName, externalName: reviews.shop.svc.cluster.local, clusterIP: 10.96.0.5",
		"no address of itself": "clusterIP: None",
	} {
		h.Run("Service with "+name, func(t *testing.T) {
			h.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: evil}\nspec: {" + spec +
				", selector: {app: trap}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}\n" +
				"status: {loadBalancer: {ingress: [{ip: 10.96.0.5}]}}\n")
			h.untouched(t)
			h.Delete("Service", "evil/s")
		})
	}
	for name, c := range map[string]struct{ address, told string }{
		"address":    {h.victim.IP4().String(), "which is the address of pod shop/reviews, which had it first"},
		"cluster IP": {"10.96.0.5", "which is the cluster IP of Service shop/reviews"},
	} {
		for _, with := range []string{"", "initContainers: [{name: tulle-proxy, restartPolicy: Always}], "} {
			h.Run(fmt.Sprintf("pod that reports another's %s proxy=%v", name, with != ""), func(t *testing.T) {
				withdraw := h.Claim("apiVersion: v1\nkind: Pod\nmetadata: {name: claims, namespace: evil, labels: {app: trap}}\n" +
					"spec: {" + with + "containers: [{name: app}]}\nstatus: {podIPs: [{ip: " + c.address + "}]}\n---\n" + hostileService(c.address))
				told(t, c.told)
				h.refused(t, hostileAddress)
				h.untouched(t)
				withdraw()
			})
		}
	}
	h.finish(t)
}

// tenantSplit is a Service of the tenant, and a TrafficSplit of the tenant's namespace.
func tenantSplit(spec string) string {
	return `
apiVersion: v1
kind: Service
metadata: {name: s, namespace: evil}
spec: {clusterIP: ` + hostileAddress + `, selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: trap, namespace: evil}
spec: {selector: {app: trap}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: reviews, namespace: evil}
spec: ` + spec + "\n"
}

// A tenant's TrafficSplits are about Services of its own namespace, and send to those: one of another's Service takes nothing from it and breaks nothing, one
// with another's Service as backend sends nothing there. Either is told to the tenant.
func TestTenantsSplits(t *testing.T) {
	h := startHostile(t)
	const another, backend = "is no Service of namespace evil; name one", "is no Service of namespace evil, so the backend is left out"
	for _, c := range []struct{ name, spec, told string }{
		{"another's Service", "{service: reviews.shop, backends: [{service: trap, weight: 1}]}", another},
		{"another's Service by its domain name", "{service: reviews.shop.svc.cluster.local, backends: [{service: trap, weight: 1}]}", another},
		{"another's Service as an absolute name", "{service: reviews.shop.svc.cluster.local., backends: [{service: trap, weight: 1}]}", another},
		{"another's Service as a path", "{service: shop/reviews, backends: [{service: trap, weight: 1}]}", another},
		{"another's Service by its address", "{service: 10.96.0.5, backends: [{service: trap, weight: 1}]}", another},
		{"a part of a name of Tulle's", `{service: "reviews|80", backends: [{service: trap, weight: 1}]}`, another},
		{"another's Service, to nobody", "{service: reviews.shop, backends: [{service: s, weight: 0}]}", another},
		{"a Service of the victim's name", "{service: reviews, backends: [{service: trap, weight: 1}]}", "namespace evil has no Service reviews"},
		{"another's backend", "{service: s, backends: [{service: reviews.shop, weight: 100}]}", backend},
		{"another's backend by its domain name", "{service: s, backends: [{service: reviews.shop.svc.cluster.local, weight: 100}, {service: s, weight: 1}]}", backend},
		{"another's backend as a path", "{service: s, backends: [{service: shop/reviews, weight: 100}, {service: s, weight: 1}]}", backend},
		{"a backend of the victim's name", "{service: s, backends: [{service: reviews, weight: 100}, {service: s, weight: 1}]}", "namespace evil has no Service reviews"},
	} {
		h.Run(c.name, func(t *testing.T) {
			h.Apply(tenantSplit(c.spec))
			if problems := strings.Join(h.Problems("evil/evil"), "\n"); !strings.Contains(problems, c.told) {
				t.Errorf("the tenant is told %q, not %q", problems, c.told)
			}
			h.untouched(t)
			// The tenant's own Service goes on as one.
			for range 3 {
				for _, p := range []echo.Protocol{echo.HTTP1, echo.HTTP2, echo.TCP} {
					if r := h.visitor.MustCall(p, echo.Request{Address: fmt.Sprintf("%s:%d", hostileAddress, port(p))}); r.Name != "evil" {
						t.Errorf("%s to the tenant's Service went to %s", p, r.Name)
					}
					h.received++
				}
			}
			h.untouched(t)
			h.Delete("TrafficSplit", "evil/reviews")
		})
	}
	// A backend of the tenant that lists the victim, whether as a pod or as a cluster IP, and one that has its name.
	for name, address := range map[string]string{"pod": h.victim.IP4().String(), "cluster IP": "10.96.0.5"} {
		h.Run("a backend that lists another's "+name, func(t *testing.T) {
			h.Apply(strings.NewReplacer("name: s,", "name: bait,", "service-name: s}", "service-name: bait}", hostileAddress, "10.96.66.2").Replace(hostileService(address)) +
				"---" + tenantSplit("{service: s, backends: [{service: bait, weight: 100}, {service: s, weight: 0}]}"))
			h.refused(t, hostileAddress)
			h.untouched(t)
			h.Delete("TrafficSplit", "evil/reviews")
			h.Delete("EndpointSlice", "evil/s-1")
			h.Delete("Service", "evil/bait")
		})
	}
	h.finish(t)
}

// A tenant may call its objects as others call theirs. Its own visitors come to it, others' clients do not.
func TestTenantWithStolenNames(t *testing.T) {
	h := startHostile(t)
	// The name, the labels, the account, the ports, and rules for them.
	h.Apply(`
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: evil}
spec:
  clusterIP: ` + hostileAddress + `
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 9000}]
---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: evil, namespace: evil}
spec:
  mtls: {mode: Disabled}
  services:
  - name: reviews
    ports: [{port: 80, protocol: TCP}]
  - name: shop/reviews
    routes: [{name: all, to: [{weight: 1}]}]
  - name: client
    versions: [{name: none, labels: {version: none}}]
    routes: [{name: all, to: [{version: none}]}]
`)
	problems := strings.Join(h.Problems("evil/evil"), "\n")
	for _, text := range []string{"namespace evil has no Service shop/reviews", "namespace evil has no Service client"} {
		if !strings.Contains(problems, text) {
			t.Errorf("the tenant is told %q, not %q", problems, text)
		}
	}
	h.untouched(t)

	// Whatever a client says in Host, it is the address that counts.
	for range 3 {
		for _, p := range []echo.Protocol{echo.HTTP1, echo.HTTP2, echo.GRPC} {
			if r := h.client.MustCall(p, echo.Request{Address: "10.96.0.5:80", Host: "reviews.evil.svc.cluster.local"}); r.Name != "reviews" {
				t.Errorf("%s with the tenant's Host went to %s", p, r.Name)
			}
			h.visits++
			came := h.evil.Count()
			r := h.visitor.MustCall(p, echo.Request{Address: hostileAddress + ":80", Host: "reviews.shop.svc.cluster.local"})
			if r.Name != "evil" || h.evil.Count() != came+1 {
				t.Errorf("%s to the tenant with the victim's Host went to %s", p, r.Name)
			}
		}
	}
	if n := h.evil.Count(); n != 9 {
		t.Errorf("the tenant counted %d, its visitor sent 9", n)
	}
	h.finish(t)
}

// A pod that says itself that it has a sidecar, and what that is to do, does so for itself.
func TestAnnotationsByHand(t *testing.T) {
	h := startHostile(t)
	skipped := make([]string, 0, 1000)
	for port := 8000; port < 9000; port++ {
		skipped = append(skipped, fmt.Sprint(port))
	}
	h.Apply(`
apiVersion: v1
kind: Pod
metadata:
  name: by-hand
  namespace: evil
  annotations:
    mesh.tulle.dev/sidecar: "made up"
    mesh.tulle.dev/skip-detection: "80,` + strings.Join(skipped, ",") + `"
    mesh.tulle.dev/probes: '[{"path":"/app/live","port":8080,"targetPath":"/","host":"10.96.0.5"}]'
spec:
  serviceAccountName: reviews
  initContainers: [{name: tulle-proxy, restartPolicy: Always}]
  containers: [{name: app, args: [serve, -http=8080]}]
`)
	byHand := h.Pod("by-hand")
	if !byHand.Meshed() {
		t.Fatal("the pod has no proxy")
	}
	h.untouched(t)
	// It works as its annotations say: HTTP counts as TCP to it.
	if r := byHand.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"}); r.Name != "reviews" {
		t.Errorf("went to %s", r.Name)
	}
	h.visits++
	if n := byHand.Stat(`^http\.outbound\.downstream_rq_total$`); n != 0 {
		t.Errorf("%d requests were detected on a port that it skips", n)
	}
	if n := h.client.Stat(`^http\.outbound\.downstream_rq_total$`); n == 0 {
		t.Error("the client's requests are not detected any more")
	}
	h.untouched(t)
	h.finish(t)
}

// A certificate for a service account of the same name, of another namespace, is not the server's.
func TestServiceAccountOfAnotherNamespace(t *testing.T) {
	w := envoy.Start(t, "testdata/hostile.yaml")
	client, victim := w.Pod("client"), w.Pod("shop/reviews")
	client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
	w.Pretend("shop/reviews", "spiffe://cluster.local/ns/evil/sa/reviews")
	victim.RestartProxy()
	before := victim.Count()
	for host, http1 := range map[string]string{"10.96.0.5": "80", victim.IP4().String(): "8080"} {
		r, err := client.Call(echo.HTTP1, echo.Request{Address: host + ":" + http1})
		if err == nil && r.Status != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d from %+v, want 503", host, r.Status, r.Answer)
		}
		if r, err := client.Call(echo.TCP, echo.Request{Address: host + ":9000"}); err == nil {
			t.Errorf("TCP to %s is answered: %+v", host, r.Answer)
		}
	}
	if n := victim.Count() - before; n != 0 {
		t.Errorf("the app got %d connections", n)
	}
}

package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/internal/smi"
)

const (
	outageServices = 40
	outagePods     = 12
	// outageUses is how many Services each pod calls besides the ruled one and the bell.
	outageUses = 6
	outageName = "smi" // the namespace; that of smiObject
)

// away is a mesh whose API server goes away, and whose proxies note all that they are sent.
type away struct {
	*world
	relay   *relay
	witness *witness
	// editor changes objects by way of another API server, whatever becomes of the first.
	editor    *world
	services  []*corev1.Service // the first has rules, the last is the bell
	pods      []*corev1.Pod
	proxies   []*proxy
	marks     []int // of each proxy's receipts
	watched   map[string]int
	deleted   map[int]bool // of services
	addresses atomic.Int32
}

// TestAPIServerOutages: the API server goes away, comes back with another memory, in parts, slowly, and broken. Meanwhile objects have changed, and
// exactly these changes, of all that it then lists anew, reach the proxies that they concern. Nothing is removed that is still there.
func TestAPIServerOutages(t *testing.T) {
	t.Parallel()
	a := startAway(t)
	for _, step := range []struct {
		name string
		test func(*testing.T, *away)
	}{
		{"stopped for more than a minute", testStoppedAPIServer},
		{"another one that forgot the past", testForgetfulAPIServer},
		{"lists cut short", testListsCutShort},
		{"lists in slow and broken pages", testBrokenPages},
		{"a replica that starts meanwhile", testStartsMeanwhile},
	} {
		t.Run(step.name, func(t *testing.T) {
			sub := *a.world.in(t)
			editor := *a.editor.in(t)
			a.world, a.editor = &sub, &editor
			step.test(t, a)
		})
		if t.Failed() {
			t.FailNow() // what comes after is about another state
		}
	}
	a.world = a.world.in(t)
	a.nothingRemoved(t)
}

func startAway(t *testing.T) *away {
	w := newWorld(t)
	w.installCertManager()
	a := &away{world: w, relay: w.newRelay(t), witness: &witness{}, deleted: map[int]bool{}}
	other := w.anotherAPIServer(t)
	editor := *w
	var err error
	if editor.client, err = client.NewWithWatch(other, client.Options{Scheme: w.client.Scheme()}); err != nil {
		t.Fatal(err)
	}
	a.editor = &editor
	w.start(func(o *operator.Options) {
		a.relay.through(o.Config)
		a.witness.see(o.Config)
	})
	w.eventually("the operator is ready", w.ready)
	w.eventually("TrafficSplits are served", func() error { return w.served(smi.TrafficSplits()) })
	w.namespace(outageName)
	w.create(mesh(outageName, outageName, v1alpha1.MeshSpec{}))
	for i := range outageServices {
		s := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: outageName, Name: fmt.Sprintf("svc-%d", i)},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}},
		}
		w.create(s, a.slice(s.Name))
		a.services = append(a.services, s)
	}
	split := smiObject(t, smi.TrafficSplits(), "v1alpha4", "canary", `{spec: {service: svc-0, backends: [{service: svc-1, weight: 90}, {service: svc-2, weight: 10}]}}`)
	w.create(split)
	for i := range outagePods {
		p := pod(outageName, fmt.Sprint("client-", i))
		w.create(p)
		w.run(p)
		a.pods = append(a.pods, p)
		a.proxies = append(a.proxies, w.connect(t, p))
	}
	for i, p := range a.proxies {
		for _, s := range a.used(i) {
			p.ask(resource.Ref{Type: resource.Cluster, Name: destination(a.services[s])})
		}
	}
	w.condition(outageName, outageName, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 1")
	a.mark()
	a.ring()
	return a
}

func destination(s *corev1.Service) string { return "http|" + s.Spec.ClusterIP + ":80" }

// used are the Services, by number, that a pod calls.
func (a *away) used(pod int) []int {
	used := []int{0, outageServices - 1}
	for j := range outageUses {
		used = append(used, a.calls(pod, j))
	}
	return used
}

// calls is the j-th Service that a pod shares with some others.
func (a *away) calls(pod, j int) int { return 3 + (pod*3+j)%(outageServices-4) }

// slice is an EndpointSlice of a Service, with an address that is new.
func (a *away) slice(service string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: outageName, Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{a.endpoint()},
	}
}

func (a *away) endpoint() discoveryv1.Endpoint {
	n := a.addresses.Add(1)
	return discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.200.%d.%d", n/250, n%250+1)}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}
}

// move gives a Service's endpoints another address.
func (w *world) move(a *away, service string) {
	w.t.Helper()
	s := a.slice(service)
	w.update(s, func() { s.Endpoints = []discoveryv1.Endpoint{a.endpoint()} })
}

// mark forgets what the proxies got, and what is watched, until now.
func (a *away) mark() {
	a.marks, a.watched = nil, a.witness.watches()
	for _, p := range a.proxies {
		a.marks = append(a.marks, len(p.receipts()))
	}
}

// since returns what a proxy got since the mark.
func (a *away) since(i int) []receipt { return a.proxies[i].receipts()[a.marks[i]:] }

// watchesAgain waits until all kinds that were watched at the mark have been listed and are watched anew.
func (a *away) watchesAgain() {
	a.t.Helper()
	eventuallyWithin(a.t, 3*time.Minute, "all kinds are watched again", func() error {
		now := a.witness.watches()
		var missing []string
		for kind, n := range a.watched {
			if now[kind] <= n {
				missing = append(missing, kind)
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			return fmt.Errorf("%d of %d are not: %v", len(missing), len(a.watched), missing)
		}
		return nil
	})
}

// ring changes what all proxies use, and waits until all of them know: what was published before has then reached them too.
func (a *away) ring() {
	a.t.Helper()
	bell := a.services[outageServices-1].Name
	a.editor.move(a, bell)
	a.eventually("all proxies hear the bell", func() error {
		for i, p := range a.proxies {
			if a.pods[i] == nil {
				continue
			}
			if err := p.failure(); !errors.Is(err, errGoesOn) {
				return fmt.Errorf("the stream of client-%d ended: %w", i, err)
			}
			if !slices.ContainsFunc(a.since(i), rings) {
				return fmt.Errorf("client-%d did not", i)
			}
		}
		return nil
	})
}

func bellEndpoints() string { return fmt.Sprintf("%s/svc-%d|", outageName, outageServices-1) }

// rings says whether a response is of the bell, and of nothing else.
func rings(r receipt) bool {
	for name := range r.versions {
		if r.kind == resource.Endpoints && strings.HasPrefix(name, bellEndpoints()) {
			return true
		}
	}
	return false
}

// changes are what is done to objects while the API server is away.
type changes struct {
	moved, gone, ruled int // Services; a pod that calls none of them is concerned by nothing
	ended              int // a pod
}

// make changes objects, also in ways that concern no proxy.
func (a *away) make(c changes) {
	a.t.Helper()
	e := a.editor
	e.move(a, a.services[c.moved].Name)
	e.delete(a.services[c.gone], a.slice(a.services[c.gone].Name))
	a.deleted[c.gone] = true
	if c.ended >= 0 {
		e.delete(a.pods[c.ended])
	}
	split := smiObject(a.t, smi.TrafficSplits(), "v1alpha4", "canary", "{}")
	e.update(split, func() {
		split.Object["spec"] = map[string]any{"service": "svc-0", "backends": []any{
			map[string]any{"service": "svc-1", "weight": int64(100 - c.ruled)}, map[string]any{"service": "svc-2", "weight": int64(c.ruled)},
		}}
	})
	for i := 3; i < outageServices-1; i++ {
		if a.deleted[i] {
			continue
		}
		s := a.services[i]
		e.update(s, func() { s.Annotations = map[string]string{"checked": fmt.Sprint(c.ruled)} })
	}
	fresh := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: outageName, Name: fmt.Sprint("fresh-", c.ruled)},
		Spec: corev1.ServiceSpec{
			ClusterIP: a.unusedAddress(),
			Ports:     []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	e.create(fresh, a.slice(fresh.Name))
}

// unusedAddress is one that no Service had: proxies go on asking about those of Services that are gone. The API server itself gives out none below the 17th.
func (a *away) unusedAddress() string {
	network, err := netip.MustParseAddr(a.services[0].Spec.ClusterIP).Prefix(24)
	if err != nil {
		a.t.Fatal(err)
	}
	address := network.Addr().As4()
	address[3] = byte(1 + len(a.deleted)) // the first is the API server's
	return netip.AddrFrom4(address).String()
}

// ends waits until the stream of the pod that was deleted ends.
func (a *away) ends(pod int) {
	a.t.Helper()
	a.eventually("the stream of the pod that is gone ends", func() error {
		if end := status.Convert(a.proxies[pod].failure()); end.Code() != codes.PermissionDenied {
			return fmt.Errorf("it does not: %v", end)
		}
		return nil
	})
	a.pods[pod] = nil
}

// wanted is what a proxy should get, and how often, of changes and the bell; the bool is false when it may also get it not at all.
func (a *away) wanted(i int, c changes) map[string]bool {
	want := map[string]bool{"vhost outbound/" + destination(a.services[0]): true}
	used := a.used(i)
	if slices.Contains(used, c.moved) {
		want["endpoints "+a.services[c.moved].Name] = true
	}
	if slices.Contains(used, c.gone) {
		want["cluster "+destination(a.services[c.gone])] = true // an empty one
		// EndpointSlices may be listed before Services: then it loses its endpoints first.
		want["endpoints "+a.services[c.gone].Name] = false
	}
	return want
}

// got is how often a proxy got each resource since the mark.
func (a *away) got(i int) map[string]int {
	got := map[string]int{}
	for _, r := range a.since(i) {
		for name := range r.versions {
			got[nameOf(r.kind, name)]++
		}
	}
	return got
}

// arrive waits until all kinds are watched again, and each proxy got what changed for it.
func (a *away) arrive(c changes) {
	a.t.Helper()
	a.watchesAgain()
	a.eventually("the changes reach the proxies", func() error {
		for i := range a.proxies {
			got := a.got(i)
			for name, must := range a.wanted(i, c) {
				if a.pods[i] != nil && must && got[name] == 0 {
					return fmt.Errorf("client-%d has not got %s", i, name)
				}
			}
		}
		return nil
	})
}

// wantOnly rings the bell, and fails unless each proxy got what changed for it, once, the bell, and nothing else.
func (a *away) wantOnly(t *testing.T, c changes) {
	t.Helper()
	a.ring()
	responses := 0
	for i := range a.proxies {
		if a.pods[i] == nil {
			continue
		}
		want := a.wanted(i, c)
		want["endpoints "+a.services[outageServices-1].Name] = true
		got := a.got(i)
		for name, n := range got {
			if _, ok := want[name]; !ok || n != 1 {
				t.Errorf("client-%d got %d times %s", i, n, name)
			}
		}
		for name, must := range want {
			if must && got[name] == 0 {
				t.Errorf("client-%d has not got %s", i, name)
			}
		}
		for _, r := range a.since(i) {
			responses++
			for _, name := range r.removed {
				if !strings.Contains(name, a.services[c.gone].Name) {
					t.Errorf("client-%d: %s %s was removed", i, r.kind, name)
				}
			}
		}
	}
	t.Logf("%d responses in all to %d proxies, %d kinds listed anew", responses, outagePods, len(a.watched))
}

// nameOf names a resource for people: endpoints by their Service.
func nameOf(kind resource.Type, name string) string {
	if kind == resource.Endpoints {
		name, _, _ = strings.Cut(strings.TrimPrefix(name, outageName+"/"), "|")
	}
	return kind.String() + " " + name
}

// nothingRemoved fails if a proxy was ever told that something is gone which is there.
func (a *away) nothingRemoved(t *testing.T) {
	t.Helper()
	there := map[string]bool{}
	var services corev1.ServiceList
	a.list(&services, client.InNamespace(outageName))
	for i := range services.Items {
		there[services.Items[i].Name], there[services.Items[i].Spec.ClusterIP] = true, true
	}
	for i, p := range a.proxies {
		for _, r := range p.receipts() {
			for _, name := range r.removed {
				for known := range there {
					if strings.Contains(name, known+"|") || strings.Contains(name, known+":") {
						t.Errorf("client-%d was told that %s %s is gone", i, r.kind, name)
					}
				}
			}
		}
	}
}

// testStoppedAPIServer: it is there and says nothing, as one whose machine hangs, until all connections were given up.
func testStoppedAPIServer(t *testing.T, a *away) {
	a.mark()
	c := changes{moved: 4, gone: 7, ruled: 20, ended: outagePods - 1}
	resume := a.pauseAPIServer()
	a.make(c)
	// What is shown is what happens after so long, however fast the rest goes.
	<-time.After(65 * time.Second)
	for i := range a.proxies {
		if got := a.since(i); len(got) > 0 {
			t.Errorf("client-%d got %v while the API server was away", i, got)
		}
	}
	resume()
	a.ends(c.ended)
	a.arrive(c)
	a.wantOnly(t, c)
}

// testForgetfulAPIServer: another API server answers, which does not remember what was before it started: each watch ends with 410 Gone.
func testForgetfulAPIServer(t *testing.T, a *away) {
	c := changes{moved: 5, gone: 8, ruled: 30, ended: -1}
	forgotten := make(chan struct{})
	a.relay.obey(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		a.relay.hold(r, forgotten)
		pass.ServeHTTP(w, r)
	})
	a.mark()
	a.relay.gently.Store(true)
	a.relay.cut() // all watches are begun anew at once, where they ended
	a.make(c)
	other := a.anotherAPIServer(t)
	a.relay.gently.Store(false)
	a.relay.redirect(t, other)
	defer a.relay.redirect(t, a.admin)
	a.relay.obey(nil)
	close(forgotten)
	a.arrive(c)
	a.wantOnly(t, c)
	if n := a.relay.expired.Load(); n == 0 {
		t.Error("no watch was too old")
	}
	t.Logf("%d watches were too old", a.relay.expired.Load())
	a.back(t)
}

// back returns to the first API server, and waits until the operator works with it.
func (a *away) back(t *testing.T) {
	t.Helper()
	a.mark()
	a.relay.redirect(t, a.admin)
	a.relay.cut()
	a.watchesAgain()
	a.mark()
	a.ring()
}

// withLists has the API server go away, objects change, and the API server come back with a rule for what it is asked.
func (a *away) withLists(t *testing.T, c changes, follow conduct) {
	t.Helper()
	a.relay.obey(unavailable)
	a.mark()
	a.relay.cut()
	a.make(c)
	a.relay.obey(follow)
	a.arrive(c)
	a.wantOnly(t, c)
	a.relay.obey(nil)
}

// testListsCutShort: the answers that have all objects, watches that begin with them, end in the middle.
func testListsCutShort(t *testing.T, a *away) {
	a.relay.broken.Store(0)
	a.withLists(t, changes{moved: 6, gone: 9, ruled: 40, ended: -1}, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if isStream(r) && a.relay.nth(about(r)) <= 2 {
			a.relay.cutShort(w, r, pass, 500)
			return
		}
		pass.ServeHTTP(w, r)
	})
	if n := a.relay.broken.Load(); n < 4 {
		t.Errorf("%d answers were cut short, want several", n)
	}
}

// testBrokenPages: an API server that knows no watches that begin with all objects, and has no cache, lists in pages, slowly; the first tries fail, at
// different places.
func testBrokenPages(t *testing.T, a *away) {
	a.relay.broken.Store(0)
	a.withLists(t, changes{moved: 10, gone: 11, ruled: 50, ended: -1}, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		query := r.URL.Query()
		switch {
		case isStream(r):
			refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		case isWatch(r) || r.Method != http.MethodGet || a.watched[r.URL.Path] == 0:
			pass.ServeHTTP(w, r)
		case query.Get("limit") == "":
			// What is known is too old, so that all is listed from etcd, in pages.
			refuse(w, http.StatusGone, metav1.StatusReasonExpired)
		default:
			a.page(w, r, pass)
		}
	})
	if pages, broken := a.relay.pages.Load(), a.relay.broken.Load(); pages < 20 || broken < 2 {
		t.Errorf("%d pages, %d of them cut short; want many, and some", pages, broken)
	}
	t.Logf("%d pages, %d cut short", a.relay.pages.Load(), a.relay.broken.Load())
}

// page answers with five objects, after a moment. Second pages are cut short, then refused, and come at the third try.
func (a *away) page(w http.ResponseWriter, r *http.Request, pass http.Handler) {
	query := r.URL.Query()
	query.Set("limit", "5")
	if query.Get("continue") == "" {
		query.Del("resourceVersion")
		query.Del("resourceVersionMatch")
	}
	r.URL.RawQuery = query.Encode()
	a.relay.pages.Add(1)
	<-time.After(50 * time.Millisecond) // it is slow
	if query.Get("continue") != "" {
		switch a.relay.nth(about(r)) {
		case 1:
			a.relay.cutShort(w, r, pass, 500)
			return
		case 2:
			refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError)
			return
		}
	}
	pass.ServeHTTP(w, r)
}

// testStartsMeanwhile: a replica that starts while the API server is slow and broken serves nobody until it knows all, however long that takes, and
// then serves what the other replica does, at once.
func testStartsMeanwhile(t *testing.T, a *away) {
	a.back(t)
	relay := a.newRelay(t)
	slices, splits := make(chan struct{}), make(chan struct{})
	relay.obey(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		switch kind := about(r); {
		case kind == "endpointslices" && isStream(r):
			relay.hold(r, slices)
			if relay.nth(kind) <= 2 {
				relay.cutShort(w, r, pass, 3000)
				return
			}
		case kind == smi.TrafficSplits().CRD() && released(slices) && !released(splits):
			relay.nth(kind)
			unavailable(w, r, pass)
			return
		}
		pass.ServeHTTP(w, r)
	})
	second := *a.world
	second.host = newHost()
	second.start(func(o *operator.Options) {
		relay.through(o.Config)
		o.PodName = "tulle-manager-2"
	})
	ca := a.ca(outageName)
	token := a.podToken(a.pods[0], sidecar.TokenAudience)
	a.eventually("the second operator has its certificate", func() error {
		c, err := tls.Dial("tcp", second.host+":15010", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // it is looked whether there is one
		if err != nil {
			return err
		}
		return c.Close()
	})
	refused := func() error {
		p := second.dial(t, ca, token)
		select {
		case <-p.ended:
		case <-p.first:
			return errors.New("it is served")
		}
		if end := status.Convert(p.failure()); end.Code() != codes.Unavailable || !strings.Contains(end.Message(), "still reading the cluster's state") {
			return end.Err()
		}
		return nil
	}
	a.eventually("all but EndpointSlices are known, and nobody is served", func() error {
		if relay.held.Load() == 0 {
			return errors.New("they are not asked for")
		}
		return refused()
	})
	close(slices)
	a.eventually("the definition of TrafficSplits is asked for", func() error {
		if relay.times(smi.TrafficSplits().CRD()) == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	for began := time.Now(); time.Since(began) < 35*time.Second; {
		if err := refused(); err != nil {
			t.Fatalf("after %v without TrafficSplits: %v", time.Since(began).Round(time.Second), err)
		}
		<-time.After(time.Second)
	}
	if second.ready() == nil {
		t.Error("it says that it is ready")
	}
	close(splits)
	var served *proxy
	a.eventually("the first stream is served", func() error {
		served = second.dial(t, ca, token)
		for _, s := range a.used(0) {
			served.ask(resource.Ref{Type: resource.Cluster, Name: destination(a.services[s])})
		}
		select {
		case <-served.ended:
			return served.failure()
		case <-served.first:
			return nil
		}
	})
	a.holdTheSame(t, a.proxies[0], served)
}

// holdTheSame waits until a proxy holds all that another one does, and fails if it got anything that is not the same, or more than once.
func (a *away) holdTheSame(t *testing.T, one, other *proxy) {
	t.Helper()
	want := one.holds()
	for i := range a.deleted { // what these tests' proxies don't drop, as Envoy does
		maps.DeleteFunc(want, func(name, _ string) bool {
			return strings.HasSuffix(name, "/"+a.services[i].Name) || strings.Contains(name, "/"+a.services[i].Name+"|")
		})
	}
	a.eventually("the proxy holds all that the other one does", func() error {
		got := other.holds()
		for name := range want {
			if got[name] == "" {
				return fmt.Errorf("%s is missing, of %d", name, len(want))
			}
		}
		return nil
	})
	times := map[string]int{}
	for _, r := range other.receipts() {
		for name, version := range r.versions {
			full := r.kind.String() + " " + name
			times[full]++
			if want[full] != version && name != identity.WorkloadSecret {
				t.Errorf("%s is %q at the new replica, and %q at the other one", full, version, want[full])
			}
		}
	}
	for name, n := range times {
		if n > 1 && !strings.HasPrefix(name, "endpoints ") { // which are sent again with a cluster that changes
			t.Errorf("%s was sent %d times", name, n)
		}
	}
	t.Logf("%d resources, all the same", len(want))
}

package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// TestRandomStreams plays random histories against a fake Envoy, which checks after every response that nothing was sent
// before what it needs works, and nothing removed that is needed or was asked for. When all has been said, the proxy
// holds what the last view says it should, which is also what a fresh stream would have given it.
func TestRandomStreams(t *testing.T) {
	runs := 1500
	if testing.Short() {
		runs = 200
	}
	for seed := range runs {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, uint64(seed))
			w.change()
			w.connect()
			for range 150 {
				w.act()
			}
			w.repair()
			w.finish()
			got := w.envoy.holds()
			if want := w.fresh(); got != want {
				t.Errorf("the proxy holds\n%s\nwhere a fresh one would hold\n%s", got, want)
			}
		})
	}
}

// world is a session, a fake Envoy, and the wire between them.
type world struct {
	t     *testing.T
	rand  *rand.Rand
	made  map[versioned]*resource.Resource
	views map[string]*testView
	view  *testView

	session *session
	// watched is the session's interest, as the server would have it.
	watched map[resource.ScopedRef]bool
	now     time.Time
	next    time.Time
	envoy   *fakeEnvoy
	wire    []*discoveryv3.DeltaDiscoveryResponse
	learned map[string]bool
	// ruled are the addresses that have HTTP rules.
	ruled   map[string]bool
	counter int
	// asked is when each cluster that waits for an answer was asked for; sent are the answers; lasting: none is provisional.
	asked   map[string]time.Time
	sent    []sentAnswer
	lasting bool
}

type sentAnswer struct {
	nonce, name string
	asked       time.Time
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(0, 0),
		made:  map[versioned]*resource.Resource{},
		views: map[string]*testView{}, view: newTestView(), learned: map[string]bool{}, ruled: map[string]bool{},
		asked: map[string]time.Time{},
	}
}

func (w *world) connect() {
	w.log("connect")
	if w.envoy == nil {
		w.envoy = newFakeEnvoy(w.t, w.made, w.views)
	} else {
		w.envoy.connect()
	}
	w.wire = nil
	w.watched = map[resource.ScopedRef]bool{}
	clear(w.asked)
	w.sent = nil
	w.session = newSession(&resource.Proxy{Namespace: "shop", Pod: "cart", Minor: 40}, w.view, bounds{100, 100, 100}, 10*time.Second)
	for name := range w.learned {
		w.session.learn([]learning{{name, true}})
	}
}

// act does one random thing.
func (w *world) act() {
	switch n := w.rand.IntN(20); {
	case n < 8:
		w.deliver()
	case n < 14:
		w.answer()
	case n < 16:
		w.change()
	case n < 17:
		w.envoy.ask(resource.Cluster, []string{w.name("q", 4)}, nil)
	case n < 18:
		name := w.name("q", 4)
		w.session.learn([]learning{{name, !w.learned[name]}})
		if w.learned[name] {
			delete(w.learned, name)
		} else {
			w.learned[name] = true
		}
	case n < 19:
		w.now = w.now.Add(time.Duration(w.rand.IntN(12)) * time.Second)
	case w.envoy.recorded():
		w.connect()
	}
	w.flush()
}

func (w *world) flush() {
	w.watch()
	var out []*response
	out, w.next = w.session.flush(w.now)
	for _, r := range out {
		w.log("send", r.message.Nonce, r.kind, r.message.SystemVersionInfo, r.items, r.message.RemovedResources)
		for _, name := range r.message.RemovedResources {
			if w.session.subscribed(resource.Ref{Type: r.kind, Name: name}) {
				w.t.Fatalf("%s %s is removed though it was asked for", r.kind, name)
			}
		}
		w.wire = append(w.wire, r.message)
		w.checkHeld(r)
	}
}

// checkHeld checks that a provisional answer was waited for, and not by a proxy that has a better one.
func (w *world) checkHeld(r *response) {
	for _, i := range r.items {
		if i.entry.ref.Type != resource.Cluster || i.res == nil {
			continue
		}
		at, ok := w.asked[i.entry.ref.Name]
		if i.res.Hold > 0 && (!ok || w.now.Sub(at) < i.res.Hold) {
			w.t.Fatalf("%s is sent at %s, it was asked for at %s", i, w.now, at)
		}
		delete(w.asked, i.entry.ref.Name)
		if ok {
			w.sent = append(w.sent, sentAnswer{r.message.Nonce, i.entry.ref.Name, at})
		}
	}
}

// log traces a history, for -v.
func (w *world) log(args ...any) {
	if testing.Verbose() {
		w.t.Log(args...)
	}
}

func (w *world) watch() {
	for _, i := range w.session.takeInterest() {
		w.watched[i.key] = i.added
	}
}

func (w *world) deliver() {
	if len(w.wire) > 0 {
		r := w.wire[0]
		w.wire = w.wire[1:]
		w.log("deliver", r.Nonce)
		w.envoy.take(r)
	}
}

func (w *world) answer() {
	if len(w.envoy.requests) > 0 {
		req := w.envoy.requests[0]
		w.envoy.requests = w.envoy.requests[1:]
		w.log("request", req)
		for _, name := range req.GetResourceNamesSubscribe() {
			_, held := req.GetInitialResourceVersions()[name]
			if _, asked := w.asked[name]; req.GetTypeUrl() == resource.Cluster.URL() && !held && !asked {
				w.asked[name] = w.now
			}
		}
		for _, a := range w.sent { // what the proxy refused, it still waits for
			if _, asked := w.asked[a.name]; a.nonce == req.GetResponseNonce() && req.GetErrorDetail() != nil && !asked {
				w.asked[a.name] = a.asked
			}
		}
		if _, err := w.session.request(req); err != nil {
			w.t.Fatal(err)
		}
	}
}

// finish delivers everything and lets all lingering end.
func (w *world) finish() {
	w.flush()
	for range 1000 {
		for len(w.wire)+len(w.envoy.requests) > 0 {
			w.deliver()
			w.answer()
			w.flush()
		}
		if w.next.IsZero() {
			break
		}
		w.now = w.next
		w.flush()
	}
	if !w.session.synced() || len(w.session.leaving) > 0 {
		w.t.Fatalf("not settled: pending %v, leaving %d", w.session.pending(), len(w.session.leaving))
	}
}

// fresh returns what a proxy that starts now, and asks for the same, would hold.
func (w *world) fresh() string {
	asked := w.envoy.names
	f := &world{asked: map[string]time.Time{}, t: w.t, rand: w.rand, made: w.made, views: w.views, view: w.view, learned: w.learned, now: w.now}
	f.connect()
	f.flush()
	f.finish()
	for ref := range asked {
		if ref.Type == resource.Cluster {
			f.envoy.ask(resource.Cluster, []string{ref.Name}, nil)
		}
	}
	f.finish()
	return f.envoy.holds()
}

func (w *world) name(prefix string, n int) string { return fmt.Sprint(prefix, w.rand.IntN(n)) }

// change publishes a view in which a few resources differ.
func (w *world) change() { w.publish(0.15, 0.15) }

// repair publishes a view without anything bad.
func (w *world) repair() {
	w.lasting = true
	w.publish(1, 0)
}

func (w *world) publish(share, bad float64) {
	next := &testView{revision: w.view.revision + 1, resources: maps.Clone(w.view.resources)}
	var changed []resource.Ref
	for _, ref := range worldRefs() {
		// Whether an address has HTTP rules shows in its bundle and in its cluster, in the same view.
		if ref.Type == resource.Bundle && ref != proxyBundle && w.rand.IntN(2) == 0 {
			w.ruled[ref.Name] = !w.ruled[ref.Name]
		} else if next.resources[ref] != nil && ref.Name[0] != 'q' && w.rand.Float64() >= share {
			continue
		}
		r := w.resource(ref, w.rand.Float64() < bad)
		next.resources[ref] = r
		changed = append(changed, ref)
		w.made[versioned{ref, r.Version}] = r
	}
	w.view = next
	w.views[fmt.Sprint(next.revision)] = next
	if w.session == nil {
		return
	}
	w.watch()
	changed = slices.DeleteFunc(changed, func(ref resource.Ref) bool {
		return !w.watched[testScope(w.session.proxy, ref)]
	})
	w.session.update(next, changed)
}

func worldRefs() []resource.Ref {
	refs := []resource.Ref{proxyBundle, {Type: resource.RouteConfiguration, Name: "routes"}, {Type: resource.Listener, Name: "stats"}, {Type: resource.Listener, Name: "routed"}}
	for i := range 4 {
		for _, r := range []struct {
			t resource.Type
			n string
		}{
			{resource.Bundle, "q"}, {resource.Cluster, "q"}, {resource.Cluster, "r"}, {resource.Endpoints, "e"},
			{resource.Secret, "s"}, {resource.Listener, "l"}, {resource.VirtualHost, "v"},
		} {
			refs = append(refs, resource.Ref{Type: r.t, Name: fmt.Sprint(r.n, i)})
		}
	}
	return refs
}

// resource makes a random version of a resource, with the references that its like have in a mesh.
func (w *world) resource(ref resource.Ref, bad bool) *resource.Resource {
	w.counter++
	version := fmt.Sprint("v", w.counter)
	if bad && ref.Type != resource.Bundle && ref.Type != resource.RouteConfiguration && ref.Type != resource.Secret {
		version = fmt.Sprint("bad", w.counter)
	}
	r := testResource(ref, version)
	number := ref.Name[len(ref.Name)-1:]
	switch {
	case ref == proxyBundle:
		// There is always a listener with routes, or virtual hosts would never be asked for.
		r.Needs = append(w.some(resource.Listener, "l"), resource.Ref{Type: resource.Listener, Name: "stats"}, resource.Ref{Type: resource.Listener, Name: "routed"})
		r.Needs = append(append(r.Needs, w.some(resource.Cluster, "r")...), w.some(resource.VirtualHost, "v")...)
	case ref.Type == resource.Bundle && w.ruled[ref.Name]:
		r.Needs = []resource.Ref{{Type: resource.VirtualHost, Name: "v" + number}}
	case ref.Type == resource.Bundle:
		r.Needs = []resource.Ref{{Type: resource.Cluster, Name: "q" + number}}
	case ref.Type == resource.Cluster && ref.Name[0] == 'q' && !w.lasting && w.rand.IntN(4) == 0:
		r.Hold = time.Duration(1+w.rand.IntN(10)) * time.Second
	case ref.Type == resource.Cluster && w.ruled[ref.Name]:
		r.Needs = []resource.Ref{{Type: resource.VirtualHost, Name: "v" + number}}
	case ref.Type == resource.Cluster:
		r.Warms = append(w.some(resource.Endpoints, "e"), w.some(resource.Secret, "s")...)
	case ref.Type == resource.VirtualHost:
		r.Needs = w.some(resource.Cluster, "r")
	case ref.Name == "stats":
		r.Needs = w.some(resource.Cluster, "r")
	case ref.Type == resource.Listener:
		r.Needs = w.some(resource.Cluster, "r")
		r.Warms = []resource.Ref{{Type: resource.RouteConfiguration, Name: "routes"}}
	}
	return r
}

func (w *world) some(t resource.Type, prefix string) []resource.Ref {
	var refs []resource.Ref
	for i := range 4 {
		if w.rand.IntN(2) == 0 {
			refs = append(refs, resource.Ref{Type: t, Name: fmt.Sprint(prefix, i)})
		}
	}
	return refs
}

func (i item) String() string {
	if i.res == nil {
		return "-" + i.entry.ref.Name
	}
	return i.entry.ref.Name + "@" + i.res.Version
}

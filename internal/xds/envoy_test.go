package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// fakeEnvoy does with responses what Envoy does, as far as order matters: it warms clusters and listeners, asks for what they
// wait for, once a name, drops what nothing refers to any more, refuses what is bad, and drops types it has not asked for.
// It checks every step against what the mesh promises.
type fakeEnvoy struct {
	t *testing.T
	// made are all versions of all resources that ever were, and views all views, to look up what a response means.
	made  map[versioned]*resource.Resource
	views map[string]*testView

	started map[resource.Type]bool
	// names are the subscriptions by name.
	names map[resource.Ref]bool
	// record is the version of each resource that Envoy announces when it reconnects.
	record map[resource.Ref]string
	active map[resource.Ref]*resource.Resource
	// warming are clusters and listeners that wait for the names in waiting.
	warming map[resource.Ref]*resource.Resource
	waiting map[resource.Ref]map[resource.Ref]bool

	requests []*discoveryv3.DeltaDiscoveryRequest
}

type versioned struct {
	resource.Ref
	version string
}

func newFakeEnvoy(t *testing.T, made map[versioned]*resource.Resource, views map[string]*testView) *fakeEnvoy {
	f := &fakeEnvoy{
		t: t, made: made, views: views,
		names:   map[resource.Ref]bool{},
		record:  map[resource.Ref]string{},
		active:  map[resource.Ref]*resource.Resource{},
		warming: map[resource.Ref]*resource.Resource{},
		waiting: map[resource.Ref]map[resource.Ref]bool{},
	}
	f.connect()
	return f
}

// connect begins a stream: every type that was asked for before is announced anew.
func (f *fakeEnvoy) connect() {
	again := f.started
	f.started, f.requests = map[resource.Type]bool{}, nil
	f.start(resource.Cluster)
	for _, t := range slices.Sorted(maps.Keys(again)) {
		f.start(t)
	}
}

// start sends the first request of a type.
func (f *fakeEnvoy) start(t resource.Type) {
	if f.started[t] {
		return
	}
	f.started[t] = true
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), InitialResourceVersions: map[string]string{}}
	for ref, version := range f.record {
		if ref.Type == t {
			req.InitialResourceVersions[ref.Name] = version
		}
	}
	for ref := range f.names {
		if ref.Type == t {
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, ref.Name)
		}
	}
	if len(req.ResourceNamesSubscribe) > 0 && pushed(t) {
		req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, wildcard)
	}
	f.requests = append(f.requests, req)
}

// ask asks for names, and stops asking for others.
func (f *fakeEnvoy) ask(t resource.Type, names, not []string) {
	if len(names)+len(not) == 0 {
		return
	}
	for _, name := range names {
		f.names[resource.Ref{Type: t, Name: name}] = true
	}
	for _, name := range not {
		ref := resource.Ref{Type: t, Name: name}
		delete(f.names, ref)
		delete(f.record, ref)
		delete(f.active, ref)
	}
	if !f.started[t] {
		f.start(t)
		return
	}
	f.requests = append(f.requests, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResourceNamesSubscribe: names, ResourceNamesUnsubscribe: not})
}

// take applies a response and answers it.
func (f *fakeEnvoy) take(r *discoveryv3.DeltaDiscoveryResponse) {
	kind, _ := resource.TypeOf(r.TypeUrl)
	if !f.started[kind] {
		f.t.Fatalf("%s was sent before it was asked for: Envoy drops it without an answer", kind)
	}
	view := f.views[r.SystemVersionInfo]
	var bad []string
	for _, res := range r.Resources {
		if isBad(res.Version) {
			bad = append(bad, res.Name)
		}
	}
	someApply := kind == resource.Cluster || kind == resource.Listener
	for _, res := range r.Resources {
		if !isBad(res.Version) && (someApply || len(bad) == 0) {
			f.apply(view, f.made[versioned{resource.Ref{Type: kind, Name: res.Name}, res.Version}])
		}
	}
	for _, name := range r.RemovedResources {
		f.remove(resource.Ref{Type: kind, Name: name})
	}
	ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	if len(bad) == 0 {
		for _, res := range r.Resources {
			f.record[resource.Ref{Type: kind, Name: res.Name}] = res.Version
		}
	} else {
		ack.ErrorDetail = &statuspb.Status{Message: rejection(kind, bad)}
	}
	f.refer()
	f.requests = append(f.requests, ack)
	if kind == resource.Cluster {
		f.start(resource.Listener)
	}
	if kind == resource.RouteConfiguration && len(f.active) > 0 {
		f.start(resource.VirtualHost)
	}
}

func isBad(version string) bool { return strings.HasPrefix(version, "bad") }

func rejection(kind resource.Type, bad []string) string {
	switch kind {
	case resource.Cluster:
		return "Error adding/updating cluster(s) " + strings.Join(bad, ": no, ") + ": no"
	case resource.Listener:
		return "Error adding/updating listener(s) " + strings.Join(bad, ": no\n") + ": no\n"
	default:
		return "something is wrong"
	}
}

// apply takes a good resource.
func (f *fakeEnvoy) apply(view *testView, r *resource.Resource) {
	if !pushed(r.Type) {
		if f.names[r.Ref] {
			f.active[r.Ref] = r
			f.warm(r.Ref)
		}
		return
	}
	newest := f.warming[r.Ref]
	if newest == nil {
		newest = f.active[r.Ref]
	}
	if newest == r {
		return
	}
	f.checkNeeds(view, r)
	waiting := map[resource.Ref]bool{}
	for _, ref := range r.Warms {
		if ref.Type == resource.Endpoints || f.active[ref] == nil {
			waiting[ref] = true
		}
	}
	f.warming[r.Ref], f.waiting[r.Ref] = r, waiting
	f.activate(r.Ref)
}

// checkNeeds holds the central promise: what a resource needs is there, in the version of the same view, and works.
func (f *fakeEnvoy) checkNeeds(view *testView, r *resource.Resource) {
	for _, ref := range r.Needs {
		want := view.resources[ref]
		if !view.refused(want) && f.active[ref] != want {
			f.t.Fatalf("%s@%s was sent before %s@%s works", r.Ref, r.Version, ref, want.Version)
		}
	}
}

// refused says whether Envoy refuses a resource or something that it waits for.
func (v *testView) refused(r *resource.Resource) bool {
	return isBad(r.Version) || slices.ContainsFunc(r.Warms, func(ref resource.Ref) bool { return isBad(v.resources[ref].Version) })
}

func (f *fakeEnvoy) warm(ref resource.Ref) {
	for _, w := range slices.Collect(maps.Keys(f.warming)) {
		delete(f.waiting[w], ref)
		f.activate(w)
	}
}

func (f *fakeEnvoy) activate(ref resource.Ref) {
	if len(f.waiting[ref]) == 0 {
		f.active[ref] = f.warming[ref]
		delete(f.warming, ref)
		delete(f.waiting, ref)
	}
}

func (f *fakeEnvoy) remove(ref resource.Ref) {
	delete(f.active, ref)
	delete(f.warming, ref)
	delete(f.waiting, ref)
	delete(f.record, ref)
	for _, r := range f.resources() {
		if slices.Contains(r.Needs, ref) {
			f.t.Fatalf("%s was removed though %s@%s needs it", ref, r.Ref, r.Version)
		}
	}
}

// refer asks for what the held resources refer to, and stops asking for what none does.
func (f *fakeEnvoy) refer() {
	refer := map[resource.Ref]bool{}
	for _, r := range f.resources() {
		for _, ref := range r.Warms {
			refer[ref] = true
		}
	}
	for _, t := range []resource.Type{resource.Endpoints, resource.Secret, resource.RouteConfiguration} {
		var names, not []string
		for ref := range refer {
			if ref.Type == t && !f.names[ref] {
				names = append(names, ref.Name)
			}
		}
		for ref := range f.names {
			if ref.Type == t && !refer[ref] {
				not = append(not, ref.Name)
			}
		}
		f.ask(t, names, not)
	}
}

// resources are all versions that Envoy has, in use or warming.
func (f *fakeEnvoy) resources() []*resource.Resource {
	return slices.AppendSeq(slices.Collect(maps.Values(f.active)), maps.Values(f.warming))
}

// recorded says whether Envoy would announce exactly what it holds.
func (f *fakeEnvoy) recorded() bool {
	held := maps.Clone(f.active)
	maps.Copy(held, f.warming)
	for ref, r := range held {
		if f.record[ref] != r.Version {
			return false
		}
	}
	return len(held) == len(f.record)
}

// holds describes what Envoy works with.
func (f *fakeEnvoy) holds() string {
	var out []string
	for ref, r := range f.active {
		out = append(out, fmt.Sprintf("%s@%s", ref, r.Version))
	}
	for ref, r := range f.warming {
		out = append(out, fmt.Sprintf("%s@%s warming", ref, r.Version))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

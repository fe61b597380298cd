package xds

import (
	"fmt"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const wildcard = "*"

// maxUnanswered bounds the unacknowledged responses of a stream, in multiples of its limit of names: a proxy that asks for the
// same again and again and acknowledges nothing is cut off.
const maxUnanswered = 2

// maxEntries bounds what a session keeps account of, also of names that were subscribed to and are not any more, in the same multiples.
const maxEntries = 3

// Bounds of the names that are looked at, in bytes, since those that a proxy makes up are kept: ours have a few hundred at most, but the endpoints
// of a TrafficSplit name its backends, of which there may be 64.
const (
	maxName          = 1 << 9
	maxEndpointsName = 5 << 10
)

func longestName(t resource.Type) int {
	if t == resource.Endpoints {
		return maxEndpointsName
	}
	return maxName
}

// bounds are what a session holds at most.
type bounds struct {
	// names bounds the names that are subscribed to, and those that are announced, of each type.
	names int
	// asked bounds the clusters among them, which the proxy then holds for the rest of its life; others those that stand for no Service.
	asked, others int
}

// workload is the proxy's own certificate. It belongs to the stream and is in no view.
var workload = resource.Ref{Type: resource.Secret, Name: "workload"}

// peers holds the trust bundle. Its version stands for that: all other validation contexts are made of the same.
var peers = resource.Ref{Type: resource.Secret, Name: "peers"}

// proxyBundle needs all that a proxy gets unasked.
var proxyBundle = resource.Ref{Type: resource.Bundle, Name: "proxy"}

// session is the core of one stream: what the proxy asked for, what it was sent, what it acknowledged and what it refused.
// Its methods are fed events; flush returns what follows from them.
type session struct {
	proxy  *resource.Proxy
	view   resource.View
	bounds bounds
	linger time.Duration

	types   [resource.VirtualHost + 1]typeState
	entries map[resource.Ref]*entry
	// leaving are the resources that the proxy holds and nobody wants, since when nothing there needs them (zero: it does).
	leaving map[*entry]time.Time
	// changing are the clusters that have former needs.
	changing map[*entry]struct{}
	rejected map[*entry]struct{}
	// waiting are the entries whose answer is provisional, and since when it is held back.
	waiting map[*entry]time.Time
	// ripeAt is when the first of them may be due; zero: none is.
	ripeAt time.Time
	// sent are the unacknowledged responses by nonce.
	sent        map[string]*response
	learned     map[string]struct{}
	certificate *resource.Resource
	interest    []interest
	// sentOrder are the nonces in sent, and some that are not any more, oldest first.
	sentOrder []string
	// refusals are the names of clusters that the proxy asks for and can't have.
	refusals map[string]struct{}
	// limited counts, by limit, what was over it since the last takeLimited.
	limited [limits]int
	// sweep says that what is leaving must be looked at again now, sweepAt when to do so anyway.
	sweep   bool
	sweepAt time.Time

	nonces uint64
	groups int
	// inbound are the open ports of the inbound listener that was looked at last.
	inbound openPorts
}

// typeState is the state of one type's subscription.
type typeState struct {
	// started: the proxy has sent its first request of this type. Envoy drops, without a word, what it has not asked for.
	started bool
	// wildcard: the proxy takes all that is pushed; greeted: its first wildcard request was answered.
	wildcard, greeted bool
	// names is the number of names subscribed to.
	names int
	// pending are the entries that may have to be sent, absent those that the proxy asked for and there is nothing to send of: a proxy may make up
	// thousands of names, which must not be looked at with each of its requests.
	pending, absent map[*entry]struct{}
}

// interest is a change to the set of resources whose changes concern a session.
type interest struct {
	key   resource.ScopedRef
	added bool
}

// response is one message and what it carries, to be recognised by its nonce.
type response struct {
	message *discoveryv3.DeltaDiscoveryResponse
	kind    resource.Type
	items   []item
	// answers are the names in it that the proxy had asked for.
	answers []string
	// at is when it was made.
	at time.Time
}

// item is one resource of a response; res is nil for a removal.
type item struct {
	entry *entry
	res   *resource.Resource
}

// newSession returns a session that wants the proxy's own bundle.
func newSession(proxy *resource.Proxy, view resource.View, bounds bounds, linger time.Duration) *session {
	s := &session{
		proxy: proxy, view: view, bounds: bounds, linger: linger,
		refusals: map[string]struct{}{},
		entries:  map[resource.Ref]*entry{},
		leaving:  map[*entry]time.Time{},
		changing: map[*entry]struct{}{},
		rejected: map[*entry]struct{}{},
		waiting:  map[*entry]time.Time{},
		sent:     map[string]*response{},
		learned:  map[string]struct{}{},
	}
	for t := range s.types {
		s.types[t].pending, s.types[t].absent = map[*entry]struct{}{}, map[*entry]struct{}{}
	}
	s.want(proxyBundle)
	return s
}

// update takes a new view; refs are those of its resources that may have changed since the last one.
func (s *session) update(view resource.View, refs []resource.Ref) {
	s.view = view
	for _, ref := range refs {
		if e := s.entries[ref]; e != nil && e.wants > 0 {
			s.reload(e)
		}
	}
}

// learn takes changes to the names that are pushed because pods of the same workload asked for them.
func (s *session) learn(changes []learning) {
	for _, c := range changes {
		_, known := s.learned[c.name]
		switch ref := (resource.Ref{Type: resource.Bundle, Name: c.name}); {
		case c.added && !known:
			s.learned[c.name] = struct{}{}
			s.want(ref)
		case !c.added && known:
			delete(s.learned, c.name)
			s.unwant(ref)
		}
	}
}

// provide takes the proxy's certificate.
func (s *session) provide(r *resource.Resource) {
	s.certificate = r
	if e := s.entries[workload]; e != nil && e.wants > 0 {
		s.reload(e)
	}
}

// subscribed says whether the proxy has asked for a resource by name.
func (s *session) subscribed(ref resource.Ref) bool {
	e := s.entries[ref]
	return e != nil && e.subscribed
}

// takeInterest returns, in order, what changed in the session's interest since the last call.
func (s *session) takeInterest() []interest {
	i := s.interest
	s.interest = nil
	return i
}

// takeLimited returns how much was over each limit since the last call.
func (s *session) takeLimited() [limits]int {
	l := s.limited
	s.limited = [limits]int{}
	return l
}

// request takes a request of the proxy. It returns the cluster names that the proxy genuinely asked for: those of a
// stream's first request are re-announcements. The error ends the stream.
func (s *session) request(req *discoveryv3.DeltaDiscoveryRequest) ([]string, error) {
	t, ok := resource.TypeOf(req.GetTypeUrl())
	if !ok {
		return nil, nil // A type that only a hand-written bootstrap could ask for: never answered.
	}
	s.acknowledge(req)
	if limit := maxUnanswered * s.bounds.names; len(s.sent) > limit {
		return nil, endingf("unacknowledged", codes.ResourceExhausted, "%d responses have not been acknowledged, the limit is %d", len(s.sent), limit)
	}
	st := &s.types[t]
	first := !st.started
	st.started = true
	for _, name := range req.GetResourceNamesUnsubscribe() {
		s.unsubscribe(t, name)
	}
	if first {
		// Legacy: a first request that names nothing asks for everything. So does "*", handled below.
		st.wildcard = pushed(t) && len(req.GetResourceNamesSubscribe()) == 0
		s.announce(t, req.GetInitialResourceVersions())
	}
	names := req.GetResourceNamesSubscribe()
	if first {
		names = heldFirst(names, req.GetInitialResourceVersions())
	}
	var asks []string
	for _, name := range names {
		switch {
		case name == wildcard:
			s.subscribeAll(t)
			continue
		case len(name) > longestName(t):
			s.limited[limitNames]++
			continue
		case t == resource.Cluster && !s.admits(name):
			s.limited[limitAsked]++
			s.refusals[name] = struct{}{}
		default:
			s.subscribe(t, name, first)
		}
		if t == resource.Cluster && !first {
			asks = append(asks, name)
		}
	}
	if first {
		s.settleAnnounced(t, req.GetInitialResourceVersions())
	}
	return asks, nil
}

// heldFirst returns names, those of which the proxy holds something at first: a limit must not take it from it.
func heldFirst(names []string, versions map[string]string) []string {
	sorted := make([]string, 0, len(names))
	for _, held := range []bool{true, false} {
		for _, name := range names {
			if _, ok := versions[name]; ok == held {
				sorted = append(sorted, name)
			}
		}
	}
	return sorted
}

// admits says whether the proxy may ask for a cluster. One that it holds, or is sent anyway, costs it nothing more.
func (s *session) admits(name string) bool {
	if e := s.entries[resource.Ref{Type: resource.Cluster, Name: name}]; e != nil && (e.wants > 0 || e.atProxy()) {
		return true
	}
	asked := s.types[resource.Cluster].names
	if asked < s.bounds.others || asked >= s.bounds.asked {
		return asked < s.bounds.others
	}
	// The last places are for Services: what may be learned.
	service, _ := s.view.Resource(s.proxy, resource.Ref{Type: resource.Bundle, Name: name})
	return service != nil
}

// announce notes what a reconnecting proxy holds.
func (s *session) announce(t resource.Type, versions map[string]string) {
	announced := 0
	for name, version := range versions {
		if announced++; announced > s.bounds.names || len(s.entries) >= maxEntries*s.bounds.names {
			s.limited[limitNames] += len(versions) - announced + 1
			return
		}
		if len(name) > longestName(t) || len(version) > maxName {
			s.limited[limitNames]++
			continue
		}
		e := s.entry(resource.Ref{Type: t, Name: name})
		e.version = version
		if e.cur != nil && e.cur.Version == version {
			e.held = e.cur
		}
		s.touch(e)
	}
}

// settleAnnounced considers the removal of what the proxy holds and, all its subscriptions read, nobody wants.
func (s *session) settleAnnounced(t resource.Type, versions map[string]string) {
	for name := range versions {
		if e := s.entries[resource.Ref{Type: t, Name: name}]; e != nil && e.wants == 0 {
			s.part(e)
		}
	}
}

// subscribe takes a name that the proxy asks for. It is answered even if its version was already sent, except when the
// proxy has just announced that very version. Endpoints are answered even then: a cluster that was warming when the
// last stream broke waits for them (https://github.com/envoyproxy/envoy/issues/13009).
func (s *session) subscribe(t resource.Type, name string, first bool) {
	ref := resource.Ref{Type: t, Name: name}
	e := s.entries[ref]
	if e == nil || !e.subscribed {
		if s.types[t].names >= s.bounds.names || e == nil && len(s.entries) >= maxEntries*s.bounds.names {
			s.limited[limitNames]++
			return
		}
		s.types[t].names++
		e = s.want(ref)
		e.subscribed = true
	}
	if first && e.unchanged() && t != resource.Endpoints {
		return
	}
	e.answer = true
	e.asked = e.asked || !first || e.version == ""
	s.touch(e)
}

// unchanged says whether the proxy holds the view's version.
func (e *entry) unchanged() bool { return e.cur != nil && e.version == e.cur.Version }

func (s *session) unsubscribe(t resource.Type, name string) {
	if name == wildcard {
		s.unsubscribeAll(t)
		return
	}
	if t == resource.Cluster {
		delete(s.refusals, name)
	}
	e := s.entries[resource.Ref{Type: t, Name: name}]
	if e == nil || !e.subscribed {
		return
	}
	s.types[t].names--
	e.subscribed, e.answer, e.asked = false, false, false
	s.unwant(e.ref)
}

func (s *session) subscribeAll(t resource.Type) {
	st := &s.types[t]
	if !pushed(t) || st.wildcard {
		return
	}
	st.wildcard, st.greeted = true, false
	for ref, e := range s.entries {
		if ref.Type == t {
			s.touch(e)
		}
	}
}

// unsubscribeAll ends a wildcard subscription: Envoy then drops all of the type that it did not ask for by name.
func (s *session) unsubscribeAll(t resource.Type) {
	s.types[t].wildcard = false
	for _, r := range s.sent {
		if r.kind == t {
			r.items = slices.DeleteFunc(r.items, func(i item) bool { return !i.entry.subscribed })
		}
	}
	for ref, e := range s.entries {
		if ref.Type != t || e.subscribed {
			continue
		}
		e.version, e.held, e.prev, e.flight, e.await = "", nil, nil, nil, ""
		if e.wants == 0 {
			s.part(e)
			continue
		}
		s.touch(e)
	}
}

func (s *session) nonce() string {
	s.nonces++
	return fmt.Sprint(s.nonces)
}

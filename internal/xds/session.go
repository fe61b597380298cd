package xds

import (
	"fmt"
	"slices"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const wildcard = "*"

// maxUnanswered bounds the unacknowledged responses of a stream, in multiples of its limit of names: a proxy that asks for the
// same again and again and acknowledges nothing is cut off.
const maxUnanswered = 4

// workload is the proxy's own certificate. It belongs to the stream and is in no view.
var workload = resource.Ref{Type: resource.Secret, Name: "workload"}

// peers holds the trust bundle. Its version stands for that: all other validation contexts are made of the same.
var peers = resource.Ref{Type: resource.Secret, Name: "peers"}

// proxyBundle needs all that a proxy gets unasked.
var proxyBundle = resource.Ref{Type: resource.Bundle, Name: "proxy"}

// session is the core of one stream: what the proxy asked for, what it was sent, what it acknowledged and what it refused.
// Its methods are fed events; flush returns what follows from them.
type session struct {
	proxy    *resource.Proxy
	view     resource.View
	maxNames int
	linger   time.Duration

	types   [resource.VirtualHost + 1]typeState
	entries map[resource.Ref]*entry
	// leaving are the resources that the proxy holds and nobody wants, since when nothing there needs them (zero: it does).
	leaving  map[*entry]time.Time
	rejected map[*entry]struct{}
	// sent are the unacknowledged responses by nonce.
	sent        map[string]*response
	learned     map[string]struct{}
	certificate *resource.Resource
	interest    []interest
	// sweep says that what is leaving must be looked at again now, sweepAt when to do so anyway.
	sweep   bool
	sweepAt time.Time

	nonces uint64
	groups int
}

// typeState is the state of one type's subscription.
type typeState struct {
	// started: the proxy has sent its first request of this type. Envoy drops, without a word, what it has not asked for.
	started bool
	// wildcard: the proxy takes all that is pushed; greeted: its first wildcard request was answered.
	wildcard, greeted bool
	// names is the number of names subscribed to.
	names int
	// pending are the entries that may have to be sent.
	pending map[*entry]struct{}
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
}

// item is one resource of a response; res is nil for a removal.
type item struct {
	entry *entry
	res   *resource.Resource
}

// newSession returns a session that wants the proxy's own bundle.
func newSession(proxy *resource.Proxy, view resource.View, maxNames int, linger time.Duration) *session {
	s := &session{
		proxy: proxy, view: view, maxNames: maxNames, linger: linger,
		entries:  map[resource.Ref]*entry{},
		leaving:  map[*entry]time.Time{},
		rejected: map[*entry]struct{}{},
		sent:     map[string]*response{},
		learned:  map[string]struct{}{},
	}
	for t := range s.types {
		s.types[t].pending = map[*entry]struct{}{}
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

// request takes a request of the proxy. It returns the cluster names that the proxy genuinely asked for: those of a
// stream's first request are re-announcements. The error, a gRPC status, ends the stream.
func (s *session) request(req *discoveryv3.DeltaDiscoveryRequest) ([]string, error) {
	t, ok := resource.TypeOf(req.GetTypeUrl())
	if !ok {
		return nil, nil // A type that only a hand-written bootstrap could ask for: never answered.
	}
	s.acknowledge(req)
	if limit := maxUnanswered * s.maxNames; len(s.sent) > limit {
		return nil, status.Errorf(codes.ResourceExhausted, "%d responses have not been acknowledged, the limit is %d", len(s.sent), limit)
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
	var asks []string
	for _, name := range req.GetResourceNamesSubscribe() {
		if name == wildcard {
			s.subscribeAll(t)
			continue
		}
		if err := s.subscribe(t, name, first); err != nil {
			return nil, err
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

// announce notes what a reconnecting proxy holds.
func (s *session) announce(t resource.Type, versions map[string]string) {
	for name, version := range versions {
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
func (s *session) subscribe(t resource.Type, name string, first bool) error {
	e := s.entry(resource.Ref{Type: t, Name: name})
	if !e.subscribed {
		if s.types[t].names >= s.maxNames {
			return status.Errorf(codes.ResourceExhausted,
				"%s %q: this proxy already asks for %d names of that type, the limit of this control plane", t, name, s.maxNames)
		}
		s.types[t].names++
		e.subscribed = true
		e = s.want(e.ref)
	}
	if first && e.unchanged() && t != resource.Endpoints {
		return nil
	}
	e.answer, e.asked = true, true
	s.touch(e)
	return nil
}

// unchanged says whether the proxy holds the view's version.
func (e *entry) unchanged() bool { return e.cur != nil && e.version == e.cur.Version }

func (s *session) unsubscribe(t resource.Type, name string) {
	if name == wildcard {
		s.unsubscribeAll(t)
		return
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

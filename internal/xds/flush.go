package xds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// maxResponse is the size above which a response is split, in bytes. Envoy applies each on its main thread in one go.
const maxResponse = 1 << 20

// removalOrder is the order in which what is no longer wanted goes: users before used.
var removalOrder = [...]resource.Type{resource.Listener, resource.VirtualHost, resource.Cluster}

// flush returns the responses that are due, in the order in which they must be sent, and when to call it again if nothing
// happens before (zero: never). All come from the one view that the session holds.
func (s *session) flush(now time.Time) ([]*response, time.Time) {
	var out []*response
	ripe := s.ripen(now)
	for t := resource.Cluster; t <= resource.VirtualHost; t++ {
		out = append(out, s.flushType(t)...)
	}
	out = append(out, s.refuseAsks()...)
	removals, next := s.remove(now)
	out = append(out, removals...)
	for _, r := range out {
		r.at = now
	}
	return out, earliest(ripe, next)
}

// refuseAsks answers the asks for clusters that the proxy can't have: that they are gone, by which Envoy fails the requests
// that wait for them at once, and holds nothing but their names.
func (s *session) refuseAsks() []*response {
	if len(s.refusals) == 0 {
		return nil
	}
	r := s.response(resource.Cluster)
	r.answers = slices.Sorted(maps.Keys(s.refusals))
	r.message.RemovedResources = r.answers
	clear(s.refusals)
	return []*response{r}
}

// unacknowledgedSince is when the oldest response was made that is not acknowledged; zero: there is none.
func (s *session) unacknowledgedSince() time.Time {
	for len(s.sentOrder) > 0 {
		if r := s.sent[s.sentOrder[0]]; r != nil {
			return r.at
		}
		s.sentOrder = s.sentOrder[1:]
	}
	return time.Time{}
}

func (s *session) flushType(t resource.Type) []*response {
	st := &s.types[t]
	if !st.started {
		return nil
	}
	var due []*entry
	gated := false
	for e := range st.pending {
		switch {
		case !s.due(e):
			delete(st.pending, e)
			if e.missing() {
				st.absent[e] = struct{}{}
			}
		case !s.ready(e):
			gated = true
		default:
			due = append(due, e)
		}
	}
	out := s.respond(t, due)
	if st.wildcard && !st.greeted && (len(out) > 0 || !gated) {
		st.greeted = true
		if len(out) == 0 {
			// Envoy's start waits for an answer, even for one that says that there is nothing.
			out = append(out, s.send(t, nil))
		}
	}
	return out
}

// due says whether a resource has to be sent, be it now or when what it needs is there.
func (s *session) due(e *entry) bool {
	if e.cur == nil || !e.subscribed && !s.types[e.ref.Type].wildcard {
		return false
	}
	if e.provisional() {
		return e.ripe && e.awaited()
	}
	if e.answer {
		return true
	}
	return len(e.flight) == 0 && !e.unchanged() && e.rejection == nil
}

// ready says whether all that a resource needs is usable at the proxy.
func (s *session) ready(e *entry) bool {
	for _, ref := range e.cur.Needs {
		if !s.usable(ref) || e.cur.Last && !s.complete(ref) {
			return false
		}
	}
	return true
}

// complete says whether a usable resource is one of the view's that Envoy took, with all that it asked for because of it.
func (s *session) complete(ref resource.Ref) bool {
	e := s.entries[ref]
	if e == nil || e.cur == nil || e.rejection != nil {
		return false
	}
	return !slices.ContainsFunc(e.cur.Warms, func(ref resource.Ref) bool { return s.entries[ref].rejection != nil })
}

// usable says whether Envoy works with the view's version of a resource. What it refused, and what the view does not
// have, counts: waiting for it would hold its neighbours back for ever.
func (s *session) usable(ref resource.Ref) bool {
	e := s.entries[ref]
	if e == nil || e.cur == nil {
		return true
	}
	if ref.Type == resource.Bundle {
		return s.ready(e)
	}
	if e.rejection != nil {
		return true
	}
	return len(e.flight) == 0 && e.unchanged() && s.warm(e.cur)
}

// warm says whether Envoy has got all that it asks for by name because of r.
func (s *session) warm(r *resource.Resource) bool {
	for _, ref := range r.Warms {
		if e := s.entries[ref]; e == nil || !e.warmed() {
			return false
		}
	}
	return true
}

// respond makes the responses for resources of one type: one a group, split by size. Each secret travels alone: Envoy's
// rejection of a secret does not say which, and it takes a second try of the same for no change and acknowledges it.
func (s *session) respond(t resource.Type, due []*entry) []*response {
	slices.SortFunc(due, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.group, b.group), strings.Compare(a.ref.Name, b.ref.Name))
	})
	var out []*response
	for from, size, i := 0, 0, 0; i < len(due); i++ {
		size += due[i].cur.Size()
		if i+1 == len(due) || t == resource.Secret || due[i+1].group != due[i].group || size+due[i+1].cur.Size() > maxResponse {
			out = append(out, s.send(t, due[from:i+1]))
			from, size = i+1, 0
		}
	}
	return out
}

// send makes one response and notes that it is under way.
func (s *session) send(t resource.Type, due []*entry) *response {
	r := s.response(t)
	for _, e := range due {
		r.message.Resources = append(r.message.Resources, &discoveryv3.Resource{
			Name: e.ref.Name, Version: e.cur.Version, Resource: e.cur.Body(),
		})
		r.items = append(r.items, item{e, e.cur})
		if e.asked {
			r.answers = append(r.answers, e.ref.Name)
		}
		if t == resource.Cluster && e.last() != e.cur.Version {
			s.resendEndpoints(e.cur)
		}
		if e.answer {
			e.await = r.message.Nonce
		}
		e.flight = append(e.flight, e.cur)
		e.answer, e.asked, e.ripe, e.group = false, false, false, 0
		delete(s.waiting, e)
	}
	return r
}

// resendEndpoints has the endpoints of a cluster that is being sent follow it. Envoy asks for a name once, whoever needs it,
// so that a changed cluster, or a second one with the same endpoints, would warm for ever.
func (s *session) resendEndpoints(cluster *resource.Resource) {
	for _, ref := range cluster.Warms {
		if e := s.entries[ref]; ref.Type == resource.Endpoints && e != nil && e.subscribed {
			e.answer = true
			s.touch(e)
		}
	}
}

func (s *session) response(t resource.Type) *response {
	nonce := s.nonce()
	r := &response{kind: t, message: &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: t.URL(), Nonce: nonce, SystemVersionInfo: fmt.Sprint(s.view.Revision()),
	}}
	s.sent[nonce] = r
	s.sentOrder = append(s.sentOrder, nonce)
	return r
}

// remove returns the removals that are due and when the next will be. They are never in one response with resources: a
// rejection of those would leave it open what became of the removals.
func (s *session) remove(now time.Time) ([]*response, time.Time) {
	if len(s.leaving) == 0 {
		return nil, time.Time{}
	}
	if !s.sweep && now.Before(s.sweepAt) {
		return nil, s.sweepAt
	}
	s.sweep, s.sweepAt = false, now.Add(s.linger)
	users := s.findUsers()
	due := map[resource.Type][]*entry{}
	for e, since := range s.leaving {
		if len(e.flight) > 0 || !s.announced(e.ref.Type) || users.use(e) {
			s.leaving[e] = time.Time{}
			continue
		}
		if since.IsZero() {
			since = now
			s.leaving[e] = now
		}
		at := since.Add(s.linger)
		if !at.After(now) {
			due[e.ref.Type] = append(due[e.ref.Type], e)
		} else if at.Before(s.sweepAt) {
			s.sweepAt = at
		}
	}
	var out []*response
	for _, t := range removalOrder {
		if len(due[t]) > 0 {
			out = append(out, s.sendRemoval(t, due[t]))
		}
	}
	return out, s.sweepAt
}

// announced says whether the proxy has said, for a type and for those that use it, what it holds.
func (s *session) announced(t resource.Type) bool {
	for _, t := range removalOrder[:slices.Index(removalOrder[:], t)+1] {
		if !s.types[t].started {
			return false
		}
	}
	return true
}

func (s *session) sendRemoval(t resource.Type, due []*entry) *response {
	slices.SortFunc(due, func(a, b *entry) int { return strings.Compare(a.ref.Name, b.ref.Name) })
	r := s.response(t)
	for _, e := range due {
		r.message.RemovedResources = append(r.message.RemovedResources, e.ref.Name)
		r.items = append(r.items, item{entry: e})
		e.flight = append(e.flight, nil)
	}
	return r
}

// users is what the resources at the proxy need.
type users struct {
	needed map[resource.Ref]struct{}
	// unknown are types of which the proxy holds something that may need anything; updating: it is about to be replaced.
	unknown, updating [resource.VirtualHost + 1]bool
}

func (s *session) findUsers() *users {
	u := &users{needed: map[resource.Ref]struct{}{}}
	for _, e := range s.entries {
		if e.unknown() {
			u.unknown[e.ref.Type] = true
			u.updating[e.ref.Type] = u.updating[e.ref.Type] || e.wants > 0
		}
		s.need(u, e.held)
		for _, r := range e.flight {
			s.need(u, r)
		}
		if e.prev == nil {
			continue
		}
		if s.warm(e.held) {
			e.prev = nil
		}
		s.need(u, e.prev)
	}
	return u
}

func (s *session) need(u *users, r *resource.Resource) {
	if r == nil {
		return
	}
	for _, ref := range r.Needs {
		u.needed[ref] = struct{}{}
		if e := s.entries[ref]; ref.Type == resource.Bundle && e != nil {
			s.need(u, e.cur)
		}
	}
}

// use says whether something at the proxy needs, or may need, a resource. After a reconnect all that is known of an outdated resource is
// its name; then what such a type can refer to stays until it is updated or gone. A virtual host is referred to only by
// clusters that were asked for, which are never removed.
func (u *users) use(e *entry) bool {
	if _, ok := u.needed[e.ref]; ok {
		return true
	}
	switch e.ref.Type {
	case resource.Cluster:
		return u.unknown[resource.VirtualHost] || u.unknown[resource.Listener]
	case resource.VirtualHost:
		return u.updating[resource.Cluster] || u.unknown[resource.Listener]
	default:
		return false
	}
}

package xds

import (
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// entry is what a session knows of one resource: what the view has, who wants it and what the proxy holds.
type entry struct {
	ref resource.Ref
	// scope is for whom it is compiled; watched says whether changes of it in that scope concern the session.
	scope   resource.Scope
	watched bool
	// cur is the view's resource; nil when nobody wants the entry or the view has none.
	cur *resource.Resource
	// wants counts the roots and the wanted resources that need this one, and the proxy's subscription.
	wants int
	// subscribed: the proxy has asked for it by name.
	subscribed bool
	// answer: it must be sent even when the proxy has this version, because the proxy asked, or a cluster that
	// was sent waits for it. asked: the first of the two, and the proxy does not hold any.
	answer, asked bool
	// ripe: it is provisional, and was waited for long enough.
	ripe bool
	// group sets resources apart that are tried alone after a rejection that named none; 0 is everybody else.
	group int

	// version is what the proxy has acknowledged, or announced when it connected; empty when it holds none.
	version string
	// held is the resource of that version; nil when nothing is known of it but its version.
	held *resource.Resource
	// prev is what held replaced, and what Envoy uses until held has warmed; kept only when it matters.
	prev *resource.Resource
	// flight are the resources that were sent and not yet acknowledged, oldest first; nil stands for a removal.
	flight []*resource.Resource
	// former is what a cluster needed before it changed, and is kept up to date until the proxy has taken the change: a virtual host that
	// stayed as it was would go on ruling the address until it is removed.
	former []resource.Ref
	// await is the nonce of the answer that something that warms waits for.
	await string

	// rejection is of the view's version; nil when the proxy has not refused it.
	rejection *Rejection
}

// key is what notices of its changes are keyed by.
func (e *entry) key() resource.ScopedRef { return resource.ScopedRef{Scope: e.scope, Ref: e.ref} }

// pushed says whether a type is sent unasked; the others are sent only to who asked by name.
func pushed(t resource.Type) bool {
	return t == resource.Cluster || t == resource.Listener || t == resource.VirtualHost
}

// last returns the version that the proxy has once it has applied all that was sent.
func (e *entry) last() string {
	if n := len(e.flight); n > 0 {
		if e.flight[n-1] == nil {
			return ""
		}
		return e.flight[n-1].Version
	}
	return e.version
}

// atProxy says whether the proxy holds it or may hold it soon.
func (e *entry) atProxy() bool { return e.version != "" || len(e.flight) > 0 }

// unknown says whether the proxy holds a version of which nothing but the name is known.
func (e *entry) unknown() bool { return e.version != "" && e.held == nil }

// warmed says whether Envoy has got what a cluster or listener waits for.
func (e *entry) warmed() bool {
	return e.subscribed && !e.answer && e.await == "" && (e.version != "" || e.rejection != nil)
}

// missing says whether the proxy waits for something that the view does not have.
func (e *entry) missing() bool { return e.subscribed && e.cur == nil && e.version == "" }

// entry returns the entry of a reference, a new one if there is none.
func (s *session) entry(ref resource.Ref) *entry {
	e := s.entries[ref]
	if e == nil {
		e = &entry{ref: ref}
		s.entries[ref] = e
	}
	return e
}

// want adds a reason to want a resource; the first brings in what it needs.
func (s *session) want(ref resource.Ref) *entry {
	e := s.entry(ref)
	e.wants++
	if e.wants == 1 {
		delete(s.leaving, e)
		s.load(e)
		if e.cur != nil {
			s.wantAll(e.cur.Needs)
		}
		s.touch(e)
	}
	return e
}

func (s *session) wantAll(refs []resource.Ref) {
	for _, ref := range refs {
		s.want(ref)
	}
}

// unwant takes a reason away; with the last one goes what the resource needed, and its removal is considered.
func (s *session) unwant(ref resource.Ref) {
	e := s.entries[ref]
	if e == nil || e.wants == 0 {
		return
	}
	e.wants--
	if e.wants > 0 {
		return
	}
	old := e.cur
	e.cur, e.answer, e.asked, e.ripe, e.group = nil, false, false, false, 0
	s.forgetRejection(e)
	s.untouch(e)
	s.unregister(e)
	if old != nil {
		s.unwantAll(old.Needs)
	}
	s.release(e)
	s.part(e)
}

// release drops what a cluster needed before it changed.
func (s *session) release(e *entry) {
	former := e.former
	e.former = nil
	delete(s.changing, e)
	s.unwantAll(former)
}

func (s *session) unwantAll(refs []resource.Ref) {
	for _, ref := range refs {
		s.unwant(ref)
	}
}

// part decides what becomes of an entry that nobody wants. What was pushed is removed later; of what was asked for by name
// and no longer is, the proxy has already forgotten its copy.
func (s *session) part(e *entry) {
	if pushed(e.ref.Type) && e.atProxy() {
		s.leaving[e] = time.Time{}
		s.sweep = true
		return
	}
	delete(s.leaving, e)
	delete(s.entries, e.ref)
}

// load reads the view's resource.
func (s *session) load(e *entry) {
	if e.ref == workload {
		e.cur = s.certificate
	} else {
		var key resource.ScopedRef
		e.cur, key = s.view.Resource(s.proxy, e.ref)
		s.register(e, key)
	}
	if e.cur == nil {
		return
	}
	if e.held == nil && e.version == e.cur.Version {
		e.held = e.cur
	}
	if e.rejection != nil && e.rejection.Version != e.cur.Version {
		s.forgetRejection(e)
	}
}

// reload reads the view's resource again after a change, and wants what it now needs before it drops what it needed.
func (s *session) reload(e *entry) {
	old := e.cur
	s.load(e)
	if e.cur == old {
		return
	}
	if e.cur != nil {
		s.wantAll(e.cur.Needs)
	}
	switch {
	case old == nil:
	case e.ref.Type == resource.Cluster && e.atProxy() && (len(e.flight) > 0 || s.due(e)):
		for _, ref := range old.Needs {
			if slices.Contains(e.former, ref) { // it changed again before the proxy took the change
				s.unwant(ref)
			} else {
				e.former = append(e.former, ref)
			}
		}
		if len(e.former) > 0 {
			s.changing[e] = struct{}{}
		}
	default:
		s.unwantAll(old.Needs)
	}
	s.touch(e)
}

// touch notes that there may be something to send.
func (s *session) touch(e *entry) {
	if e.ref.Type != resource.Bundle && e.wants > 0 {
		st := &s.types[e.ref.Type]
		st.pending[e] = struct{}{}
		delete(st.absent, e)
	}
}

func (s *session) untouch(e *entry) {
	if e.ref.Type != resource.Bundle {
		delete(s.types[e.ref.Type].pending, e)
		delete(s.types[e.ref.Type].absent, e)
	}
}

// register notes that the session wants to hear of changes of an entry.
func (s *session) register(e *entry, key resource.ScopedRef) {
	if e.watched && e.scope == key.Scope {
		return
	}
	s.unregister(e)
	e.scope, e.watched = key.Scope, true
	s.interest = append(s.interest, interest{key, true})
}

func (s *session) unregister(e *entry) {
	if e.watched {
		e.watched = false
		s.interest = append(s.interest, interest{e.key(), false})
	}
}

func (s *session) reject(e *entry, r *resource.Resource, message string) {
	e.rejection = &Rejection{Ref: e.ref, Version: r.Version, Origins: r.Origins, Message: shortened(message)}
	s.rejected[e] = struct{}{}
}

func (s *session) forgetRejection(e *entry) {
	if e.rejection != nil {
		e.rejection = nil
		delete(s.rejected, e)
	}
}

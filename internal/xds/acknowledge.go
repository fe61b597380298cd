package xds

import (
	"slices"
	"strings"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// acknowledge takes a request's word on an earlier response. A nonce that is not, or no longer, outstanding says nothing.
func (s *session) acknowledge(req *discoveryv3.DeltaDiscoveryRequest) {
	r := s.sent[req.GetResponseNonce()]
	if r == nil || r.message.GetTypeUrl() != req.GetTypeUrl() {
		return
	}
	delete(s.sent, req.GetResponseNonce())
	for _, i := range r.items {
		if len(i.entry.flight) > 0 {
			i.entry.flight = i.entry.flight[1:]
		}
		if i.entry.await == req.GetResponseNonce() {
			i.entry.await, s.sweep = "", true
		}
	}
	if req.GetErrorDetail() == nil {
		for _, i := range r.items {
			s.accept(i)
		}
	} else {
		s.refuse(r, req.GetErrorDetail().GetMessage())
	}
	for _, i := range r.items {
		s.settle(i.entry)
	}
	for e := range s.changing {
		if s.taken(e) && !slices.ContainsFunc(e.former, func(ref resource.Ref) bool { return !s.taken(s.entries[ref]) }) {
			s.release(e)
		}
	}
}

// taken says whether the proxy has answered to all that the view has of an entry.
func (s *session) taken(e *entry) bool { return e == nil || !s.due(e) && len(e.flight) == 0 }

// sizeOf returns the size of what an unacknowledged response carries, in bytes; 0 when there is none of that nonce.
func (s *session) sizeOf(nonce string) int {
	size := 0
	if r := s.sent[nonce]; r != nil {
		for _, i := range r.items {
			if i.res != nil {
				size += i.res.Size()
			}
		}
	}
	return size
}

// accept notes that the proxy has applied a resource or a removal.
func (s *session) accept(i item) {
	e := i.entry
	if pushed(e.ref.Type) {
		s.sweep = true
	}
	if i.res == nil {
		e.version, e.held, e.prev = "", nil, nil
		return
	}
	if e.held != nil && e.held.Version != i.res.Version && len(e.held.Needs) > 0 && len(i.res.Warms) > 0 {
		e.prev = e.held
	}
	e.version, e.held = i.res.Version, i.res
	s.forgetRejection(e)
}

// settle considers what to do next with an entry whose response was answered.
func (s *session) settle(e *entry) {
	if s.entries[e.ref] != e {
		return // Unsubscribed, and perhaps asked for anew, while the response was under way.
	}
	if e.wants == 0 {
		s.part(e)
		return
	}
	s.touch(e)
}

// refuse takes a rejection. Of clusters and listeners, Envoy applies the good ones and names the others, which are rejected.
// The good ones are sent again nevertheless: it changes nothing but Envoy's record of what it holds, which it announces
// when it reconnects. Of the other types Envoy may have applied none, and names none for sure: halves are tried until one
// resource is alone with its rejection.
func (s *session) refuse(r *response, message string) {
	var named, rest []item
	for _, i := range r.items {
		switch {
		case i.res == nil:
			s.accept(i) // Envoy cannot refuse a removal.
		case len(r.items) == 1 || names(r.kind, message, i.entry.ref.Name):
			named = append(named, i)
		default:
			rest = append(rest, i)
		}
	}
	if len(named) == 0 {
		s.retry(rest[:len(rest)/2])
		s.retry(rest[len(rest)/2:])
		return
	}
	for _, i := range named {
		if e := i.entry; e.cur != nil && e.cur.Version == i.res.Version {
			s.reject(e, i.res, message)
		}
	}
	for _, i := range rest {
		s.accept(i)
	}
	s.retry(rest)
}

// retry has resources sent again, in a response of their own.
func (s *session) retry(items []item) {
	s.groups++
	for _, i := range items {
		if i.entry.wants > 0 {
			i.entry.group, i.entry.answer = s.groups, true
		}
	}
}

// names says whether Envoy's rejection of clusters or listeners names one. Its words are
//
//	Error adding/updating cluster(s) a: why, b: why
//	Error adding/updating listener(s) a: why\nb: why\n
//
// Other types are told apart by trying, since a name in their text may be another resource's.
func names(t resource.Type, message, name string) bool {
	var before []string
	switch t {
	case resource.Cluster:
		before = []string{"cluster(s) ", ", "}
	case resource.Listener:
		before = []string{"listener(s) ", "\n"}
	}
	for _, b := range before {
		if strings.Contains(message, b+name+": ") {
			return true
		}
	}
	return false
}

package xds

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// maxSamples bounds how many references a state lists.
const maxSamples = 10

// ProxyState is what this replica knows of a connected proxy.
type ProxyState struct {
	Proxy        resource.Proxy
	ConnectedAt  time.Time
	EnvoyVersion string
	// SyncedRevision is the newest revision of which the proxy holds all that concerns it, or has refused it.
	SyncedRevision uint64
	// Trust is the version of the newest trust bundle that the proxy holds wherever it verifies somebody (see Server.Trust).
	Trust      string
	Pending    Pending
	Rejections []Rejection
	// CertificateError says why the proxy's certificate could not be signed at the last try; it keeps the one it has.
	CertificateError string
	Encryption       Encryption
}

// Pending is what a proxy still waits for or has not acknowledged.
type Pending struct {
	Count int
	// Refs are the first ten.
	Refs []resource.Ref
}

// Rejection is a resource that a proxy refuses.
type Rejection struct {
	Ref     resource.Ref
	Version string
	Origins []resource.Origin
	// Message is Envoy's own text.
	Message string
}

// pending returns what is due, gated, missing or in flight. Removals that linger are not: they stop nothing from working.
func (s *session) pending() Pending {
	var p Pending
	note := func(ref resource.Ref) {
		p.Count++
		if n := len(p.Refs); n < maxSamples || compareRefs(ref, p.Refs[n-1]) < 0 {
			at, _ := slices.BinarySearchFunc(p.Refs, ref, compareRefs)
			p.Refs = slices.Insert(p.Refs, at, ref)
			p.Refs = p.Refs[:min(len(p.Refs), maxSamples)]
		}
	}
	for t := range s.types {
		for e := range s.types[t].absent {
			note(e.ref)
		}
		for e := range s.types[t].pending {
			if s.waits(e) {
				note(e.ref)
			}
		}
	}
	flying := map[resource.Ref]struct{}{}
	for _, r := range s.sent {
		for _, i := range r.items {
			ref := i.entry.ref
			if _, again := flying[ref]; !again && !s.counted(s.entries[ref]) {
				note(ref)
			}
			flying[ref] = struct{}{}
		}
	}
	return p
}

// waits says whether the proxy waits for a pending entry.
func (s *session) waits(e *entry) bool {
	return e.missing() || s.due(e) || !s.types[e.ref.Type].started
}

// counted says whether an entry is among those that wait.
func (s *session) counted(e *entry) bool {
	if e == nil {
		return false
	}
	st := &s.types[e.ref.Type]
	if _, absent := st.absent[e]; absent {
		return true
	}
	_, pending := st.pending[e]
	return pending && s.waits(e)
}

// synced says whether the proxy holds all that its view has for it.
func (s *session) synced() bool {
	for t := range s.types {
		if len(s.types[t].pending)+len(s.types[t].absent) > 0 {
			return false
		}
	}
	return len(s.sent) == 0
}

// trusting says whether the proxy holds, of all validation contexts that it asked for, those of its view.
func (s *session) trusting() bool {
	if !s.types[resource.Listener].started || !s.types[resource.Secret].started && s.verifies() {
		return false // it has not said yet what it holds
	}
	for e := range s.types[resource.Secret].pending {
		if e.ref != workload && !e.missing() {
			return false
		}
	}
	for _, r := range s.sent {
		for _, i := range r.items {
			if r.kind == resource.Secret && i.entry.ref != workload {
				return false
			}
		}
	}
	for e := range s.rejected {
		if e.ref.Type == resource.Secret && e.ref != workload {
			return false
		}
	}
	return true
}

// verifies says whether a cluster or listener at the proxy has, or may have, a validation context.
func (s *session) verifies() bool {
	for ref, e := range s.entries {
		if ref.Type != resource.Cluster && ref.Type != resource.Listener || !e.atProxy() {
			continue
		}
		if e.held == nil || slices.ContainsFunc(e.held.Warms, func(r resource.Ref) bool { return r.Type == resource.Secret }) {
			return true
		}
	}
	return false
}

// trustOf returns the version of a view's trust bundle.
func trustOf(view resource.View, proxy *resource.Proxy) string {
	if r, _ := view.Resource(proxy, peers); r != nil {
		return r.Version
	}
	return ""
}

func (s *session) rejections() []Rejection {
	out := make([]Rejection, 0, len(s.rejected))
	for e := range s.rejected {
		out = append(out, *e.rejection)
	}
	slices.SortFunc(out, func(a, b Rejection) int { return compareRefs(a.Ref, b.Ref) })
	return out
}

func compareRefs(a, b resource.Ref) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name))
}

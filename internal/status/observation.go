package status

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

const (
	// gap is how long a proxy may be without a stream, as when it moves to another replica, before nobody is sure what it would have
	// reported meanwhile.
	gap = time.Minute
	// maxPeers bounds the peers that are remembered of a namespace: those that were seen last.
	maxPeers = 1000
)

// Peer is somebody who connects without mTLS.
type Peer struct {
	// Name says who it is, in words: "pod outside/client", "node worker-1", "address 203.0.113.9".
	Name string
	// Port of the pod that it connects to.
	Port uint16
}

// Sighting is a peer that a proxy of a namespace reported, and when it did so last.
type Sighting struct {
	Peer
	At time.Time
}

// Sight is what can be seen of a namespace's plaintext now.
type Sight struct {
	Namespace *model.Namespace
	// Complete is true when all of its proxies are connected.
	Complete  bool
	Sightings []Sighting
	// More is true when proxies know of more peers than they name.
	More bool
}

// Observation is what is remembered of a namespace's plaintext from one look to the next. It is immutable.
type Observation struct {
	// Since is when the looking began that has had no gap; zero while it has one.
	Since time.Time
	// Last is when plaintext was reported last; zero when it never was.
	Last time.Time
	// Peers are those of the quiet time, More that there are others besides.
	Peers []Sighting
	More  bool

	// complete is when all proxies were connected last; modes are the mTLS modes that were looked under.
	complete time.Time
	modes    string
}

// Look returns what is known after another look. Peers of which nothing was heard for the quiet time are forgotten.
func (o Observation) Look(s Sight, now time.Time, quiet time.Duration) Observation {
	next := Observation{Since: o.Since, Last: o.Last, More: s.More, complete: o.complete, modes: fmt.Sprint(s.Namespace.Mode, s.Namespace.Ports)}
	if o.modes != next.modes || now.Sub(o.complete) > gap {
		next.Since = time.Time{} // other ports are looked at than before, or none were for a while
	}
	if s.Complete {
		next.complete = now
		if next.Since.IsZero() {
			next.Since = now
		}
	}
	seen := map[Peer]time.Time{}
	for _, p := range slices.Concat(o.Peers, s.Sightings) {
		if now.Sub(p.At) <= quiet && p.At.After(seen[p.Peer]) {
			seen[p.Peer] = p.At
		}
		if p.At.After(next.Last) {
			next.Last = p.At
		}
	}
	for p, at := range seen {
		next.Peers = append(next.Peers, Sighting{p, at})
	}
	slices.SortFunc(next.Peers, func(a, b Sighting) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port))
	})
	if len(next.Peers) > maxPeers {
		next.Peers, next.More = next.Peers[:maxPeers], true
	}
	return next
}

// quietSince is since when there was no plaintext, as far as was looked; zero while there is a gap.
func (o Observation) quietSince() time.Time {
	if o.Since.IsZero() || o.Since.After(o.Last) {
		return o.Since
	}
	return o.Last
}

// names lists the peers by name and port, so that it stays the same while they do.
func (o Observation) names() []string {
	names := make([]string, 0, len(o.Peers))
	for _, p := range o.Peers {
		names = append(names, fmt.Sprintf("%s (port %d)", p.Name, p.Port))
	}
	slices.Sort(names)
	return names
}

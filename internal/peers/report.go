package peers

import (
	"cmp"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// newest stands in a report for a revision that has all generations that the replica knows of. A proxy that keeps up says the same in each
// report, however often revisions come.
const newest = math.MaxUint64

// Generation says since which revision of its own a replica has a generation of a Mesh.
type Generation struct {
	UID        string
	Generation int64
	Since      uint64
}

// Report is what a replica says of its proxies: in the first of a stream all, in the others what has changed. One that is empty says that
// nothing has.
type Report struct {
	// Sent is when it was sent, by the clock of the sender.
	Sent time.Time
	// Meshes are all of the replica's snapshot, none before it has one; nil when they are those of the report before.
	Meshes []Generation
	// Proxies are those that came or changed. Their SyncedRevision is a revision of the replica, or newest.
	Proxies []xds.ProxyState
	// Gone are the UIDs of the pods whose proxies went.
	Gone []string
	// Plaintext are the proxies' reports of who connects without mTLS that came or changed; one without peers takes the last one back.
	Plaintext []xds.PlaintextReport
}

// Generations returns what a snapshot has of each Mesh.
func Generations(snapshot *model.Snapshot) []Generation {
	reports := snapshot.Meshes()
	generations := make([]Generation, 0, len(reports))
	for _, r := range reports {
		generations = append(generations, Generation{UID: r.UID, Generation: r.Generation, Since: r.Since})
	}
	return generations
}

// outbox is what the reader of a stream has been told.
type outbox struct {
	started bool
	meshes  []Generation
	// By the pod's UID.
	proxies   map[string]xds.ProxyState
	plaintext map[string]xds.PlaintextReport
}

// next returns what to tell of the generations, proxies and plaintext that a replica knows of now. The proxies must have been looked at after the
// generations: what they are synced to is then at least as new.
func (o *outbox) next(now time.Time, meshes []Generation, proxies []xds.ProxyState, plaintext []xds.PlaintextReport) Report {
	r := Report{Sent: now}
	if !o.started || !slices.Equal(o.meshes, meshes) {
		r.Meshes = append([]Generation{}, meshes...)
	}
	marks := marksOf(meshes)
	current := make(map[string]xds.ProxyState, len(proxies))
	for _, p := range proxies {
		// A pod has two streams for the moment in which its proxy leaves the older one.
		if other, ok := current[p.Proxy.UID]; ok && other.ConnectedAt.After(p.ConnectedAt) {
			continue
		}
		p.SyncedRevision = lower(marks, p.SyncedRevision)
		current[p.Proxy.UID] = p
	}
	for uid, p := range current {
		if before, ok := o.proxies[uid]; !ok || !reflect.DeepEqual(before, p) {
			r.Proxies = append(r.Proxies, p)
		}
	}
	for uid := range o.proxies {
		if _, ok := current[uid]; !ok {
			r.Gone = append(r.Gone, uid)
		}
	}
	slices.SortFunc(r.Proxies, func(a, b xds.ProxyState) int { return cmp.Compare(a.Proxy.UID, b.Proxy.UID) })
	slices.Sort(r.Gone)
	r.Plaintext = o.nextPlaintext(plaintext)
	o.started, o.meshes, o.proxies = true, meshes, current
	return r
}

// nextPlaintext returns the reports of plaintext that differ from those that the reader was told of.
func (o *outbox) nextPlaintext(plaintext []xds.PlaintextReport) []xds.PlaintextReport {
	var changed []xds.PlaintextReport
	current := make(map[string]xds.PlaintextReport, len(plaintext))
	for _, p := range plaintext {
		current[p.Proxy.UID] = p
		if before, ok := o.plaintext[p.Proxy.UID]; !ok || !reflect.DeepEqual(before, p) {
			changed = append(changed, p)
		}
	}
	for uid, p := range o.plaintext {
		if _, ok := current[uid]; !ok {
			changed = append(changed, xds.PlaintextReport{Proxy: p.Proxy})
		}
	}
	o.plaintext = current
	slices.SortFunc(changed, func(a, b xds.PlaintextReport) int { return cmp.Compare(a.Proxy.UID, b.Proxy.UID) })
	return changed
}

// marksOf returns the revisions that brought a generation, in order.
func marksOf(meshes []Generation) []uint64 {
	marks := make([]uint64, 0, len(meshes))
	for _, m := range meshes {
		marks = append(marks, m.Since)
	}
	slices.Sort(marks)
	return slices.Compact(marks)
}

// lower returns the last mark that a revision has reached, which has the same generations; newest when it has reached all.
func lower(marks []uint64, revision uint64) uint64 {
	i, found := slices.BinarySearch(marks, revision)
	if found {
		i++
	}
	switch {
	case i == len(marks):
		return newest
	case i == 0:
		return 0
	}
	return marks[i-1]
}

// State is what a replica has reported.
type State struct {
	meshes map[string]Generation // by UID
	// By the pod's UID.
	proxies   map[string]xds.ProxyState
	plaintext map[string]xds.PlaintextReport
}

// apply takes in a report. Times are turned into those of the reader's clock, as those of several replicas are compared.
func (s *State) apply(r Report, received time.Time) {
	if s.proxies == nil {
		s.proxies, s.plaintext = map[string]xds.ProxyState{}, map[string]xds.PlaintextReport{}
	}
	if r.Meshes != nil {
		s.meshes = make(map[string]Generation, len(r.Meshes))
		for _, m := range r.Meshes {
			s.meshes[m.UID] = m
		}
	}
	for _, p := range r.Proxies {
		p.ConnectedAt = received.Add(p.ConnectedAt.Sub(r.Sent))
		s.proxies[p.Proxy.UID] = p
	}
	for _, uid := range r.Gone {
		delete(s.proxies, uid)
	}
	for _, p := range r.Plaintext {
		if p.Count == 0 {
			delete(s.plaintext, p.Proxy.UID)
			continue
		}
		for i := range p.Peers {
			p.Peers[i].LastSeen = received.Add(p.Peers[i].LastSeen.Sub(r.Sent))
		}
		s.plaintext[p.Proxy.UID] = p
	}
}

// quiet says whether a report changes nothing.
func (r Report) quiet() bool {
	return r.Meshes == nil && len(r.Proxies) == 0 && len(r.Gone) == 0 && len(r.Plaintext) == 0
}

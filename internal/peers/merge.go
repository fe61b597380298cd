package peers

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/xds"
)

// SilentAfter is how long a live replica may report nothing before nobody can know what its proxies hold.
const SilentAfter = 10 * time.Second

// Replica is a live replica other than the leader.
type Replica struct {
	// Name of its pod.
	Name string
	// State is what it reported last; nil when it never did.
	State *State
	// Heard is when it reported last or, if it never did, since when it is missed.
	Heard time.Time
}

// View is what the leader's own snapshot has.
type View struct {
	Revision uint64
	Meshes   []Generation
}

// Own is what the leader itself knows of proxies.
type Own struct {
	Proxies   []xds.ProxyState
	Plaintext []xds.PlaintextReport
}

// Fleet is what is known of the proxies of all live replicas.
type Fleet struct {
	// Proxies have each pod once. Their SyncedRevision is one of the leader's: a proxy holds a Mesh's generation if it has reached
	// the revision that brought it.
	Proxies []xds.ProxyState
	// Plaintext is what proxies reported of who connects without mTLS. One may have reported to several replicas.
	Plaintext []xds.PlaintextReport
	// Silent are the names of the live replicas that don't report. Nobody knows what their proxies hold.
	Silent []string
	// Incomplete is true while a replica has not reported yet and is not silent either: it is better to wait than to judge.
	Incomplete bool
}

// Merge puts together what the leader and the other live replicas know. The leader must have looked at its proxies after its view.
func Merge(now time.Time, view View, own Own, replicas []Replica) Fleet {
	f := Fleet{Plaintext: slices.Clone(own.Plaintext)}
	proxies := map[string]xds.ProxyState{}
	take := func(p xds.ProxyState) {
		// A pod with streams to two replicas has left the older one, which has not noticed yet.
		if other, ok := proxies[p.Proxy.UID]; !ok || other.ConnectedAt.Before(p.ConnectedAt) {
			proxies[p.Proxy.UID] = p
		}
	}
	for _, p := range own.Proxies {
		take(p)
	}
	for _, r := range replicas {
		switch {
		case now.Sub(r.Heard) >= SilentAfter:
			f.Silent = append(f.Silent, r.Name)
			continue
		case r.State == nil:
			f.Incomplete = true
			continue
		}
		translation := newTranslation(view, r.State)
		for _, p := range r.State.proxies {
			p.SyncedRevision = translation.revision(p.SyncedRevision)
			take(p)
		}
		for _, uid := range slices.Sorted(maps.Keys(r.State.plaintext)) {
			f.Plaintext = append(f.Plaintext, r.State.plaintext[uid])
		}
	}
	for _, p := range proxies {
		f.Proxies = append(f.Proxies, p)
	}
	slices.SortFunc(f.Proxies, func(a, b xds.ProxyState) int {
		return cmp.Or(cmp.Compare(a.Proxy.Namespace, b.Proxy.Namespace), cmp.Compare(a.Proxy.Pod, b.Proxy.Pod), cmp.Compare(a.Proxy.UID, b.Proxy.UID))
	})
	slices.Sort(f.Silent)
	return f
}

// translation turns a replica's revisions into the leader's.
type translation struct {
	// most is the newest of the leader's revisions of which the replica has all generations.
	most uint64
	// steps are in the order of their revisions, of both kinds.
	steps []step
}

// step says that a proxy which has not reached a revision of the replica holds the generations of one of the leader's, and maybe not more.
type step struct{ replica, leader uint64 }

func newTranslation(view View, s *State) translation {
	t := translation{most: view.Revision}
	for _, m := range view.Meshes {
		at, ok := s.meshes[m.UID]
		if !ok || at.Generation < m.Generation {
			t.most = min(t.most, m.Since-1) // what the replica does not have, no proxy of it holds
			continue
		}
		t.steps = append(t.steps, step{replica: at.Since, leader: m.Since - 1})
	}
	slices.SortFunc(t.steps, func(a, b step) int { return cmp.Compare(a.replica, b.replica) })
	// Who misses a revision misses those after it too, which may have come to the leader before.
	for i := len(t.steps) - 2; i >= 0; i-- {
		t.steps[i].leader = min(t.steps[i].leader, t.steps[i+1].leader)
	}
	return t
}

// revision returns the newest of the leader's revisions of which a proxy surely holds all generations.
func (t translation) revision(replica uint64) uint64 {
	i, _ := slices.BinarySearchFunc(t.steps, replica, func(s step, revision uint64) int {
		if s.replica <= revision {
			return -1
		}
		return 1
	})
	if i == len(t.steps) {
		return t.most
	}
	return min(t.most, t.steps[i].leader)
}

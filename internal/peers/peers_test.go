package peers

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// proxy is one that connected some seconds before noon and is synced to a revision.
func proxy(pod string, before time.Duration, revision uint64) xds.ProxyState {
	return xds.ProxyState{
		Proxy: resource.Proxy{Namespace: "bookinfo", Pod: pod, UID: "uid-" + pod}, ConnectedAt: noon.Add(-before * time.Second), SyncedRevision: revision,
	}
}

// reported is the state of a replica whose only report was this one, received at noon.
func reported(meshes []Generation, proxies ...xds.ProxyState) *State {
	s := &State{}
	s.apply(Report{Sent: noon, Meshes: meshes, Proxies: proxies}, noon)
	return s
}

func mesh(uid string, generation int64, since uint64) Generation {
	return Generation{UID: uid, Generation: generation, Since: since}
}

// TestMerge has a leader at revision 50, whose Mesh a has generation 3 since revision 40, and b generation 7 since 20: a proxy that
// is synced to 40 or more holds both, to 20 or more b, to less neither.
func TestMerge(t *testing.T) {
	t.Parallel()
	view := View{Revision: 50, Meshes: []Generation{mesh("a", 3, 40), mesh("b", 7, 20)}}
	peer := func(heard time.Duration, s *State) []Replica {
		return []Replica{{Name: "peer", State: s, Heard: noon.Add(-heard * time.Second)}}
	}
	// The peer learned of them in another order: b since 5, a since 3.
	same := []Generation{mesh("a", 3, 3), mesh("b", 7, 5)}
	tests := []struct {
		name     string
		own      []xds.ProxyState
		replicas []Replica
		want     Fleet
	}{
		{name: "alone", own: []xds.ProxyState{proxy("x", 9, 44)}, want: Fleet{Proxies: []xds.ProxyState{proxy("x", 9, 44)}}},
		{
			name: "the peer's proxies count", own: []xds.ProxyState{proxy("x", 9, 44)}, replicas: peer(1, reported(same, proxy("w", 8, newest), proxy("y", 7, 5))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("w", 8, 50), proxy("x", 9, 44), proxy("y", 7, 50)}},
		},
		{
			name: "who lacks b there, lacks b here", replicas: peer(1, reported(same, proxy("y", 7, 4))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 19)}},
		},
		{
			name: "who lacks all there, lacks all here", replicas: peer(1, reported(same, proxy("y", 7, 0))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 19)}},
		},
		{
			name: "a peer that has not seen the newest generation", replicas: peer(1, reported([]Generation{mesh("a", 2, 3), mesh("b", 7, 5)}, proxy("y", 7, newest))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 39)}},
		},
		{
			name: "a peer that has not seen the Mesh", replicas: peer(1, reported([]Generation{mesh("a", 3, 3)}, proxy("y", 7, newest))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 19)}},
		},
		{
			name:     "a peer with a former Mesh of that name, another UID",
			replicas: peer(1, reported([]Generation{mesh("former a", 3, 3), mesh("b", 7, 5)}, proxy("y", 7, newest))),
			want:     Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 39)}},
		},
		{
			name: "a peer that has seen more than the leader", replicas: peer(1, reported([]Generation{mesh("a", 4, 9), mesh("b", 7, 5), mesh("c", 1, 6)},
				proxy("y", 7, newest), proxy("z", 7, 6))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 50), proxy("z", 7, 39)}},
		},
		{
			name: "a peer without a snapshot", replicas: peer(1, reported([]Generation{}, proxy("y", 7, newest))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 19)}},
		},
		{
			name: "two streams of a pod: the newer counts", own: []xds.ProxyState{proxy("x", 3, 10), proxy("y", 9, 50)},
			replicas: peer(1, reported(same, proxy("x", 8, newest), proxy("y", 2, 0))),
			want:     Fleet{Proxies: []xds.ProxyState{proxy("x", 3, 10), proxy("y", 2, 19)}},
		},
		{
			name: "late, but not too late", replicas: peer(9, reported(same, proxy("y", 7, newest))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("y", 7, 50)}},
		},
		{
			name: "silent: its proxies are not known any more", own: []xds.ProxyState{proxy("x", 9, 44)}, replicas: peer(10, reported(same, proxy("y", 7, newest))),
			want: Fleet{Proxies: []xds.ProxyState{proxy("x", 9, 44)}, Silent: []string{"peer"}},
		},
		{name: "no report yet", replicas: peer(9, nil), want: Fleet{Incomplete: true}},
		{name: "never a report", replicas: peer(10, nil), want: Fleet{Silent: []string{"peer"}}},
		{
			name: "one silent, one to come", replicas: append(peer(10, nil), Replica{Name: "other", Heard: noon}),
			want: Fleet{Silent: []string{"peer"}, Incomplete: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, Merge(noon, view, Own{Proxies: tt.own}, tt.replicas)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestClocks: which of two streams is newer is not decided by how the replicas' clocks differ.
func TestClocks(t *testing.T) {
	t.Parallel()
	const skew = 40 * time.Second
	ahead := proxy("x", 5, newest) // 5 s ago, by a clock that is ahead
	ahead.ConnectedAt = ahead.ConnectedAt.Add(skew)
	s := &State{}
	s.apply(Report{Sent: noon.Add(skew), Meshes: []Generation{}, Proxies: []xds.ProxyState{ahead}}, noon)
	got := Merge(noon, View{Revision: 9}, Own{Proxies: []xds.ProxyState{proxy("x", 2, 4)}}, []Replica{{Name: "ahead", State: s, Heard: noon}})
	if diff := cmp.Diff([]xds.ProxyState{proxy("x", 2, 4)}, got.Proxies); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestReports: the first report of a stream has all, the others what has changed.
func TestReports(t *testing.T) {
	t.Parallel()
	var o outbox
	tell := func(meshes []Generation, proxies ...xds.ProxyState) Report { return o.next(noon, meshes, proxies, nil) }
	a5 := []Generation{mesh("a", 1, 5)}
	check := func(what string, got, want Report) {
		t.Helper()
		want.Sent = noon
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("nothing is said, and said to be all", tell(nil), Report{Meshes: []Generation{}})
	check("the first snapshot", tell(a5), Report{Meshes: a5})
	check("proxies come", tell(a5, proxy("y", 1, 7), proxy("x", 2, 3)), Report{Proxies: []xds.ProxyState{proxy("x", 2, 0), proxy("y", 1, newest)}})
	check("a revision that brings no generation is not worth a word", tell(a5, proxy("x", 2, 4), proxy("y", 1, 8)), Report{})
	check("one catches up", tell(a5, proxy("x", 2, 8), proxy("y", 1, 9)), Report{Proxies: []xds.ProxyState{proxy("x", 2, newest)}})
	a10 := []Generation{mesh("a", 2, 10)}
	check("a generation that concerns y", tell(a10, proxy("x", 2, 10), proxy("y", 1, 9)),
		Report{Meshes: a10, Proxies: []xds.ProxyState{proxy("y", 1, 0)}})
	check("a newer stream of x, before the older one has ended", tell(a10, proxy("x", 2, 10), proxy("x", 0, 0), proxy("y", 1, 9)),
		Report{Proxies: []xds.ProxyState{proxy("x", 0, 0)}})
	check("the older one ends, y goes", tell(a10, proxy("x", 0, 0)), Report{Gone: []string{"uid-y"}})
	check("no Mesh", tell(nil, proxy("x", 0, 0)), Report{Meshes: []Generation{}, Proxies: []xds.ProxyState{proxy("x", 0, newest)}})
}

// TestPlaintext: what proxies reported of plaintext to any replica reaches the leader, until they take it back, in the times of its own clock.
func TestPlaintext(t *testing.T) {
	t.Parallel()
	const skew = 40 * time.Second
	report := func(pod string, ago time.Duration) xds.PlaintextReport {
		return xds.PlaintextReport{Proxy: resource.Proxy{UID: "uid-" + pod}, Count: 1, Peers: []xds.PlaintextPeer{{
			Address: netip.MustParseAddr("10.244.0.9"), Port: 80, LastSeen: noon.Add(-ago), Reports: 3,
		}}}
	}
	var o outbox
	var s *State
	tell := func(plaintext ...xds.PlaintextReport) Report {
		t.Helper()
		r := o.next(noon, nil, nil, plaintext)
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var read Report
		if err := json.Unmarshal(line, &read); err != nil {
			t.Fatal(err)
		}
		if s == nil {
			s = &State{}
		}
		s.apply(read, noon.Add(skew))
		return r
	}
	fleet := func() []xds.PlaintextReport {
		own := Own{Plaintext: []xds.PlaintextReport{report("own", 1)}}
		return Merge(noon.Add(skew), View{}, own, []Replica{{Name: "peer", State: s, Heard: noon.Add(skew)}}).Plaintext
	}
	later := func(p xds.PlaintextReport) xds.PlaintextReport {
		p.Peers[0].LastSeen = p.Peers[0].LastSeen.Add(skew)
		return p
	}
	tell(report("x", 5*time.Second), report("y", 7*time.Second))
	if diff := cmp.Diff([]xds.PlaintextReport{report("own", 1), later(report("x", 5*time.Second)), later(report("y", 7*time.Second))}, fleet(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("two report (-want +got):\n%s", diff)
	}
	if r := tell(report("x", 5*time.Second), report("y", 7*time.Second)); !r.quiet() {
		t.Errorf("the same again is told as %+v", r)
	}
	tell(report("y", time.Second))
	if diff := cmp.Diff([]xds.PlaintextReport{report("own", 1), later(report("y", time.Second))}, fleet(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("x is silent and y goes on (-want +got):\n%s", diff)
	}
}

// TestTranslation holds, for random histories of two replicas, that a proxy is said to hold a generation only when it does, and that one that
// keeps up with a replica that knows all is said to hold all.
func TestTranslation(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test's randomness
	for range 2000 {
		var leader, replica []Generation
		for i := range 1 + r.IntN(6) {
			uid := fmt.Sprint(i)
			leader = append(leader, mesh(uid, 3, 1+r.Uint64N(20)))
			if r.IntN(6) > 0 {
				replica = append(replica, mesh(uid, 2+r.Int64N(3), 1+r.Uint64N(20)))
			}
		}
		p := proxy("x", 1, r.Uint64N(25))
		var o outbox
		s := &State{}
		s.apply(o.next(noon, replica, []xds.ProxyState{p}, nil), noon)
		got := Merge(noon, View{Revision: 20, Meshes: leader}, Own{}, []Replica{{State: s, Heard: noon}}).Proxies[0].SyncedRevision
		all := true
		for _, m := range leader {
			i := slices.IndexFunc(replica, func(g Generation) bool { return g.UID == m.UID })
			holds := i >= 0 && replica[i].Generation >= m.Generation && p.SyncedRevision >= replica[i].Since
			all = all && holds
			if got >= m.Since && !holds {
				t.Fatalf("leader %v, replica %v: a proxy at %d is said to hold %v (%d)", leader, replica, p.SyncedRevision, m, got)
			}
		}
		if all && got != 20 {
			t.Fatalf("leader %v, replica %v: a proxy at %d holds all and is said to be at %d", leader, replica, p.SyncedRevision, got)
		}
	}
}

// TestLive: pods that may have proxies are those whose container runs and was ready once.
func TestLive(t *testing.T) {
	t.Parallel()
	pod := func(edit func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.244.0.9",
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: Container, Started: new(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
			}},
		}}
		edit(p)
		return p
	}
	for name, tt := range map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"runs":              {pod(func(*corev1.Pod) {}), true},
		"is ready no more":  {pod(func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Ready = false }), true},
		"ends":              {pod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), true},
		"has no address":    {pod(func(p *corev1.Pod) { p.Status.PodIP = "" }), false},
		"has failed":        {pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), false},
		"starts":            {pod(func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Started = new(false) }), false},
		"crashes":           {pod(func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State = corev1.ContainerState{} }), false},
		"is only scheduled": {pod(func(p *corev1.Pod) { p.Status.ContainerStatuses = nil }), false},
	} {
		if got := Live(tt.pod); got != tt.want {
			t.Errorf("a replica that %s: live is %t", name, got)
		}
	}
}

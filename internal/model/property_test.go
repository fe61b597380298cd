package model

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"
)

// TestIncrementalEqualsFromScratch changes a small world at random. Whatever the way to it, the snapshot must be the one of
// a builder that sees the objects for the first time; it must name exactly the nodes that differ from those of the snapshot
// before, keep the others, and leave older snapshots as they were.
func TestIncrementalEqualsFromScratch(t *testing.T) {
	t.Parallel()
	const seeds, steps = 90, 50
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(seed)
			for step := range steps {
				h.step(t)
				if t.Failed() {
					t.Fatalf("seed %d, step %d", seed, step)
				}
			}
			h.checkKept(t)
		})
	}
}

// history is a builder, what it was given last, and some of the snapshots that it made.
type history struct {
	world   world
	builder *Builder
	objects map[string]metav1.Object
	trust   []byte
	// deletions is how many of a hundred changes are deletions: some worlds grow full, some are nearly empty most of the time.
	deletions int
	last      *Snapshot
	kept      []kept
}

// kept is a snapshot and what it was when it was made.
type kept struct {
	snapshot *Snapshot
	dump     string
}

func newHistory(seed uint64) *history {
	return &history{
		world:     newWorld(seed),
		builder:   NewBuilder(testConfig()),
		objects:   map[string]metav1.Object{},
		deletions: []int{10, 25, 45}[seed%3],
	}
}

// step makes some changes and a snapshot.
func (h *history) step(t *testing.T) {
	t.Helper()
	for range 1 + h.world.IntN(4) {
		h.change()
	}
	s := h.builder.Snapshot()
	h.checkFresh(t, s)
	if h.last != nil {
		checkChanged(t, h.last, s)
	}
	h.last = s
	if h.world.chance(10) {
		h.kept = append(h.kept, kept{s, dump(t, s)})
	}
}

func (h *history) change() {
	if h.world.chance(3) {
		h.trust = fmt.Append(nil, h.world.IntN(3))
		h.builder.SetTrust(h.trust)
	}
	object := h.world.object()
	if h.world.chance(15) {
		object = h.world.smi()
	}
	if len(h.objects) > 0 {
		id := pick(h.world, slices.Sorted(maps.Keys(h.objects))...)
		switch {
		case h.world.chance(h.deletions):
			h.builder.Delete(h.objects[id])
			delete(h.objects, id)
			return
		case h.world.chance(40):
			object = h.world.tweak(h.objects[id])
		}
	}
	h.objects[fmt.Sprintf("%T %s/%s", object, object.GetNamespace(), object.GetName())] = object
	h.builder.Set(object)
}

func (h *history) checkFresh(t *testing.T, s *Snapshot) {
	t.Helper()
	fresh := NewBuilder(testConfig())
	fresh.SetTrust(h.trust)
	for _, object := range h.objects {
		fresh.Set(object)
	}
	want := fresh.Snapshot()
	wantNodes, gotNodes := nodesOf(want), nodesOf(s)
	maps.DeleteFunc(gotNodes, func(_ Key, node any) bool { // what depends on the past, and is only about what is gone
		o, ok := node.(*owner)
		return ok && o.kind == ownerVanished
	})
	same := len(wantNodes) == len(gotNodes) && reflect.DeepEqual(timeless(want.Meshes()), timeless(s.Meshes())) &&
		reflect.DeepEqual(want.Splits(), s.Splits())
	for key := range wantNodes {
		if !reflect.DeepEqual(wantNodes[key], gotNodes[key]) {
			same = false
			t.Errorf("%v: %+v from scratch, %+v incrementally", key, wantNodes[key], gotNodes[key])
		}
	}
	if !same {
		t.Errorf("the snapshot differs from one made from scratch (-scratch +incremental):\n%s", cmp.Diff(dump(t, want), dump(t, s)))
	}
}

// timeless drops what depends on when a Mesh came.
func timeless(reports []MeshReport) []MeshReport {
	for i := range reports {
		reports[i].Since = 0
	}
	return reports
}

func checkChanged(t *testing.T, before, after *Snapshot) {
	t.Helper()
	if before == after {
		return
	}
	if after.Revision() != before.Revision()+1 {
		t.Errorf("revision %d after %d", after.Revision(), before.Revision())
	}
	old, now := nodesOf(before), nodesOf(after)
	differ := map[Key]bool{}
	for key := range now {
		switch {
		case old[key] == nil || !reflect.DeepEqual(old[key], now[key]):
			differ[key] = true
		case reflect.ValueOf(old[key]).Pointer() != reflect.ValueOf(now[key]).Pointer():
			t.Errorf("%v is another node that says the same", key)
		}
	}
	for key := range old {
		if now[key] == nil {
			differ[key] = true
		}
	}
	if diff := cmp.Diff(sortedKeys(differ), after.Changed()); diff != "" && len(differ)+len(after.Changed()) > 0 {
		t.Errorf("changed nodes (-real +told):\n%s", diff)
	}
}

func (h *history) checkKept(t *testing.T) {
	t.Helper()
	for _, k := range h.kept {
		if diff := cmp.Diff(k.dump, dump(t, k.snapshot)); diff != "" {
			t.Errorf("revision %d changed after it was made:\n%s", k.snapshot.Revision(), diff)
		}
	}
}

func nodesOf(s *Snapshot) map[Key]any {
	nodes := map[Key]any{}
	s.tree.Scan(func(e entry) bool {
		if !e.key.Kind.internal() {
			nodes[e.key] = e.value
		}
		return true
	})
	return nodes
}

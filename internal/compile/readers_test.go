package compile

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestReadersAreThoseThatWereAddedAndNotRemoved(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable
	entries := make([]*entry, 3*fewReaders)
	for i := range entries {
		entries[i] = &entry{since: uint64(i)}
	}
	r, want := &readers{}, map[*entry]bool{}
	for range 5000 {
		if e := entries[random.IntN(len(entries))]; want[e] {
			r.remove(e)
			delete(want, e)
		} else {
			r.add(e)
			want[e] = true
		}
		got := r.all()
		if len(got) != len(want) || r.empty() != (len(want) == 0) || slices.ContainsFunc(got, func(e *entry) bool { return !want[e] }) {
			t.Fatalf("%d readers, want %d, or others", len(got), len(want))
		}
	}
	r = &readers{}
	r.remove(entries[0])
	if !r.empty() || len(r.all()) > 0 {
		t.Error("readers that nobody added")
	}
}

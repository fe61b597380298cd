package compile

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// TestSweepForgetsWhatNobodyWatches: proxies that ask for one thing after the other leave nothing behind.
func TestSweepForgetsWhatNobodyWatches(t *testing.T) {
	p := NewPublisher(func(resource.View, []resource.ScopedRef) {}, func(ref resource.ScopedRef, err error) { t.Error(ref, err) })
	p.Publish(model.NewBuilder(model.Config{}).Snapshot())
	view, _ := p.compiler.newest()
	var watched resource.ScopedRef
	for i := range 1000 {
		r, ref := view.Resource(&resource.Proxy{}, cluster(fmt.Sprintf("http|10.0.%d.%d:80", i/250, i%250)))
		if r == nil {
			t.Fatalf("no %s", ref.Ref)
		}
		view.Resource(&resource.Proxy{}, resource.Ref{Type: resource.Secret, Name: fmt.Sprint("made-up-", i)})
		watched = ref
	}
	p.Sweep(func(ref resource.ScopedRef) bool { return ref == watched })
	if len(p.compiler.entries) != 1 || len(p.compiler.bodies) != 1 || p.compiler.entries[watched] == nil {
		t.Errorf("%d resources and %d bodies are kept, want the one that is watched", len(p.compiler.entries), len(p.compiler.bodies))
	}
	if len(p.compiler.readers) > 3 {
		t.Errorf("%d keys are kept of what one resource reads", len(p.compiler.readers))
	}
	again, _ := view.Resource(&resource.Proxy{}, cluster("http|10.0.0.0:80"))
	if again == nil {
		t.Error("what was forgotten is not made again")
	}
}

package compile

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// TestPanicIsContained: whoever wants a resource that can't be made for a programming error goes on without it, also those that wait for
// somebody else to make it.
func TestPanicIsContained(t *testing.T) {
	const readers = 8
	var mu sync.Mutex
	var reported []error
	c := NewCompiler(func(ref resource.ScopedRef, err error) {
		mu.Lock()
		defer mu.Unlock()
		reported = append(reported, fmt.Errorf("%s: %w", ref.Ref, err))
	})
	began := make(chan struct{})
	c.translate = func(r *model.Reader, scope resource.Scope, ref resource.Ref) (*resource.Resource, error) {
		if ref.Name == passthroughCluster {
			<-began
			panic("a bug")
		}
		return Compile(r, scope, ref)
	}
	view, _ := c.Advance(model.NewBuilder(model.Config{}).Snapshot())
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			if r, _ := view.Resource(&resource.Proxy{}, cluster(passthroughCluster)); r != nil {
				t.Error("there is a resource")
			}
		})
	}
	close(began)
	all.Wait()
	var p *Panic
	if len(reported) != 1 || !errors.As(reported[0], &p) || !strings.Contains(reported[0].Error(), "cluster passthrough: panic: a bug") {
		t.Errorf("reported %v, want the one panic with the resource's name", reported)
	}
	if r, _ := view.Resource(&resource.Proxy{}, cluster("http|10.0.0.1:80")); r == nil {
		t.Error("another resource is missing too")
	}
}

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
	if len(p.compiler.readers) > 2 {
		t.Errorf("%d keys are kept of what one resource reads", len(p.compiler.readers))
	}
	again, _ := view.Resource(&resource.Proxy{}, cluster("http|10.0.0.0:80"))
	if again == nil {
		t.Error("what was forgotten is not made again")
	}
}

package envoy_test

import (
	"maps"
	"slices"
	"sync"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// changedView is a view in which a function has its say on every resource. Views are compared by pointer.
type changedView struct {
	resource.View
	change func(*resource.Resource, resource.ScopedRef) *resource.Resource
}

func (v *changedView) Resource(p *resource.Proxy, ref resource.Ref) (*resource.Resource, resource.ScopedRef) {
	r, scoped := v.View.Resource(p, ref)
	if r == nil {
		return nil, scoped
	}
	return v.change(r, scoped), scoped
}

// withheld are resources that the control plane keeps back, as if it had not heard of what they are made from.
type withheld struct {
	// is says which ones.
	is func(resource.Ref) bool

	turning
}

// turning is what turns a view into another at some moment, and notes the resources that this concerns.
type turning struct {
	mu     sync.Mutex
	turned bool
	noted  map[resource.ScopedRef]struct{}
}

// hasTurned says whether views are the other ones by now. A view is immutable: it asks once.
func (t *turning) hasTurned() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.turned
}

func (t *turning) note(ref resource.ScopedRef) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.noted == nil {
		t.noted = map[resource.ScopedRef]struct{}{}
	}
	t.noted[ref] = struct{}{}
}

// turn returns what will differ in the next view: what has to be published again.
func (t *turning) turn() []resource.ScopedRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turned = true
	return slices.Collect(maps.Keys(t.noted))
}

func (t *turning) turnBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turned = false
}

// wrap is an envoy.ViewWrapper. A view is immutable: it hides, or does not, for good.
func (h *withheld) wrap(v resource.View) resource.View {
	if h.hasTurned() {
		return v
	}
	return &changedView{v, func(r *resource.Resource, ref resource.ScopedRef) *resource.Resource {
		if !h.is(ref.Ref) {
			return r
		}
		h.note(ref)
		return nil
	}}
}

// hide keeps them back from the next view on.
func (h *withheld) hide() { h.turnBack() }

// show ends that, and returns what was asked for in vain.
func (h *withheld) show() []resource.ScopedRef { return h.turn() }

// breakCluster makes one cluster such that the rules of its protos allow it and Envoy itself refuses it: endpoints by EDS
// for a cluster that is static.
func breakCluster(t *testing.T, name string) envoy.ViewWrapper {
	broken := func(r *resource.Resource, _ resource.ScopedRef) *resource.Resource {
		if r.Type != resource.Cluster || r.Name != name {
			return r
		}
		var c clusterv3.Cluster
		if err := r.Body().UnmarshalTo(&c); err != nil {
			t.Error(err)
			return r
		}
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		out, err := resource.Seal(r.Ref, &c, resource.Resource{Needs: r.Needs, Warms: r.Warms, Origins: r.Origins})
		if err != nil {
			t.Error(err)
			return r
		}
		return out
	}
	return func(v resource.View) resource.View { return &changedView{v, broken} }
}

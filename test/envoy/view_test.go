package envoy_test

import (
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

// late keeps the endpoints of Services back until they are shown, as a control plane would that has not heard of them.
type late struct {
	mu     sync.Mutex
	shown  bool
	hidden map[resource.ScopedRef]struct{}
}

// wrap is an envoy.ViewWrapper. A view is immutable: it hides, or does not, for good.
func (l *late) wrap(v resource.View) resource.View {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shown {
		return v
	}
	return &changedView{v, func(r *resource.Resource, ref resource.ScopedRef) *resource.Resource {
		if ref.Type != resource.Endpoints {
			return r
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.hidden == nil {
			l.hidden = map[resource.ScopedRef]struct{}{}
		}
		l.hidden[ref] = struct{}{}
		return nil
	}}
}

// show returns what was asked for while it was hidden.
func (l *late) show() []resource.ScopedRef {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown = true
	var refs []resource.ScopedRef
	for ref := range l.hidden {
		refs = append(refs, ref)
	}
	return refs
}

// breakCluster makes one cluster such that the rules of its protos allow it and Envoy itself refuses it: endpoints by EDS
// for a cluster that is static.
func breakCluster(t *testing.T, name string) envoy.ViewWrapper {
	broken := func(r *resource.Resource, _ resource.ScopedRef) *resource.Resource {
		if r.Type != resource.Cluster || r.Name != name {
			return r
		}
		var c clusterv3.Cluster
		if err := r.Body.UnmarshalTo(&c); err != nil {
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

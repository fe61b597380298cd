package xdsload

import (
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/refer"
)

// content is one version of a resource.
type content struct {
	resource.Ref
	version string
}

// refers returns what Envoy asks for by name because of a resource. Each version is read once for all sidecars.
func (f *Fleet) refers(ref resource.Ref, r *discoveryv3.Resource) ([]resource.Ref, error) {
	if ref.Type != resource.Cluster && ref.Type != resource.Listener {
		return nil, nil
	}
	key := content{ref, r.GetVersion()}
	if known, ok := f.contents.Load(key); ok {
		return known.([]resource.Ref), nil
	}
	message, err := r.GetResource().UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	refs := refer.Names(message)
	f.contents.Store(key, refs)
	return refs, nil
}

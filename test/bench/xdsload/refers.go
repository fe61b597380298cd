package xdsload

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/resource"
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
	named := map[resource.Ref]bool{}
	walk(message.ProtoReflect(), named)
	refs := make([]resource.Ref, 0, len(named))
	for name := range named {
		refs = append(refs, name)
	}
	f.contents.Store(key, refs)
	return refs, nil
}

// walk finds the names in a message, and in those that are packed in it.
func walk(m protoreflect.Message, named map[resource.Ref]bool) {
	switch v := m.Interface().(type) {
	case *anypb.Any:
		if inner, err := v.UnmarshalNew(); err == nil {
			walk(inner.ProtoReflect(), named)
		}
		return
	case *clusterv3.Cluster:
		if v.GetType() == clusterv3.Cluster_EDS {
			name := v.GetName()
			if service := v.GetEdsClusterConfig().GetServiceName(); service != "" {
				name = service
			}
			named[resource.Ref{Type: resource.Endpoints, Name: name}] = true
		}
	case *tlsv3.SdsSecretConfig:
		named[resource.Ref{Type: resource.Secret, Name: v.GetName()}] = true
	case *hcmv3.Rds:
		named[resource.Ref{Type: resource.RouteConfiguration, Name: v.GetRouteConfigName()}] = true
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap() && field.MapValue().Message() != nil:
			value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				walk(v.Message(), named)
				return true
			})
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				walk(value.List().Get(i).Message(), named)
			}
		default:
			walk(value.Message(), named)
		}
		return true
	})
}

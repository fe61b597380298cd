// Package refer says what Envoy asks for by name because of what it was given, for all that stands in for an Envoy.
package refer

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Names returns the endpoints, secrets and route configurations that a message names, also in what is packed in it, each once.
func Names(m proto.Message) []resource.Ref {
	named := map[resource.Ref]bool{}
	walk(m.ProtoReflect(), named)
	refs := make([]resource.Ref, 0, len(named))
	for name := range named {
		refs = append(refs, name)
	}
	return refs
}

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

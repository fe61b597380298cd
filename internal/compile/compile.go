// Package compile translates the mesh into Envoy's configuration.
//
// Compile is the translation: a pure function from a snapshot's reader, a scope and a reference to one sealed resource. Compiler
// is a cache around it, which a new snapshot invalidates by the keys that were read.
package compile

import (
	"errors"
	"fmt"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/bootstrap"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/features/accesslog"
	"github.com/tulle-mesh/tulle/internal/features/appmetrics"
	"github.com/tulle-mesh/tulle/internal/features/balancing"
	"github.com/tulle-mesh/tulle/internal/features/metrics"
	"github.com/tulle-mesh/tulle/internal/features/mtls"
	"github.com/tulle-mesh/tulle/internal/features/plaintext"
	"github.com/tulle-mesh/tulle/internal/features/routes"
	"github.com/tulle-mesh/tulle/internal/features/splits"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// all returns the features, in the order in which they add to a part.
func all() []features.Feature {
	return []features.Feature{
		mtls.Feature(),
		routes.Feature(),
		splits.Feature(),
		balancing.Feature(),
		accesslog.Feature(),
		plaintext.Feature(bootstrap.ControlPlaneCluster),
		metrics.Feature(),
	}
}

// Compile makes the resource that ref names for the proxies of a scope. It returns nil when there is none of that name.
// The error is that of Envoy's own validation; the model lets nothing through that causes one.
func Compile(r *model.Reader, scope resource.Scope, ref resource.Ref) (*resource.Resource, error) {
	return compilation{r, scope, all()}.compile(ref)
}

// compilation is the compilation of one resource.
type compilation struct {
	*model.Reader
	scope    resource.Scope
	features []features.Feature
}

func (c compilation) compile(ref resource.Ref) (*resource.Resource, error) {
	switch ref.Type {
	case resource.Bundle:
		return c.bundle(ref), nil
	case resource.Cluster:
		return c.cluster(ref)
	case resource.Endpoints:
		return c.endpoints(ref)
	case resource.Secret:
		return c.secret(ref)
	case resource.Listener:
		return c.listener(ref)
	case resource.RouteConfiguration:
		return c.routeConfiguration(ref)
	case resource.VirtualHost:
		return c.virtualHost(ref)
	default:
		return nil, nil
	}
}

// podScoped reports whether a resource differs from pod to pod.
func podScoped(ref resource.Ref) bool {
	switch ref.Type {
	case resource.Listener:
		return true
	case resource.Bundle:
		return ref.Name == ProxyBundle
	case resource.Cluster:
		return ref.Name == inboundCluster || strings.HasPrefix(ref.Name, localPrefix) || strings.HasPrefix(ref.Name, appmetrics.ClusterPrefix)
	default:
		return false
	}
}

// workload returns the pod of the scope, or nil.
func (c compilation) workload() *model.Workload {
	namespace, name, ok := strings.Cut(c.scope.Pod, "/")
	if !ok {
		return nil
	}
	return c.Workload(model.WorkloadKey{Namespace: namespace, Name: name})
}

// seal seals what was made; a nil message is no resource.
func seal(ref resource.Ref, msg proto.Message, r resource.Resource) (*resource.Resource, error) {
	out, err := resource.Seal(ref, msg, r)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("compile for %s", origins(r.Origins)), err)
	}
	return out, nil
}

func origins(list []resource.Origin) string {
	if len(list) == 0 {
		return "every proxy"
	}
	names := make([]string, 0, len(list))
	for _, o := range list {
		names = append(names, o.Kind+" "+o.Namespace+"/"+o.Name+" "+o.Field)
	}
	return strings.Join(names, ", ")
}

func sealCluster(c *clusterv3.Cluster, r resource.Resource) (*resource.Resource, error) {
	return seal(resource.Ref{Type: resource.Cluster, Name: c.Name}, c, r)
}

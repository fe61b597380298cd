package compile

import (
	"slices"
	"strings"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/features/balancing"
	"github.com/tulle-mesh/tulle/internal/features/mtls"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// splitsConnections reports whether a TrafficSplit has a say in where connections to an address go.
func splitsConnections(d model.Destination) bool {
	return d.Split != nil && !d.Split.Restricted && (d.Split.Invalid != "" || len(d.Split.Shares[d.Port.Number]) > 0)
}

// splitCluster divides what has no HTTP rules, connections above all. Envoy's TCP proxy asks for one cluster, so the backends are
// localities of it, whose weights are those of the split: they come with the endpoints, and a change of them leaves the cluster and
// its connections alone.
func (c compilation) splitCluster(a addressName, d model.Destination) (*resource.Resource, error) {
	origins := append(meshOrigin(d.Service), d.Split.Origin)
	if d.Split.Invalid != "" {
		return sealCluster(envoy.StaticCluster(a.name), resource.Resource{Origins: origins})
	}
	backends := c.splitBackends(d.Split, d.Port.Number)
	endpoints := splitEndpointsName(d.Split, d.Port.Number, backends)
	return c.finish(&features.Cluster{
		Cluster:  envoy.EndpointsCluster(a.name, endpoints),
		Minor:    c.scope.Minor,
		HTTP:     a.http(),
		Service:  d.Service,
		Port:     d.Port,
		Backends: backends,
		Warms:    []resource.Ref{{Type: resource.Endpoints, Name: endpoints}},
	}, origins)
}

// splitBackends are the Services that a split gives a port to, or may any moment. The order in which the split names them is none of
// the cluster's business.
func (c compilation) splitBackends(s *model.Split, port uint16) []*model.Service {
	var backends []*model.Service
	for _, share := range s.Shares[port] {
		if b := c.Service(share.Service); b != nil {
			backends = append(backends, b)
		}
	}
	slices.SortFunc(backends, func(a, b *model.Service) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return backends
}

// splitEndpointsName is another one when the cluster needs other sockets. Envoy takes endpoints at once, and a changed cluster only once
// it is warm: if both had one name, the cluster before would be given endpoints that it can't call, and connections would be lost meanwhile.
func splitEndpointsName(s *model.Split, port uint16, backends []*model.Service) string {
	var names []string
	for _, b := range backends {
		names = append(names, b.Key.Name)
	}
	return features.SplitEndpointsName(s.Root, port, names, mtls.PlaintextBackends(backends, port))
}

// splitName is what a name of features.SplitEndpointsName says.
type splitName struct {
	root      model.ServiceKey
	port      uint16
	plaintext bool
	backends  []string
}

func parseSplit(name string) (splitName, bool) {
	parts := strings.Split(strings.TrimPrefix(name, features.SplitPrefix), "|")
	if len(parts) != 4 {
		return splitName{}, false
	}
	root, ok := parseKey(parts[0])
	port, err := parsePort(parts[1])
	return splitName{root, port, parts[2] == features.SplitPlaintext, strings.Split(parts[3], ",")}, ok && err == nil
}

// splitEndpoints are the endpoints of all backends that get something and that the name is for. Of a name that is no more the split's, a
// proxy keeps what it has when the backends that it knows have nothing left: it is about to get another cluster.
func (c compilation) splitEndpoints(ref resource.Ref) (*resource.Resource, error) {
	n, ok := parseSplit(ref.Name)
	if !ok {
		return nil, nil
	}
	s := c.Split(n.root)
	if s == nil {
		return nil, nil
	}
	var shares []balancing.Share
	for _, share := range s.Shares[n.port] {
		if all := c.Endpoints(share.Service); all != nil && share.Weight > 0 && slices.Contains(n.backends, share.Service.Name) {
			shares = append(shares, balancing.Share{Service: share.Service, Weight: share.Weight, Endpoints: n.callable(all.Ports[n.port])})
		}
	}
	out := balancing.AssignShares(ref.Name, shares, c.splitEndpoint)
	if len(out.Endpoints) == 0 && ref.Name != splitEndpointsName(s, n.port, c.splitBackends(s, n.port)) {
		return nil, nil
	}
	return seal(ref, out, resource.Resource{})
}

func (c compilation) splitEndpoint(backend model.ServiceKey, e model.Endpoint) *endpointv3.LbEndpoint {
	out := c.endpoint(e)
	for _, f := range c.features {
		if f.SplitEndpoint != nil {
			f.SplitEndpoint(backend, e, out)
		}
	}
	return out
}

// callable are the endpoints that may be called at all, and that the cluster has a socket for.
func (n splitName) callable(list []model.Endpoint) []model.Endpoint {
	return slices.DeleteFunc(slices.Clone(list), func(e model.Endpoint) bool {
		return !e.Proxied && !e.Plaintext || e.Plaintext && !n.plaintext
	})
}

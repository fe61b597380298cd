package compile

import (
	"slices"
	"strings"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/features/balancing"
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
	endpoints := features.SplitEndpointsName(d.Service.Key, d.Port.Number)
	out := &features.Cluster{
		Cluster: envoy.EndpointsCluster(a.name, endpoints),
		Minor:   c.scope.Minor,
		HTTP:    a.http(),
		Service: d.Service,
		Port:    d.Port,
		Warms:   []resource.Ref{{Type: resource.Endpoints, Name: endpoints}},
	}
	for _, share := range d.Split.Shares[d.Port.Number] {
		if s := c.Service(share.Service); s != nil {
			out.Backends = append(out.Backends, s)
		}
	}
	// The order in which the split names them is none of the cluster's business.
	slices.SortFunc(out.Backends, func(a, b *model.Service) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return c.finish(out, origins)
}

// splitEndpoints are the endpoints of all backends that get something.
func (c compilation) splitEndpoints(ref resource.Ref) (*resource.Resource, error) {
	key, rest, _ := strings.Cut(strings.TrimPrefix(ref.Name, features.SplitPrefix), "|")
	root, ok := parseKey(key)
	port, err := parsePort(rest)
	if !ok || err != nil {
		return nil, nil
	}
	s := c.Split(root)
	if s == nil {
		return nil, nil
	}
	var shares []balancing.Share
	for _, share := range s.Shares[port] {
		if all := c.Endpoints(share.Service); all != nil && share.Weight > 0 {
			shares = append(shares, balancing.Share{Service: share.Service, Weight: share.Weight, Endpoints: callable(all.Ports[port])})
		}
	}
	return seal(ref, balancing.AssignShares(ref.Name, shares, c.splitEndpoint), resource.Resource{})
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

// callable are the endpoints that may be called at all.
func callable(list []model.Endpoint) []model.Endpoint {
	return slices.DeleteFunc(slices.Clone(list), func(e model.Endpoint) bool { return !e.Proxied && !e.Plaintext })
}

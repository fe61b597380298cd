// Package balancing says which endpoint of a Service gets a request.
package balancing

import (
	"cmp"
	"net/netip"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Priorities. Envoy sends to a lower one only as far as those above have nobody.
const (
	alive = iota
	draining
)

// Feature returns the feature: the endpoint with the least requests, of two.
func Feature() features.Feature {
	return features.Feature{Name: "balancing", Cluster: func(c *features.Cluster) {
		if c.Service != nil {
			c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		}
		if len(c.Backends) > 0 {
			envoy.WeighLocalities(c.Cluster)
		}
	}}
}

// Share is a backend of a split with its weight, which is above zero.
type Share struct {
	Service   model.ServiceKey
	Weight    uint32
	Endpoints []model.Endpoint
}

// AssignShares makes each backend a locality with the backend's weight. Within a backend, endpoints that drain are used only when it has no
// others; between them, weights say who gets what.
//
// Envoy knows an address only once in a cluster. One that several backends have is the one's with the fewest, as the most specific; a
// backend that has none left adds its weight to the one that has them.
func AssignShares(name string, shares []Share, build func(model.ServiceKey, model.Endpoint) *endpointv3.LbEndpoint) *endpointv3.ClusterLoadAssignment {
	shares = slices.Clone(shares)
	for i := range shares {
		shares[i].Endpoints = serving(shares[i].Endpoints)
	}
	slices.SortStableFunc(shares, func(a, b Share) int { return cmp.Compare(len(a.Endpoints), len(b.Endpoints)) })
	out := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	placed := map[netip.AddrPort]*endpointv3.LocalityLbEndpoints{}
	for _, s := range shares {
		l := &endpointv3.LocalityLbEndpoints{
			Locality:            &corev3.Locality{SubZone: s.Service.Namespace + "/" + s.Service.Name},
			LoadBalancingWeight: wrapperspb.UInt32(s.Weight),
		}
		for _, e := range s.Endpoints {
			if placed[e.Address] == nil {
				placed[e.Address] = l
				l.LbEndpoints = append(l.LbEndpoints, build(s.Service, e))
			}
		}
		switch {
		case len(l.LbEndpoints) > 0:
			out.Endpoints = append(out.Endpoints, l)
		case len(s.Endpoints) > 0:
			placed[s.Endpoints[0].Address].LoadBalancingWeight.Value += s.Weight
		}
	}
	return out
}

// serving returns the endpoints that do not drain; all, when all do.
func serving(all []model.Endpoint) []model.Endpoint {
	list := slices.DeleteFunc(slices.Clone(all), func(e model.Endpoint) bool { return e.Draining })
	if len(list) == 0 {
		return all
	}
	return list
}

// Group is a set of endpoints of one priority and zone.
type group struct {
	priority uint32
	zone     string
}

// Assign groups endpoints by zone, and those that drain below all others. The order of groups and endpoints is that of
// their first appearance, so equal endpoints make equal bytes.
func Assign(name string, endpoints []model.Endpoint, build func(model.Endpoint) *endpointv3.LbEndpoint) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	groups := map[group]*endpointv3.LocalityLbEndpoints{}
	for priority := uint32(alive); priority <= draining; priority++ {
		for _, e := range endpoints {
			if e.Draining != (priority == draining) {
				continue
			}
			key := group{priority, e.Zone}
			g := groups[key]
			if g == nil {
				g = locality(key)
				groups[key] = g
				out.Endpoints = append(out.Endpoints, g)
			}
			g.LbEndpoints = append(g.LbEndpoints, build(e))
			g.LoadBalancingWeight.Value++
		}
	}
	return withoutGap(out)
}

func locality(g group) *endpointv3.LocalityLbEndpoints {
	l := &endpointv3.LocalityLbEndpoints{Priority: g.priority, LoadBalancingWeight: wrapperspb.UInt32(0)}
	if g.zone != "" {
		l.Locality = &corev3.Locality{Zone: g.zone}
	}
	return l
}

// withoutGap makes the highest priority zero when all endpoints drain; Envoy refuses priorities that leave one out.
func withoutGap(a *endpointv3.ClusterLoadAssignment) *endpointv3.ClusterLoadAssignment {
	if len(a.Endpoints) > 0 && a.Endpoints[0].Priority == draining {
		for _, l := range a.Endpoints {
			l.Priority = alive
		}
	}
	return a
}

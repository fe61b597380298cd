// Package balancing says which endpoint of a Service gets a request.
package balancing

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Priorities. Envoy sends to a lower one only as far as those above have nobody.
const (
	serving = iota
	draining
)

// Feature returns the feature: the endpoint with the least requests, of two.
func Feature() features.Feature {
	return features.Feature{Name: "balancing", Cluster: func(c *features.Cluster) {
		if c.Service != nil {
			c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		}
	}}
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
	for priority := uint32(serving); priority <= draining; priority++ {
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
			l.Priority = serving
		}
	}
	return a
}

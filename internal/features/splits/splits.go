// Package splits divides what is sent to a Service between other Services, as an SMI TrafficSplit says.
//
// A change of weights changes nothing but the virtual host, or the endpoints of the one cluster for connections: the clusters of all backends
// stay at the proxies, also of those that get nothing now.
package splits

import (
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Feature returns the feature.
func Feature() features.Feature {
	return features.Feature{Name: "splits", VirtualHost: virtualHost}
}

// virtualHost divides the requests that the split is for. All others follow the route to the root that comes last.
func virtualHost(v *features.VirtualHost) {
	s := v.Split
	if s == nil {
		return
	}
	v.Origins = append(v.Origins, s.Origin)
	follow := action(v, s)
	if follow == nil || s.Restricted && len(s.Match) == 0 {
		return
	}
	for _, match := range features.Matches(s.Match) {
		v.Routes = append(v.Routes, follow(match))
	}
	if !s.Restricted {
		v.Routes = append(v.Routes, follow(envoy.EveryConnect()))
	}
	v.Complete = !s.Restricted && len(s.Match) == 0
}

// action returns what is done with the requests that the split is for; nil when the root takes them.
func action(v *features.VirtualHost, s *model.Split) func(*routev3.RouteMatch) *routev3.Route {
	if s.Invalid != "" {
		text := fmt.Sprintf("TrafficSplit %s/%s can't be followed: %s\n", s.Root.Namespace, s.Name, s.Invalid)
		return func(match *routev3.RouteMatch) *routev3.Route { return envoy.Respond(match, 500, text) }
	}
	var shares []envoy.Share
	for _, share := range s.Shares[v.Port.Number] {
		if name := v.BackendCluster(share.Service); share.Weight > 0 {
			shares = append(shares, envoy.Share{Cluster: name, Weight: share.Weight})
		}
	}
	if len(shares) == 0 {
		return nil
	}
	return func(match *routev3.RouteMatch) *routev3.Route { return envoy.ToShares(match, shares) }
}

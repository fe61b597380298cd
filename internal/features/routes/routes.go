// Package routes sends HTTP requests to versions of a Service: by header, and by weight.
package routes

import (
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Feature returns the feature.
func Feature() features.Feature {
	return features.Feature{Name: "routes", VirtualHost: virtualHost}
}

// virtualHost follows the rules of the Mesh. Those with a match come before a TrafficSplit, which replaces the first without: nothing after
// that one ever matched.
func virtualHost(v *features.VirtualHost) {
	for i := range v.Service.Routes {
		r := &v.Service.Routes[i]
		if v.Split != nil && len(r.Match) == 0 {
			return
		}
		v.Origins = append(v.Origins, r.Origin)
		for _, match := range features.Matches(r.Match) {
			v.Routes = append(v.Routes, route(v, r, match))
		}
		if len(r.Match) == 0 {
			v.Routes = append(v.Routes, route(v, r, envoy.EveryConnect()))
			v.Complete = true
			return
		}
	}
}

// route follows a rule. Versions with a weight of zero get nothing, also no cluster at the proxy.
func route(v *features.VirtualHost, r *model.Route, match *routev3.RouteMatch) *routev3.Route {
	if r.Invalid != "" {
		return refusal(v, r, match, r.Invalid)
	}
	var shares []envoy.Share
	for _, t := range r.To {
		if t.Weight > 0 {
			shares = append(shares, envoy.Share{Cluster: v.Cluster(t.Version), Weight: t.Weight})
		}
	}
	if len(shares) == 0 {
		return refusal(v, r, match, "it sends to nobody")
	}
	return envoy.ToShares(match, shares)
}

// refusal answers in place of a rule that can't be followed, so that its traffic does not silently go elsewhere.
func refusal(v *features.VirtualHost, r *model.Route, match *routev3.RouteMatch, why string) *routev3.Route {
	return envoy.Respond(match, 500, fmt.Sprintf("rule %q of service %s/%s can't be followed: %s\n",
		r.Name, v.Service.Key.Namespace, v.Service.Key.Name, why))
}

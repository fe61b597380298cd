package compile

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tulle-mesh/tulle/internal/bootstrap"
	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features/appmetrics"
	"github.com/tulle-mesh/tulle/internal/features/probes"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

func (c compilation) listener(ref resource.Ref) (*resource.Resource, error) {
	w := c.workload()
	if w == nil {
		return nil, nil
	}
	switch ref.Name {
	case outboundListener:
		return seal(ref, c.outbound(w), resource.Resource{
			Needs: []resource.Ref{cluster(passthroughCluster)},
			Warms: []resource.Ref{{Type: resource.RouteConfiguration, Name: outboundRoutes}},
		})
	case rerouteListener:
		return seal(ref, c.reroute(w), resource.Resource{Warms: []resource.Ref{{Type: resource.RouteConfiguration, Name: outboundRoutes}}})
	case silentListener:
		return seal(ref, c.silent(w), resource.Resource{Warms: []resource.Ref{{Type: resource.RouteConfiguration, Name: outboundRoutes}}})
	case inboundListener:
		l, warms := c.inbound(w)
		return seal(ref, l, resource.Resource{Needs: []resource.Ref{cluster(inboundCluster)}, Warms: warms})
	case probesListener:
		return seal(ref, c.probes(w), resource.Resource{Needs: localClusters(w)})
	case statsListener:
		return seal(ref, c.stats(w), resource.Resource{Needs: beforeReady(w), Last: true})
	default:
		return nil, nil
	}
}

// bundle is a set of resources that belong together; see the names on the wire in the architecture.
func (c compilation) bundle(ref resource.Ref) *resource.Resource {
	if ref.Name == ProxyBundle {
		w := c.workload()
		if w == nil {
			return nil
		}
		return resource.Group(ProxyBundle, append(beforeReady(w), resource.Ref{Type: resource.Listener, Name: statsListener})...)
	}
	a, ok := parseAddress(ref.Name)
	if !ok {
		return nil
	}
	// Only Services are learned: what stands for a single pod, or for nothing, is soon out of date.
	d := c.Address(a.address)
	switch {
	case d.Kind != model.ServicePort:
		return nil
	case a.prefix == rawPrefix:
		return nil
	case a.http() && hasRules(d):
		return resource.Group(ref.Name, resource.Ref{Type: resource.VirtualHost, Name: virtualHostName(a)})
	default:
		return resource.Group(ref.Name, cluster(ref.Name))
	}
}

// beforeReady is all that a proxy must have before it is ready.
func beforeReady(w *model.Workload) []resource.Ref {
	return slices.Concat(
		[]resource.Ref{cluster(inboundCluster), cluster(passthroughCluster)},
		localClusters(w),
		[]resource.Ref{
			{Type: resource.Listener, Name: outboundListener},
			{Type: resource.Listener, Name: rerouteListener},
			{Type: resource.Listener, Name: silentListener},
			{Type: resource.Listener, Name: inboundListener},
			{Type: resource.Listener, Name: probesListener},
			{Type: resource.VirtualHost, Name: noneVirtualHost},
		})
}

// probes serves the kubelet's probes of the app.
func (c compilation) probes(w *model.Workload) *listenerv3.Listener {
	l := envoy.Listener(probesListener, envoy.AnyAddress(sidecar.ProbePort, c.ipv6(w)), corev3.TrafficDirection_INBOUND)
	l.FilterChains = []*listenerv3.FilterChain{envoy.HTTPChain("http", nil, probes.ConnectionManager(w))}
	return l
}

// stats serves Prometheus, of the proxy and of the app, and readiness: it is the last listener to come, so who reaches it reaches a proxy that has
// its complete configuration.
func (c compilation) stats(w *model.Workload) *listenerv3.Listener {
	l := envoy.Listener(statsListener, envoy.AnyAddress(sidecar.StatsPort, c.ipv6(w)), corev3.TrafficDirection_INBOUND)
	m := envoy.ConnectionManager("stats")
	proxy := envoy.ToCluster(envoy.PathToRead(sidecar.StatsPath), bootstrap.AdminCluster)
	proxy.GetRoute().PrefixRewrite = bootstrap.ScrapePath()
	routes := append([]*routev3.Route{envoy.Respond(envoy.Path("/ready"), 200, "ready\n"), proxy}, appmetrics.Routes(w)...)
	routes = append(routes, envoy.Respond(envoy.EveryRequest(), 404, "only /ready, "+sidecar.StatsPath+
		" and the metrics that the app declares are here\n"))
	envoy.Routes(m, "stats", routes...)
	l.FilterChains = []*listenerv3.FilterChain{envoy.HTTPChain("http", nil, m)}
	return l
}

func localClusters(w *model.Workload) []resource.Ref {
	var out []resource.Ref
	for _, port := range probes.Ports(w) {
		out = append(out, cluster(probes.ClusterName(port)))
	}
	for _, port := range appmetrics.Ports(w) {
		out = append(out, cluster(appmetrics.ClusterName(port)))
	}
	return out
}

func cluster(name string) resource.Ref { return resource.Ref{Type: resource.Cluster, Name: name} }

// union appends the references that list does not have.
func union(list []resource.Ref, more ...resource.Ref) []resource.Ref {
	for _, r := range more {
		if !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	return list
}

package compile

import (
	"net/netip"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/features/appmetrics"
	"github.com/tulle-mesh/tulle/internal/features/metrics"
	"github.com/tulle-mesh/tulle/internal/features/mtls"
	"github.com/tulle-mesh/tulle/internal/features/probes"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// internalHeaders never leave the proxy: whatever route a request takes removes them, once it is chosen. Loops, which need them, put them back.
func internalHeaders() []string { return []string{features.DestinationHeader, features.HopHeader} }

func (c compilation) cluster(ref resource.Ref) (*resource.Resource, error) {
	switch {
	case ref.Name == inboundCluster:
		return c.inboundCluster()
	case ref.Name == passthroughCluster:
		return sealOutside(envoy.OriginalDestinationCluster(passthroughCluster), 0)
	case strings.HasPrefix(ref.Name, localPrefix):
		return c.localCluster(strings.TrimPrefix(ref.Name, localPrefix), probes.Cluster)
	case strings.HasPrefix(ref.Name, appmetrics.ClusterPrefix):
		return c.localCluster(strings.TrimPrefix(ref.Name, appmetrics.ClusterPrefix), appmetrics.Cluster)
	case strings.HasPrefix(ref.Name, svcPrefix):
		return c.versionCluster(ref.Name)
	}
	if a, ok := parseAddress(ref.Name); ok {
		return c.addressCluster(a)
	}
	return nil, nil
}

// addressCluster answers a proxy that asks what an address is.
func (c compilation) addressCluster(a addressName) (*resource.Resource, error) {
	d := c.Address(a.address)
	switch d.Kind {
	case model.ServicePort:
		switch {
		case hasRules(d) && a.prefix == httpPrefix:
			return rerouted(a, d)
		case hasRules(d) && a.prefix == tcpPrefix:
			return detectedAgain(a, d)
		case splitsConnections(d):
			return c.splitCluster(a, d)
		}
		return c.serviceCluster(a.name, a.http(), d.Service, d.Port, "")
	case model.PodAddress:
		return c.podCluster(a, d.Workload)
	case model.UnknownService:
		// Not a removal: Envoy would stay subscribed, never ask again, and let every further request wait for the
		// on-demand timeout. It is replaced when somebody comes to own the address.
		return sealCluster(envoy.StaticCluster(a.name), resource.Resource{})
	case model.UnknownPod:
		return direct(a, provisionalHold)
	default:
		return direct(a, 0)
	}
}

// hasRules reports whether requests to a Service's port follow HTTP rules, so that it needs a virtual host.
func hasRules(d model.Destination) bool {
	return (d.Service.HasRoutes() || d.Split != nil) && d.Port.Protocol != model.TCP
}

// rerouted sends the request that asked through the reroute listener: that request has chosen its route already, the one for
// everything else, and must choose again now that its virtual host is there.
func rerouted(a addressName, d model.Destination) (*resource.Resource, error) {
	c := envoy.StaticCluster(a.name, envoy.Endpoint(envoy.InternalAddress(rerouteListener)))
	// All further requests follow the virtual host.
	envoy.SpeakHTTPOnce(c, envoy.SetHeader(features.DestinationHeader, a.name), envoy.SetHeader(features.HopHeader, "1"))
	return sealLoop(c, a, d)
}

// detectedAgain sends connections to an address with HTTP rules, on which nothing was said until detection gave up, through the
// silent listener, which waits for what is said. Clients open connections that they may need later; Go's do it all the time.
func detectedAgain(a addressName, d model.Destination) (*resource.Resource, error) {
	c := envoy.StaticCluster(a.name, envoy.Endpoint(envoy.InternalAddress(silentListener)))
	envoy.PassState(c)
	metrics.Loop(c)
	return sealLoop(c, a, d)
}

// sealLoop seals a cluster that is of use only as long as the address has a virtual host.
func sealLoop(c *clusterv3.Cluster, a addressName, d model.Destination) (*resource.Resource, error) {
	from := meshOrigin(d.Service)
	if d.Split != nil {
		from = append(from, d.Split.Origin)
	}
	return sealCluster(c, resource.Resource{
		Needs:   []resource.Ref{{Type: resource.VirtualHost, Name: virtualHostName(a)}},
		Origins: from,
	})
}

// provisionalHold is how long the answer is held back that an address is nobody's, where a pod that is younger than what is
// known may have it. It is well below askTimeout.
const provisionalHold = time.Second

// direct calls an address outside of the mesh as the app would have. hold is resource.Resource.Hold.
func direct(a addressName, hold time.Duration) (*resource.Resource, error) {
	c := envoy.StaticCluster(a.name, envoy.Endpoint(envoy.SocketAddress(a.address)))
	if a.http() {
		envoy.SpeakHTTP(c)
	}
	return sealOutside(c, hold)
}

// sealOutside seals a cluster that leads out of what the mesh knows.
func sealOutside(c *clusterv3.Cluster, hold time.Duration) (*resource.Resource, error) {
	metrics.Outside(c)
	return sealCluster(c, resource.Resource{Hold: hold})
}

// podCluster calls a pod by its address.
func (c compilation) podCluster(a addressName, w *model.Workload) (*resource.Resource, error) {
	if mtls.PodAccess(w, a.address.Port()) == mtls.None {
		return sealCluster(envoy.StaticCluster(a.name), resource.Resource{})
	}
	out := &features.Cluster{
		Cluster:      envoy.StaticCluster(a.name, envoy.Endpoint(envoy.SocketAddress(a.address))),
		Minor:        c.scope.Minor,
		HTTP:         a.http(),
		Workload:     w,
		WorkloadPort: a.address.Port(),
	}
	return c.finish(out, nil)
}

// versionCluster is what the routes of virtual hosts point at.
func (c compilation) versionCluster(name string) (*resource.Resource, error) {
	n, ok := parseService(strings.TrimPrefix(name, svcPrefix))
	if !ok {
		return nil, nil
	}
	s := c.Service(n.key)
	if s == nil {
		return nil, nil
	}
	for i := range s.Ports {
		if s.Ports[i].Number == n.port {
			return c.serviceCluster(name, true, s, &s.Ports[i], n.version)
		}
	}
	return nil, nil
}

func (c compilation) serviceCluster(name string, http bool, s *model.Service, p *model.Port, version string) (*resource.Resource, error) {
	endpoints := features.EndpointsName(s.Key, p.Number, version)
	out := &features.Cluster{
		Cluster: envoy.EndpointsCluster(name, endpoints),
		Minor:   c.scope.Minor,
		HTTP:    http,
		Service: s,
		Port:    p,
		Version: version,
		Warms:   []resource.Ref{{Type: resource.Endpoints, Name: endpoints}},
	}
	return c.finish(out, meshOrigin(s))
}

// meshOrigin is the Mesh that claims a Service, if one does.
func meshOrigin(s *model.Service) []resource.Origin {
	if s.Mesh == (resource.Origin{}) {
		return nil
	}
	return []resource.Origin{s.Mesh}
}

// finish lets the features add to a cluster.
func (c compilation) finish(out *features.Cluster, from []resource.Origin) (*resource.Resource, error) {
	if out.HTTP {
		envoy.SpeakHTTP(out.Cluster)
	}
	for _, f := range c.features {
		if f.Cluster != nil {
			f.Cluster(out)
		}
	}
	return sealCluster(out.Cluster, resource.Resource{Warms: out.Warms, Origins: from})
}

// inboundCluster hands to the app what the pod was sent, from source addresses by which redirection knows it.
func (c compilation) inboundCluster() (*resource.Resource, error) {
	w := c.workload()
	if w == nil {
		return nil, nil
	}
	out := envoy.OriginalDestinationCluster(inboundCluster)
	envoy.SpeakHTTP(out)
	envoy.BindFrom(out, c.inboundSources(w)...)
	metrics.Receiver(out, w)
	return sealCluster(out, resource.Resource{})
}

// localCluster is a port of the app that is probed, or scraped.
func (c compilation) localCluster(number string, of func(*model.Workload, uint16) *clusterv3.Cluster) (*resource.Resource, error) {
	w := c.workload()
	port, err := parsePort(number)
	if w == nil || err != nil {
		return nil, nil
	}
	out := of(w, port)
	if out == nil {
		return nil, nil
	}
	envoy.BindFrom(out, c.inboundSources(w)...)
	return sealCluster(out, resource.Resource{})
}

// inboundSources are the source addresses of what the proxy sends to its own app.
func (c compilation) inboundSources(w *model.Workload) []netip.Addr {
	sources := []netip.Addr{netip.MustParseAddr(sidecar.InboundSource4)}
	if c.ipv6(w) {
		sources = append(sources, netip.MustParseAddr(sidecar.InboundSource6))
	}
	return sources
}

// ipv6 reports whether a pod has IPv6. As long as its addresses are not known, it is what the mesh has; the proxy may ask
// before the kubelet has reported them.
func (c compilation) ipv6(w *model.Workload) bool {
	for _, a := range w.Addresses {
		if a.Is6() {
			return true
		}
	}
	if len(w.Addresses) > 0 {
		return false
	}
	m := c.MeshWide()
	for _, ranges := range [][]netip.Prefix{m.ServiceRanges, m.PodRanges} {
		for _, p := range ranges {
			if p.Addr().Is6() {
				return true
			}
		}
	}
	return false
}

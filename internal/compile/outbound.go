package compile

import (
	"net/netip"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

const (
	// inspectTimeout is how long the first bytes of a connection are waited for; then it counts as TCP.
	inspectTimeout = 5 * time.Second
	// askTimeout is how long a request waits for the control plane's answer about an address.
	askTimeout = 5 * time.Second
)

// destination is the address that a connection was opened to, as Envoy writes it.
const destination = "%DOWNSTREAM_LOCAL_ADDRESS%"

// destinationState carries the destination to the silent listener.
const destinationState = "tulle.destination"

// passedDestination is the destination there.
const passedDestination = "%FILTER_STATE(" + destinationState + ":PLAIN)%"

// The bodies of the 503 for an address for which the proxy has no cluster: of the one about which it heard nothing until askTimeout, and
// of the one that it was refused, which it is told at once. Envoy calls both cluster_not_found. Once refused it does not ask again.
const (
	unanswered = "no configuration for %REQ(" + features.DestinationHeader + ")% came from the control plane in time, or it refused one before: %RESPONSE_CODE_DETAILS%\n"
	withheld   = "the control plane gives this proxy no configuration for %REQ(" + features.DestinationHeader + ")%: it asks for more destinations than it may, " +
		"or has rejected what it was given (see its Mesh): %RESPONSE_CODE_DETAILS%\n"
)

// outbound takes what the app opens. Its size does not depend on what is in the mesh.
func (c compilation) outbound(w *model.Workload) *listenerv3.Listener {
	l := envoy.Listener(outboundListener, envoy.AnyAddress(sidecar.OutboundPort, c.ipv6(w)), corev3.TrafficDirection_OUTBOUND)
	envoy.Inspect(l, inspectTimeout,
		envoy.OriginalDestination(),
		envoy.NotOn(envoy.HTTPInspector(), w.SkipDetection))
	l.FilterChains = c.meshChains(w, "", model.PrivateRanges())
	// The ranges of the cluster that are not private have chains of their own: when they change, Envoy drains the
	// connections of these chains and of no others.
	if more := publicRanges(c.MeshWide()); len(more) > 0 {
		l.FilterChains = append(l.FilterChains, c.meshChains(w, "-cluster", more)...)
	}
	// Everything else is public, or link-local (the clouds' metadata, node-local DNS), and costs no question.
	l.DefaultFilterChain = envoy.TCPChain("egress", nil, c.outboundProxy(w, "egress", passthroughCluster))
	c.finishListener(w, l)
	return l
}

// meshChains ask about each address in the ranges.
func (c compilation) meshChains(w *model.Workload, suffix string, ranges []netip.Prefix) []*listenerv3.FilterChain {
	var cidrs []*corev3.CidrRange
	for _, r := range ranges {
		cidrs = append(cidrs, envoy.Range(r))
	}
	m := c.outboundManager(w, outboundListener)
	envoy.MutateEarly(m, envoy.SetHeader(features.DestinationHeader, httpPrefix+destination), envoy.RemoveHeader(features.HopHeader))
	return []*listenerv3.FilterChain{
		envoy.HTTPChain("http"+suffix, &listenerv3.FilterChainMatch{PrefixRanges: cidrs, ApplicationProtocols: envoy.Detected()}, m),
		envoy.OnDemandTCPChain("tcp"+suffix, &listenerv3.FilterChainMatch{PrefixRanges: cidrs},
			c.outboundProxy(w, outboundListener, unsetCluster), tcpPrefix+destination, askTimeout, envoy.PassedState(destinationState, destination)),
	}
}

// reroute takes requests that were the first to their address and chooses their route again. What leads here (see rerouted) says what the
// destination was and marks them, which lets the route for everything else end a second loop.
func (c compilation) reroute(w *model.Workload) *listenerv3.Listener {
	l := envoy.InternalListener(rerouteListener)
	l.FilterChains = []*listenerv3.FilterChain{envoy.HTTPChain("http", nil, c.outboundManager(w, rerouteListener))}
	c.finishListener(w, l)
	return l
}

// silent takes connections to addresses with HTTP rules, on which the outbound listener heard nothing in time. It waits
// for what is said, for as long as it takes: a port with HTTP rules is none on which the server speaks first.
func (c compilation) silent(w *model.Workload) *listenerv3.Listener {
	l := envoy.InternalListener(silentListener)
	envoy.Inspect(l, 0, envoy.HTTPInspector())
	m := c.outboundManager(w, silentListener)
	envoy.MutateEarly(m, envoy.SetHeader(features.DestinationHeader, httpPrefix+passedDestination), envoy.RemoveHeader(features.HopHeader))
	l.FilterChains = []*listenerv3.FilterChain{
		envoy.HTTPChain("http", &listenerv3.FilterChainMatch{ApplicationProtocols: envoy.Detected()}, m),
		envoy.OnDemandTCPChain("tcp", nil, c.outboundProxy(w, silentListener, unsetCluster), rawPrefix+passedDestination, askTimeout),
	}
	c.finishListener(w, l)
	return l
}

func (c compilation) outboundManager(w *model.Workload, statPrefix string) *hcmv3.HttpConnectionManager {
	m := envoy.ConnectionManager(statPrefix, envoy.OnDemandFilter(askTimeout))
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY
	envoy.RoutesFromADS(m, outboundRoutes)
	envoy.ExplainFailure(m, "NC", askTimeout-100*time.Millisecond, unanswered) // Envoy's timers may be early by a little
	envoy.ExplainFailure(m, "NC", 0, withheld)
	c.finishOutbound(&features.Outbound{Minor: c.scope.Minor, Workload: w, HTTP: m, Loops: statPrefix != rerouteListener})
	return m
}

// unsetCluster is what a TCP proxy calls whose cluster is chosen for each connection.
const unsetCluster = "unset"

func (c compilation) outboundProxy(w *model.Workload, statPrefix, cluster string) *tcpv3.TcpProxy {
	p := envoy.TCPProxy(statPrefix, cluster)
	c.finishOutbound(&features.Outbound{Minor: c.scope.Minor, Workload: w, TCP: p})
	return p
}

// finishOutbound lets the features add to a way out.
func (c compilation) finishOutbound(out *features.Outbound) {
	for _, f := range c.features {
		if f.Outbound != nil {
			f.Outbound(out)
		}
	}
}

// finishListener lets the features add to a listener with ways out.
func (c compilation) finishListener(w *model.Workload, l *listenerv3.Listener) {
	for _, f := range c.features {
		if f.OutboundListener != nil {
			f.OutboundListener(&features.OutboundListener{Listener: l, Minor: c.scope.Minor, Workload: w})
		}
	}
}

// routeConfiguration is constant: what is not pushed as a virtual host goes to the cluster of its address, which is asked for.
func (c compilation) routeConfiguration(ref resource.Ref) (*resource.Resource, error) {
	if ref.Name != outboundRoutes {
		return nil, nil
	}
	routes := envoy.VirtualHostsFromADS(outboundRoutes, features.DestinationHeader,
		envoy.Respond(envoy.EveryRequest(envoy.HeaderPresent(features.HopHeader)), 503,
			"the HTTP rules of this address are not here yet\n"),
		envoy.ToClusterOfHeader(envoy.EveryRequest(), features.DestinationHeader),
		envoy.ToClusterOfHeader(envoy.EveryConnect(), features.DestinationHeader),
	)
	routes.RequestHeadersToRemove = internalHeaders()
	return seal(ref, routes, resource.Resource{})
}

// publicRanges returns the ranges of the mesh that model.PrivateRanges do not cover.
func publicRanges(m *model.MeshWide) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range slices.Concat(m.ServiceRanges, m.PodRanges) {
		covered := slices.ContainsFunc(model.PrivateRanges(), func(r netip.Prefix) bool {
			return r.Bits() <= p.Bits() && r.Contains(p.Addr())
		})
		if !covered {
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

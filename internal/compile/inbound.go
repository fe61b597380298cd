package compile

import (
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// inbound takes what others open to the pod. Filter chains say who gets in: a Strict port has no chain for plaintext at all.
func (c compilation) inbound(w *model.Workload) (*listenerv3.Listener, []resource.Ref) {
	in := &features.Inbound{
		Listener:  envoy.Listener(inboundListener, envoy.AnyAddress(sidecar.InboundPort, c.ipv6(w)), corev3.TrafficDirection_INBOUND),
		Minor:     c.scope.Minor,
		Workload:  w,
		Namespace: c.Namespace(w.Key.Namespace),
	}
	envoy.Inspect(in.Listener, inspectTimeout, inspectors(w)...)
	for _, f := range c.features {
		if f.Inbound != nil {
			f.Inbound(in)
		}
	}
	var warms []resource.Ref
	for _, p := range settings(w) {
		for _, d := range divide(p) {
			chain := d.chain(c.scope.Minor, in)
			for _, f := range c.features {
				if f.Chain != nil {
					f.Chain(chain)
				}
			}
			warms = union(warms, chain.Warms...)
			in.FilterChains = append(in.FilterChains, pack(d.name, d.match, chain))
		}
	}
	return in.Listener, warms
}

// inspectors are the listener filters. When they change, Envoy drains every connection of the listener; when filter chains change,
// only theirs. So they stay the same when a mode changes between Permissive and Strict.
//
// Neither runs where it would only wait for bytes that may not come, because the server speaks first: TLS is not looked for on Disabled
// ports, HTTP not on TCP ports and on those that skip detection.
func inspectors(w *model.Workload) []*listenerv3.ListenerFilter {
	filters := []*listenerv3.ListenerFilter{envoy.OriginalDestination()}
	var disabled, enabled []uint16
	noHTTP := slices.Clone(w.SkipDetection)
	for _, p := range w.Ports {
		if p.Mode == v1alpha1.MTLSDisabled {
			disabled = append(disabled, p.Number)
		} else {
			enabled = append(enabled, p.Number)
		}
		if p.Protocol == model.TCP {
			noHTTP = append(noHTTP, p.Number)
		}
	}
	slices.Sort(noHTTP)
	noHTTP = slices.Compact(noHTTP)
	switch {
	case w.Mode != v1alpha1.MTLSDisabled:
		filters = append(filters, envoy.NotOn(envoy.TLSInspector(), disabled))
	case len(enabled) > 0:
		filters = append(filters, envoy.OnlyOn(envoy.TLSInspector(), enabled))
	}
	return append(filters, envoy.NotOn(envoy.HTTPInspector(), noHTTP))
}

// settings returns the ports of a pod that differ from its default, and last the default, which has no number.
func settings(w *model.Workload) []model.WorkloadPort {
	other := model.WorkloadPort{Protocol: model.Unknown, Mode: w.Mode}
	var out []model.WorkloadPort
	for _, p := range w.Ports {
		if p.Protocol != other.Protocol || p.Mode != other.Mode {
			out = append(out, p)
		}
	}
	return append(out, other)
}

// division is one filter chain: which connections it takes, and what is spoken on them.
type division struct {
	name      string
	match     *listenerv3.FilterChainMatch
	mutualTLS bool
	http      bool
	// permissive: the port takes mTLS too.
	permissive bool
}

// Transport protocols that the TLS inspector reports.
const (
	transportTLS = "tls"
	transportRaw = "raw_buffer"
)

// divide returns the filter chains of a port. Envoy chooses by port, then by transport protocol, then by application protocol, and
// never goes back: a connection that none of a port's chains takes is closed.
func divide(p model.WorkloadPort) []division {
	var out []division
	add := func(name string, mutualTLS, http bool, transport string, applications ...string) {
		match := &listenerv3.FilterChainMatch{TransportProtocol: transport, ApplicationProtocols: applications}
		port := "any"
		if p.Number != 0 {
			port = strconv.Itoa(int(p.Number))
			match.DestinationPort = wrapperspb.UInt32(uint32(p.Number))
		}
		out = append(out, division{port + "/" + name, match, mutualTLS, http, !mutualTLS && p.Mode == v1alpha1.MTLSPermissive})
	}
	if p.Mode != v1alpha1.MTLSDisabled {
		switch p.Protocol {
		case model.HTTP:
			add("mtls-http", true, true, transportTLS, features.ALPNHTTP, features.ALPNTCP)
		case model.TCP:
			add("mtls-tcp", true, false, transportTLS, features.ALPNHTTP, features.ALPNTCP)
		default:
			add("mtls-http", true, true, transportTLS, features.ALPNHTTP)
			add("mtls-tcp", true, false, transportTLS, features.ALPNTCP)
		}
	}
	if p.Mode == v1alpha1.MTLSStrict {
		// TLS of who is no sidecar, such as a Prometheus, if it has a certificate of the mesh. It has a chain of its own, so that those of
		// sidecars stay the same, and open, when the mode changes; one, since each costs every pod 60 to 70 kB. No protocol is
		// negotiated: what the app speaks is not known, so who could speak HTTP/2 speaks HTTP/1.
		if p.Protocol == model.HTTP {
			add("client-http", true, true, transportTLS)
		} else {
			add("client-tcp", true, false, transportTLS)
		}
		return out
	}
	if p.Mode == v1alpha1.MTLSPermissive {
		// TLS that is not the mesh's is the app's own.
		add("tls", false, false, transportTLS)
	}
	switch p.Protocol {
	case model.HTTP:
		add("http", false, true, transportRaw)
	case model.TCP:
		add("tcp", false, false, transportRaw)
	default:
		add("http", false, true, transportRaw, envoy.Detected()...)
		add("tcp", false, false, transportRaw)
	}
	return out
}

// chain makes what the features add to.
func (d division) chain(minor uint32, in *features.Inbound) *features.Chain {
	c := &features.Chain{Minor: minor, Workload: in.Workload, Namespace: in.Namespace, MutualTLS: d.mutualTLS, Permissive: d.permissive}
	if d.http {
		c.HTTP = inboundManager()
	} else {
		c.TCP = envoy.TCPProxy("inbound", inboundCluster)
		if d.mutualTLS {
			envoy.ConnectAfterHandshake(c.TCP)
		}
	}
	return c
}

func inboundManager() *hcmv3.HttpConnectionManager {
	m := envoy.ConnectionManager("inbound")
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
	envoy.Routes(m, "inbound",
		envoy.ToCluster(envoy.EveryRequest(), inboundCluster),
		envoy.ToCluster(envoy.EveryConnect(), inboundCluster))
	m.GetRouteConfig().RequestHeadersToRemove = internalHeaders()
	return m
}

func pack(name string, match *listenerv3.FilterChainMatch, c *features.Chain) *listenerv3.FilterChain {
	var out *listenerv3.FilterChain
	if c.HTTP != nil {
		out = envoy.HTTPChain(name, match, c.HTTP)
	} else {
		out = envoy.TCPChain(name, match, c.TCP)
	}
	out.Filters = append(c.Filters, out.Filters...)
	out.TransportSocket = c.Socket
	return out
}

// Package probes forwards the kubelet's HTTP probes to the app. The kubelet has no certificate, so a Strict port would refuse it, and it must
// see the app fail when the app fails: each probe has a path of its own on the proxy's probe port.
package probes

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/model"
)

// ClusterName names the cluster of a port of the app.
func ClusterName(port uint16) string { return "local|" + strconv.Itoa(int(port)) }

// Ports returns the ports that probes of the pod go to, sorted.
func Ports(w *model.Workload) []uint16 {
	var ports []uint16
	for _, p := range w.Probes {
		ports = append(ports, p.Port)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// ConnectionManager returns what serves the probe port.
func ConnectionManager(w *model.Workload) *hcmv3.HttpConnectionManager {
	routes := make([]*routev3.Route, 0, len(w.Probes)+1)
	for _, p := range w.Probes {
		routes = append(routes, route(p))
	}
	routes = append(routes, envoy.Respond(envoy.EveryRequest(), 404, "no such probe\n"))
	m := envoy.ConnectionManager("probes")
	envoy.Routes(m, "probes", routes...)
	return m
}

func route(p model.Probe) *routev3.Route {
	r := envoy.ToCluster(envoy.Path(p.Path), ClusterName(p.Port))
	action := r.GetRoute()
	action.Timeout = durationpb.New(p.Timeout)
	action.PrefixRewrite = p.TargetPath
	if action.PrefixRewrite == "" {
		action.PrefixRewrite = "/"
	}
	if p.Host != "" {
		// What the kubelet would have sent. Without it, the Host is the pod's address, or what the probe's own headers say.
		host := net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: host}
	}
	return r
}

// Cluster returns the cluster of a port of the app, or nil when no probe goes there. It connects to the pod's address, as the kubelet does,
// so that an app that listens on loopback only fails its probe. The pod's address arrives soon after its proxy has
// started; until then probes fail.
func Cluster(w *model.Workload, port uint16) *clusterv3.Cluster {
	i := slices.IndexFunc(w.Probes, func(p model.Probe) bool { return p.Port == port })
	if i < 0 {
		return nil
	}
	c := envoy.StaticCluster(ClusterName(port))
	if len(w.Addresses) > 0 {
		c = envoy.StaticCluster(ClusterName(port), envoy.Endpoint(envoy.SocketAddress(netip.AddrPortFrom(w.Addresses[0], port))))
	}
	envoy.SpeakHTTP(c)
	if w.Probes[i].TLS {
		c.TransportSocket = envoy.UnverifiedTLS()
	}
	return c
}

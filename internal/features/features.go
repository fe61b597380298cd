// Package features defines what a feature of the mesh can add to Envoy's configuration. Each feature is a package below this one.
//
// Compile makes the parts that carry traffic from A to B and hands each to every feature in turn, with the part of
// the mesh that it stands for. A feature changes the part in place and never looks at what others did to it.
package features

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Feature is what one feature adds. A nil function adds nothing.
type Feature struct {
	Name string
	// Cluster sees each cluster that calls a Service or a pod.
	Cluster func(*Cluster)
	// Endpoint sees each endpoint of a Service.
	Endpoint func(model.Endpoint, *endpointv3.LbEndpoint)
	// SplitEndpoint sees each endpoint of a cluster that has Backends, after Endpoint did.
	SplitEndpoint func(model.ServiceKey, model.Endpoint, *endpointv3.LbEndpoint)
	// VirtualHost sees the virtual host of each address of a Service.
	VirtualHost func(*VirtualHost)
	// Inbound sees the inbound listener of a pod, before its filter chains.
	Inbound func(*Inbound)
	// Chain sees each filter chain of the inbound listener.
	Chain func(*Chain)
	// Outbound sees each way that what the app sends can take through the proxy, OutboundListener the listeners with these ways.
	Outbound         func(*Outbound)
	OutboundListener func(*OutboundListener)
}

// Cluster is a cluster that calls a Service or the pod at an address.
type Cluster struct {
	*clusterv3.Cluster
	// Minor is the compile class.
	Minor uint32
	// HTTP is true when the proxy speaks HTTP to it; else it passes bytes.
	HTTP bool
	// Service and Port that are called, or nil.
	Service *model.Service
	Port    *model.Port
	// Backends, if there are any, are the Services that a TrafficSplit sends connections to in place of Service: each endpoint is
	// one of theirs.
	Backends []*model.Service
	// Version of the Service that is called; empty is all its pods.
	Version string
	// Workload is the pod that is called on WorkloadPort, or nil.
	Workload     *model.Workload
	WorkloadPort uint16
	// Warms are the resources that Envoy asks for because of the cluster.
	Warms []resource.Ref
}

// VirtualHost holds the routes of an address of a Service.
type VirtualHost struct {
	Service *model.Service
	Port    *model.Port
	// Split rules the Service; nil when no TrafficSplit of somebody else does.
	Split *model.Split
	// Routes in order: the first that matches wins. Requests that none matches go to all pods of the Service.
	Routes []*routev3.Route
	// Complete says that no request is left that none matches: all pods of the Service then need no cluster.
	Complete bool
	// Needs are the clusters that the routes point at.
	Needs []resource.Ref
	// Origins are the objects that the routes were made from.
	Origins []resource.Origin
}

// Cluster returns the name of the cluster of a version of the Service, or of all its pods, for a route to point at.
func (v *VirtualHost) Cluster(version string) string {
	return v.need(ServiceClusterName(v.Service.Key, v.Port.Number, version))
}

// BackendCluster returns the name of the cluster of another Service's pods on the same port, for a route to point at now or soon.
func (v *VirtualHost) BackendCluster(backend model.ServiceKey) string {
	return v.need(ServiceClusterName(backend, v.Port.Number, ""))
}

func (v *VirtualHost) need(name string) string {
	ref := resource.Ref{Type: resource.Cluster, Name: name}
	for _, r := range v.Needs {
		if r == ref {
			return name
		}
	}
	v.Needs = append(v.Needs, ref)
	return name
}

// OnTCPChains is CEL that is true, in the log of a listener, for connections that a filter chain took that passes bytes: those that speak
// HTTP have it in their name. What is logged or counted of connections is so once a listener and not once a chain.
const OnTCPChains = `xds.filter_chain_name != "" && !xds.filter_chain_name.contains("http")`

// OnPlaintextChains is CEL that is true, in the log of the inbound listener, for connections of chains that pass bytes and authenticate nobody: plaintext, and TLS
// that is the app's own.
const OnPlaintextChains = `xds.filter_chain_name.endsWith("/tcp") || xds.filter_chain_name.endsWith("/tls")`

// Inbound is the listener for what is sent to a pod.
type Inbound struct {
	*listenerv3.Listener
	Minor     uint32
	Workload  *model.Workload
	Namespace *model.Namespace
}

// Chain is a filter chain of the inbound listener. Exactly one of HTTP and TCP is not nil.
type Chain struct {
	Minor     uint32
	Workload  *model.Workload
	Namespace *model.Namespace
	// MutualTLS is true for connections from other sidecars, false for plaintext (or the app's own TLS).
	MutualTLS bool
	// Permissive is true for the chains of a Permissive port that take what is not mTLS.
	Permissive bool
	HTTP       *hcmv3.HttpConnectionManager
	TCP        *tcpv3.TcpProxy
	// Filters run before HTTP or TCP.
	Filters []*listenerv3.Filter
	// Socket is the chain's transport socket; nil is plaintext.
	Socket *corev3.TransportSocket
	// Warms are the resources that Envoy asks for because of the chain.
	Warms []resource.Ref
}

// Outbound is one way out of a pod: for requests or for connections. Exactly one of HTTP and TCP is not nil.
type Outbound struct {
	Minor    uint32
	Workload *model.Workload
	HTTP     *hcmv3.HttpConnectionManager
	TCP      *tcpv3.TcpProxy
	// Loops is true where requests may be sent through the reroute listener, which sees them once more; those have HopHeader when they end.
	Loops bool
}

// OutboundListener is a listener for what a pod sends, or that takes again what another one could not place.
type OutboundListener struct {
	*listenerv3.Listener
	Minor    uint32
	Workload *model.Workload
}

// PortMode returns the mTLS mode of a port of a pod.
func PortMode(w *model.Workload, port uint16) v1alpha1.MTLSMode {
	for _, p := range w.Ports {
		if p.Number == port {
			return p.Mode
		}
	}
	return w.Mode
}

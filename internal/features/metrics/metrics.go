// Package metrics has proxies count what goes through them, by who calls whom: requests, how long they took, their bytes, and
// connections. docs/metrics.md lists what comes of it.
//
// The receiving side counts everything. Who called is what the client's verified certificate says, and what was called is what the
// control plane knows of the pod; nothing that a client can choose becomes a label. The calling side counts requests, so that
// those that never arrive are seen too, and the rest only where there is no proxy on the other side to do it.
//
// Chains and ways out are configuration of each pod, so what they hold is kept small, and the same for all pods where it can
// be: what may change while a pod lives is metadata of clusters and endpoints, whose change ends no connection.
package metrics

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Prefix of the names of all statistics here.
const Prefix = "tulle"

// Metadata of clusters, routes and endpoints by which logs name a destination.
const (
	metadataNamespace = "tulle"
	serviceKey        = "service"
	namespaceKey      = "namespace"
	versionKey        = "version"
)

// loopNamespace is the metadata of a cluster that leads back into the proxy, where what it carries is counted.
const loopNamespace = "tulle.loop"

// unknown is the value of a label that nobody knows.
const unknown = "unknown"

// Feature returns the feature.
func Feature() features.Feature {
	return features.Feature{
		Name: "metrics", Cluster: cluster, Endpoint: endpoint, VirtualHost: virtualHost,
		Inbound: inbound, Chain: chain, Outbound: outbound, OutboundListener: outboundListener,
	}
}

// Loop marks a cluster by which connections lead back into the proxy. Requests that do have HopHeader.
func Loop(c *clusterv3.Cluster) {
	c.Metadata = envoy.Describe(c.Metadata, loopNamespace, map[string]string{"loop": "true"})
}

// noStatus is the key of what a listener has in the place of the first digit of a response's status.
const noStatus = "none"

// describe gives a listener what the labels of its logs say when nothing is known.
func describe(l *listenerv3.Listener) {
	l.Metadata = envoy.Describe(l.Metadata, metadataNamespace, map[string]string{unknown: unknown, noStatus: "0"})
}

// Receiver names the pod on the cluster by which it gets what it is sent.
func Receiver(c *clusterv3.Cluster, w *model.Workload) { name(c, w.Key.Namespace, w.Member) }

func cluster(c *features.Cluster) {
	switch {
	case c.Service != nil:
		name(c.Cluster, c.Service.Key.Namespace, model.Membership{Service: c.Service.Key.Name, Version: c.Version})
	case c.Workload != nil:
		name(c.Cluster, c.Workload.Key.Namespace, memberAt(c.Workload, c.WorkloadPort))
	}
}

func name(c *clusterv3.Cluster, namespace string, m model.Membership) {
	c.Metadata = envoy.Describe(c.Metadata, metadataNamespace, map[string]string{
		serviceKey: known(m.Service), namespaceKey: known(namespace), versionKey: m.Version,
	})
}

// Outside says of a cluster that it leads to what the mesh knows nothing of.
func Outside(c *clusterv3.Cluster) { name(c, "", model.Membership{}) }

// endpoint names the version of the pod behind an address. Where the cluster names one, it is the cluster's that counts.
func endpoint(e model.Endpoint, out *endpointv3.LbEndpoint) {
	out.Metadata = envoy.Describe(out.Metadata, metadataNamespace, map[string]string{versionKey: e.Version})
}

// virtualHost names the Service on the routes that answer by themselves: those have no cluster.
func virtualHost(v *features.VirtualHost) {
	for _, r := range v.Routes {
		if r.GetDirectResponse() != nil {
			r.Metadata = envoy.Describe(r.Metadata, metadataNamespace, map[string]string{
				serviceKey: v.Service.Key.Name, namespaceKey: v.Service.Key.Namespace,
			})
		}
	}
}

// memberAt is what traffic to a port of a pod counts as traffic to.
func memberAt(w *model.Workload, port uint16) model.Membership {
	for _, p := range w.Ports {
		if p.Number == port {
			return p.Member
		}
	}
	return w.Member
}

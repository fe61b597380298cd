package features

import (
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Internal headers. An app that sets them has no effect, and none ever reaches one.
const (
	// DestinationHeader holds the name of the cluster, and of the virtual host, of the address that a request was sent to.
	DestinationHeader = "x-tulle-destination"
	// HopHeader marks a request that came through the reroute listener.
	HopHeader = "x-tulle-hop"
)

// ALPN between sidecars: what the client's proxy will speak inside of mTLS.
const (
	ALPNHTTP = "tulle-http"
	ALPNTCP  = "tulle-tcp"
)

// Secrets that every proxy has.
const (
	// WorkloadSecret is the proxy's own certificate. It belongs to the stream; nothing here makes it.
	WorkloadSecret = "workload"
	// PeersSecret is what a client's certificate must be.
	PeersSecret = "peers"
)

// EndpointsName names the endpoints of a version of a Service, or of all its pods.
func EndpointsName(s model.ServiceKey, port uint16, version string) string {
	return s.Namespace + "/" + s.Name + "|" + strconv.Itoa(int(port)) + "|" + version
}

// SplitEndpointsName names the endpoints that a TrafficSplit gives the clients of a Service's port, for connections. It says of which
// backends, by name, and whether of those too that are called in plaintext, since that is what a cluster has sockets for.
func SplitEndpointsName(root model.ServiceKey, port uint16, backends []string, plaintext bool) string {
	sockets := SplitMutualTLS
	if plaintext {
		sockets = SplitPlaintext
	}
	return SplitPrefix + root.Namespace + "/" + root.Name + "|" + strconv.Itoa(int(port)) + "|" + sockets + "|" + strings.Join(backends, ",")
}

// Parts of the names of SplitEndpointsName.
const (
	SplitPrefix    = "split|"
	SplitMutualTLS = "mtls"
	SplitPlaintext = "plaintext"
)

// ServiceClusterName names the cluster of a version of a Service, or of all its pods, that virtual hosts point at.
func ServiceClusterName(s model.ServiceKey, port uint16, version string) string {
	return "svc|" + EndpointsName(s, port, version)
}

// ServiceSecretName names what the certificate of a Service's pods must be.
func ServiceSecretName(s model.ServiceKey) string { return "service|" + s.Namespace + "/" + s.Name }

// AccountSecretName names what the certificate of a pod of a service account must be.
func AccountSecretName(namespace, account string) string {
	return "account|" + namespace + "/" + account
}

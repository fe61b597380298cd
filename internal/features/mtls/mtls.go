// Package mtls makes connections between sidecars mutually authenticated TLS.
//
// mTLS is the transport socket that a cluster has if nothing is said. Plaintext has to be said, of a single endpoint, and a cluster of a
// Strict port does not know how.
package mtls

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// plaintextKey is the metadata of endpoints that are called in plaintext, backendKey that of endpoints of a split that have to prove that they
// are the backend's.
const (
	plaintextKey = "tulle.plaintext"
	backendKey   = "tulle.backend"
)

// Feature returns the feature.
func Feature() features.Feature {
	return features.Feature{Name: "mtls", Cluster: cluster, Endpoint: endpoint, SplitEndpoint: splitEndpoint, Chain: chain}
}

// Access is how a pod may be called.
type Access uint8

// The ways to call a pod.
const (
	// None: the port is Strict and the pod has no sidecar.
	None Access = iota
	Plaintext
	MutualTLS
)

// PodAccess returns how a port of a pod is called by its address.
func PodAccess(w *model.Workload, port uint16) Access {
	mode := features.PortMode(w, port)
	switch {
	case w.Meshed && mode != v1alpha1.MTLSDisabled:
		return MutualTLS
	case mode == v1alpha1.MTLSStrict:
		return None
	default:
		return Plaintext
	}
}

func cluster(c *features.Cluster) {
	switch {
	case len(c.Backends) > 0:
		split(c)
	case c.Service != nil:
		secure(c, features.ServiceSecretName(c.Service.Key))
		if c.Port.Mode != v1alpha1.MTLSStrict {
			envoy.AllowPlaintext(c.Cluster, plaintextKey)
		}
	case PodAccess(c.Workload, c.WorkloadPort) == MutualTLS:
		secure(c, features.AccountSecretName(c.Workload.Key.Namespace, c.Workload.ServiceAccount))
	}
}

// split expects of each endpoint the identities of its own Service. An endpoint of which nobody says whose it is would have to have one of
// the root's.
func split(c *features.Cluster) {
	secure(c, features.ServiceSecretName(c.Service.Key))
	if PlaintextBackends(c.Backends, c.Port.Number) {
		envoy.AllowPlaintext(c.Cluster, plaintextKey)
	}
	for _, s := range c.Backends {
		peers := features.ServiceSecretName(s.Key)
		envoy.SocketFor(c.Cluster, backendKey, backendValue(s.Key), socket(c, peers))
		for _, w := range secrets(peers) {
			if !slices.Contains(c.Warms, w) {
				c.Warms = append(c.Warms, w)
			}
		}
	}
}

// PlaintextBackends reports whether pods of the backends of a split may be called in plaintext on a port.
func PlaintextBackends(backends []*model.Service, port uint16) bool {
	return slices.ContainsFunc(backends, func(s *model.Service) bool {
		i := slices.IndexFunc(s.Ports, func(p model.Port) bool { return p.Number == port })
		return i >= 0 && s.Ports[i].Mode != v1alpha1.MTLSStrict
	})
}

// splitEndpoint says whose an endpoint is. One that is called in plaintext proves nothing.
func splitEndpoint(backend model.ServiceKey, e model.Endpoint, out *endpointv3.LbEndpoint) {
	if !e.Plaintext {
		envoy.MarkSocket(out, backendKey, backendValue(backend))
	}
}

func backendValue(s model.ServiceKey) string { return s.Namespace + "/" + s.Name }

func secure(c *features.Cluster, peers string) {
	c.TransportSocket = socket(c, peers)
	c.Warms = append(c.Warms, secrets(peers)...)
}

func socket(c *features.Cluster, peers string) *corev3.TransportSocket {
	alpn := features.ALPNTCP
	if c.HTTP {
		alpn = features.ALPNHTTP
	}
	return envoy.ClientTLS(contexts(peers, c.Minor), alpn)
}

func endpoint(e model.Endpoint, out *endpointv3.LbEndpoint) {
	if e.Plaintext {
		out.Metadata = envoy.PlaintextMetadata(plaintextKey)
	}
}

func chain(c *features.Chain) {
	if c.MutualTLS {
		c.Socket = envoy.ServerTLS(contexts(features.PeersSecret, c.Minor))
		c.Warms = append(c.Warms, secrets(features.PeersSecret)...)
	}
}

func contexts(peers string, minor uint32) envoy.MutualTLS {
	return envoy.MutualTLS{Certificate: features.WorkloadSecret, Peers: peers, Curves: features.Curves(minor)}
}

func secrets(peers string) []resource.Ref {
	return []resource.Ref{
		{Type: resource.Secret, Name: features.WorkloadSecret},
		{Type: resource.Secret, Name: peers},
	}
}

// Peers returns the secret that accepts everybody of the trust domain, or nil as long as there are no trusted roots:
// a secret without them would accept anybody.
func Peers(name string, m *model.MeshWide) *tlsv3.Secret {
	return secret(name, m, envoy.Prefix("spiffe://"+m.TrustDomain+"/"))
}

// Identities returns the secret that accepts the given SPIFFE IDs, or nobody when there are none.
func Identities(name string, m *model.MeshWide, identities []string) *tlsv3.Secret {
	matchers := make([]*matcherv3.StringMatcher, 0, len(identities)+1)
	for _, id := range identities {
		matchers = append(matchers, envoy.Exact(id))
	}
	if len(matchers) == 0 {
		// An empty list would accept anybody whom the roots signed. No certificate is issued for this one.
		matchers = append(matchers, envoy.Exact("spiffe://"+m.TrustDomain+"/nobody"))
	}
	return secret(name, m, matchers...)
}

// AccountIdentity returns the SPIFFE ID of a service account.
func AccountIdentity(m *model.MeshWide, namespace, account string) string {
	return "spiffe://" + m.TrustDomain + "/ns/" + namespace + "/sa/" + account
}

func secret(name string, m *model.MeshWide, uris ...*matcherv3.StringMatcher) *tlsv3.Secret {
	if len(m.TrustBundle) == 0 {
		return nil
	}
	return envoy.ValidationContext(name, m.TrustBundle, uris)
}

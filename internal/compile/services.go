package compile

import (
	"slices"
	"strings"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/features/balancing"
	"github.com/tulle-mesh/tulle/internal/features/mtls"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// virtualHostName names the virtual host of an address.
func virtualHostName(a addressName) string {
	return outboundRoutes + "/" + httpPrefix + a.address.String()
}

// virtualHost holds the HTTP rules of an address. It exists for every port of a Service, also of one without rules: a proxy keeps it for as
// long as its cluster is still a loop.
func (c compilation) virtualHost(ref resource.Ref) (*resource.Resource, error) {
	if ref.Name == noneVirtualHost {
		return seal(ref, &routev3.VirtualHost{Name: ref.Name, Domains: []string{"none"}}, resource.Resource{})
	}
	name, ok := strings.CutPrefix(ref.Name, outboundRoutes+"/")
	if !ok {
		return nil, nil
	}
	a, ok := parseAddress(name)
	if !ok || !a.http() {
		return nil, nil
	}
	d := c.Address(a.address)
	if d.Kind != model.ServicePort {
		return nil, nil
	}
	v := &features.VirtualHost{Service: d.Service, Port: d.Port, Split: d.Split}
	if hasRules(d) {
		v.Origins = meshOrigin(d.Service)
		for _, f := range c.features {
			if f.VirtualHost != nil {
				f.VirtualHost(v)
			}
		}
	}
	if !v.Complete {
		v.Routes = append(v.Routes,
			envoy.ToCluster(envoy.EveryRequest(), v.Cluster("")),
			envoy.ToCluster(envoy.EveryConnect(), v.Cluster("")))
	}
	return seal(ref, &routev3.VirtualHost{
		Name:        ref.Name,
		Domains:     []string{a.name},
		Routes:      v.Routes,
		RetryPolicy: envoy.RetryUnsent(),
	}, resource.Resource{Needs: v.Needs, Origins: v.Origins})
}

// endpoints are those of a version of a Service that may be called: in plaintext or by mTLS. There is always an answer, so that a cluster
// that waits for it does not wait in vain.
func (c compilation) endpoints(ref resource.Ref) (*resource.Resource, error) {
	if strings.HasPrefix(ref.Name, features.SplitPrefix) {
		return c.splitEndpoints(ref)
	}
	n, ok := parseService(ref.Name)
	if !ok {
		return nil, nil
	}
	// Of a version that is no more, a proxy keeps the endpoints that it has for as long as its old rules point at them.
	if n.version != "" && !c.hasVersion(n) {
		return nil, nil
	}
	var list []model.Endpoint
	if all := c.Endpoints(n.key); all != nil {
		for _, e := range all.Ports[n.port] {
			if (e.Proxied || e.Plaintext) && (n.version == "" || slices.Contains(e.Versions, n.version)) {
				if n.version != "" {
					e.Version = "" // the clusters of a version say it themselves
				}
				list = append(list, e)
			}
		}
	}
	return seal(ref, balancing.Assign(ref.Name, list, c.endpoint), resource.Resource{})
}

func (c compilation) hasVersion(n serviceName) bool {
	s := c.Service(n.key)
	return s != nil && slices.ContainsFunc(s.Versions, func(v model.Version) bool { return v.Name == n.version })
}

func (c compilation) endpoint(e model.Endpoint) *endpointv3.LbEndpoint {
	out := envoy.Endpoint(envoy.SocketAddress(e.Address))
	for _, f := range c.features {
		if f.Endpoint != nil {
			f.Endpoint(e, out)
		}
	}
	return out
}

// secret says what the certificate of another proxy must be. There is none as long as the mesh has no trusted roots: everything that is
// encrypted waits for them.
func (c compilation) secret(ref resource.Ref) (*resource.Resource, error) {
	s := c.validation(ref.Name)
	if s == nil {
		return nil, nil
	}
	return seal(ref, s, resource.Resource{})
}

func (c compilation) validation(name string) *tlsv3.Secret {
	if name == features.PeersSecret {
		return mtls.Peers(name, c.MeshWide())
	}
	kind, rest, _ := strings.Cut(name, "|")
	key, ok := parseKey(rest)
	if !ok {
		return nil
	}
	switch kind {
	case "service":
		var identities []string
		if s := c.Service(key); s != nil {
			identities = s.Identities
		}
		return mtls.Identities(name, c.MeshWide(), identities)
	case "account":
		m := c.MeshWide()
		return mtls.Identities(name, m, []string{mtls.AccountIdentity(m, key.Namespace, key.Name)})
	default:
		return nil
	}
}

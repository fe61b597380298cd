package model

import (
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// Built-in values of what the root Mesh may set.
const (
	defaultTrustDomain         = "cluster.local"
	defaultCertificateDuration = 24 * time.Hour
	defaultConcurrency         = 2
	defaultLogLevel            = "warning"
	defaultDrainDuration       = 5 * time.Second
)

// leastCertificateDuration leaves time to bring the next certificate to a busy proxy, and no room for clocks that differ.
const leastCertificateDuration = 10 * time.Second

// meshWide is what other nodes depend on of what is mesh-wide.
type meshWide struct {
	domain                   string
	serviceRanges, podRanges []netip.Prefix
	ranges                   []netip.Prefix // both
}

func (b *Builder) root() *mesh {
	if ns := b.namespaces[b.config.OperatorNamespace]; ns != nil {
		return ns.meshes[v1alpha1.RootName]
	}
	return nil
}

// rootSpec is never nil, and its parts neither.
func (b *Builder) rootSpec() (v1alpha1.TrustSpec, v1alpha1.NetworkSpec, v1alpha1.EnvoySpec) {
	var wide v1alpha1.MeshWideSpec
	if root := b.root(); root != nil {
		wide = deref(root.spec.MeshWide)
	}
	return deref(wide.Trust), deref(wide.Network), deref(wide.Envoy)
}

// resolveRoot finds what namespaces, services and workloads depend on of the root Mesh.
func (b *Builder) resolveRoot() {
	if !b.dirty.meshWide {
		return
	}
	trust, network, _ := b.rootSpec()
	wide := meshWide{
		domain:        trustDomain(trust),
		serviceRanges: specPrefixes(network.ServiceRanges),
		podRanges:     specPrefixes(network.PodRanges),
	}
	for _, ranges := range b.serviceCIDRs {
		wide.serviceRanges = append(wide.serviceRanges, ranges...)
	}
	for _, m := range b.nodes {
		wide.podRanges = append(wide.podRanges, m.podRanges...)
	}
	wide.serviceRanges, wide.podRanges = mergePrefixes(wide.serviceRanges), mergePrefixes(wide.podRanges)
	wide.ranges = mergePrefixes(slices.Concat(wide.serviceRanges, wide.podRanges))
	if reflect.DeepEqual(wide, b.wide) {
		return
	}
	if wide.domain != b.wide.domain {
		for key := range b.services {
			b.dirty.services[key] = true
		}
	}
	b.wide = wide
	for key := range b.rangedServices {
		b.dirty.services[key] = true
	}
	for key := range b.rangedWorkloads {
		b.dirty.workloads[key] = true
	}
}

func (b *Builder) resolveMeshWide() {
	if !b.dirty.meshWide {
		return
	}
	b.dirty.meshWide = false
	trust, network, proxy := b.rootSpec()
	wide := &MeshWide{
		TrustDomain:         b.wide.domain,
		TrustBundle:         b.trust,
		CertificateDuration: certificateDuration(trust),
		ServiceRanges:       b.wide.serviceRanges,
		PodRanges:           b.wide.podRanges,
		PodRangesNamed:      len(specPrefixes(network.PodRanges)) > 0,
		ServerFirstPorts:    serverFirstPorts(network),
		EnvoyImage:          b.config.EnvoyImage,
		Issuer:              trust.IssuerRef,
	}
	if proxy.Image != "" && validImage(proxy.Image) {
		wide.EnvoyImage = proxy.Image
	}
	b.put(Key{Kind: KindMeshWide}, wide)
}

func serverFirstPorts(network v1alpha1.NetworkSpec) []uint16 {
	ports := wellKnownServerFirst()
	for _, p := range network.ServerFirstPorts {
		if number, ok := portNumber(int32(p)); ok {
			ports = append(ports, number)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func trustDomain(t v1alpha1.TrustSpec) string {
	if t.Domain == "" || !validTrustDomain(t.Domain) {
		return defaultTrustDomain
	}
	return t.Domain
}

func certificateDuration(t v1alpha1.TrustSpec) time.Duration {
	if t.CertificateDuration != nil {
		if d, ok := parseDuration(*t.CertificateDuration); ok && d >= leastCertificateDuration {
			return d
		}
	}
	return defaultCertificateDuration
}

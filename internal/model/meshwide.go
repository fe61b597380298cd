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

// maxSkippedPorts bounds MeshWide.ServerFirstPorts, of which every pod carries a copy.
const maxSkippedPorts = 256

// meshWide is what other nodes depend on of what is mesh-wide.
type meshWide struct {
	domain                   string
	serviceRanges, podRanges []netip.Prefix
	ranges                   []netip.Prefix // both
}

// declaration counts the Service ports of one number that say what they speak.
type declaration struct{ tcp, http int }

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

// resolveMeshWide comes last, since it also says what all Services declare.
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
		ServerFirstPorts:    b.serverFirstPorts(network),
		EnvoyImage:          b.config.EnvoyImage,
		Issuer:              trust.IssuerRef,
	}
	if proxy.Image != "" && validImage(proxy.Image) {
		wide.EnvoyImage = proxy.Image
	}
	b.put(Key{Kind: KindMeshWide}, wide)
}

func (b *Builder) serverFirstPorts(network v1alpha1.NetworkSpec) []uint16 {
	ports := wellKnownServerFirst()
	for _, p := range network.ServerFirstPorts {
		if number, ok := portNumber(int32(p)); ok {
			ports = append(ports, number)
		}
	}
	var declared []uint16
	for number, d := range b.declared {
		if d.tcp > 0 && d.http == 0 && !slices.Contains(ports, number) {
			declared = append(declared, number)
		}
	}
	slices.Sort(declared)
	ports = append(ports, declared[:min(len(declared), maxSkippedPorts-min(len(ports), maxSkippedPorts))]...)
	slices.Sort(ports)
	return slices.Compact(ports)
}

// declare counts what a Service's ports say, instead of what they said before.
func (b *Builder) declare(old, now []Port) {
	b.count(old, -1)
	b.count(now, 1)
}

func (b *Builder) count(ports []Port, delta int) {
	for _, p := range ports {
		before := b.declared[p.Number]
		after := before
		switch p.Protocol {
		case TCP:
			after.tcp += delta
		case HTTP:
			after.http += delta
		case Unknown:
		}
		if after == (declaration{}) {
			delete(b.declared, p.Number)
		} else {
			b.declared[p.Number] = after
		}
		if (before.tcp > 0 && before.http == 0) != (after.tcp > 0 && after.http == 0) {
			b.dirty.meshWide = true
		}
	}
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

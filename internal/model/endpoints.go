package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// backend is one address behind a Service, as one of its slices lists it.
type backend struct {
	sliceEndpoint
	slice string
	ports map[uint16]uint16 // from the Service's ports to the pod's
	// pod is who owns the address; nil when that is nobody known, or not one of the namespace.
	pod      *pod
	workload *Workload
	versions []string
	version  string
	stray    string // not empty: why the address can't be this Service's
	// contested is true when a pod of another namespace has the address that the pod reports: whoever is there has to prove by
	// its certificate that it is the Service's.
	contested bool
	// modes are those of the pod's ports; open is true when it may be called in plaintext on ports that are not Strict.
	mode func(port uint16) v1alpha1.MTLSMode
	open bool
}

// backends returns what the slices of a Service list in its primary address family, in a stable order. What a slice says
// of an address is not trusted, except to leave it out: who owns it is what the pods themselves say.
func (b *Builder) backends(s *service, ns *namespace) []backend {
	var found []backend
	all := b.slicesOf[s.key]
	names := slices.SortedFunc(maps.Keys(all), func(x, y types.NamespacedName) int { return strings.Compare(x.Name, y.Name) })
	family := primaryFamily(s, all)
	for _, name := range names {
		slice := all[name]
		if slice.family != family {
			continue
		}
		ports := map[uint16]uint16{}
		for _, p := range s.ports {
			if target, ok := slice.ports[p.name]; ok {
				ports[p.number] = target
			}
		}
		for _, e := range slice.endpoints {
			found = append(found, b.backend(s, ns, backend{sliceEndpoint: e, slice: slice.name, ports: ports}))
		}
	}
	return found
}

// primaryFamily is what the API server gave the Service, else IPv4 if any slice has it.
func primaryFamily(s *service, all map[types.NamespacedName]*endpointSlice) corev1.IPFamily {
	if s.family != "" {
		return s.family
	}
	for _, slice := range all {
		if slice.family == corev1.IPv4Protocol {
			return slice.family
		}
	}
	return corev1.IPv6Protocol
}

func (b *Builder) backend(s *service, ns *namespace, e backend) backend {
	p, other := b.claimant(e.address, s.key.Namespace), b.serviceAt(e.address)
	switch {
	case e.special != "":
		e.stray = "is no address that everybody can reach"
	case other != nil:
		e.stray = fmt.Sprintf("is the cluster IP of Service %s/%s", other.key.Namespace, other.key.Name)
	case p != nil && p.key.Namespace != s.key.Namespace:
		e.stray = fmt.Sprintf("belongs to pod %s/%s", p.key.Namespace, p.key.Name)
	case p == nil && e.foreign:
		e.stray = "refers to a pod of another namespace"
	case p != nil:
		e.pod = p
		holder := b.podAt(e.address)
		e.contested = holder != nil && holder.key.Namespace != p.key.Namespace
		e.workload, _ = b.workloadOf(p.key)
		e.mode = e.workload.mode
		e.open = !e.workload.Meshed
		e.versions = ns.versionsOf(s, p)
		e.version = versionOf(e.versions, p)
	default:
		e.mode = ns.settings.mode
		// A pod that is not known yet may have a sidecar. A node's address is known by its Node and the pods that share it.
		known := len(b.podsAt[e.address])+len(b.nodesAt[e.address]) > 0
		young := (e.sliceEndpoint.pod || contains(b.wide.podRanges, e.address)) && !known
		e.open = !young || !ns.settings.node.Meshed
	}
	return e
}

func (b *Builder) workloadOf(key WorkloadKey) (*Workload, bool) {
	e, ok := b.tree.Get(entry{key: key.Key()})
	if !ok {
		return nil, false
	}
	w, ok := e.value.(*Workload)
	return w, ok
}

func (n *namespace) versionsOf(s *service, p *pod) []string {
	c := n.settings.claims[s.key.Name]
	if c == nil {
		return nil
	}
	var names []string
	for _, v := range c.versions {
		if includes(p.labels, v.Labels) {
			names = append(names, v.Name)
		}
	}
	return names
}

// endpoint returns how to call a port; false when it must not be called.
func (e *backend) endpoint(port uint16) (Endpoint, bool) {
	if e.stray != "" || !e.usable {
		return Endpoint{}, false
	}
	found := Endpoint{Address: netip.AddrPortFrom(e.address, port), Versions: e.versions, Version: e.version, Draining: e.draining, Zone: e.zone}
	if found.Zone == "" && e.workload != nil {
		found.Zone = e.workload.Zone
	}
	switch mode := e.mode(port); {
	case mode == v1alpha1.MTLSDisabled, e.open && mode != v1alpha1.MTLSStrict:
		if e.contested {
			return Endpoint{}, false
		}
		found.Plaintext = true
	case e.workload != nil && e.workload.Meshed:
		found.Proxied = true
	default:
		return Endpoint{}, false
	}
	return found, true
}

func endpoints(s *service, backends []backend) *Endpoints {
	node := &Endpoints{Service: s.key, Ports: map[uint16][]Endpoint{}}
	for _, port := range s.ports {
		if _, twice := node.Ports[port.number]; twice {
			continue
		}
		var list []Endpoint
		for i := range backends {
			e := &backends[i]
			if target, ok := e.ports[port.number]; ok {
				if found, ok := e.endpoint(target); ok {
					list = append(list, found)
				}
			}
		}
		node.Ports[port.number] = sortEndpoints(list)
	}
	return node
}

// sortEndpoints orders endpoints by address. One that moves from one slice to another may be in both for a moment; then
// it is as good as the better of the two.
func sortEndpoints(list []Endpoint) []Endpoint {
	slices.SortStableFunc(list, func(a, b Endpoint) int {
		if c := a.Address.Compare(b.Address); c != 0 {
			return c
		}
		switch {
		case a.Draining == b.Draining:
			return 0
		case b.Draining:
			return -1
		}
		return 1
	})
	return slices.CompactFunc(list, func(a, b Endpoint) bool { return a.Address == b.Address })
}

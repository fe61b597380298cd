package model

import (
	"net/netip"
)

// owner says who owns an address: a Service whose cluster IP it is, before a pod.
type owner struct {
	service  ServiceKey
	workload WorkloadKey
}

func addressKey(a netip.Addr) Key { return Key{Kind: KindAddress, Name: a.String()} }

func (b *Builder) resolveAddresses() {
	for a := range b.dirty.addresses {
		switch s, p := b.serviceAt(a), b.podAt(a); {
		case s != nil:
			b.put(addressKey(a), &owner{service: s.key})
		case p != nil:
			b.put(addressKey(a), &owner{workload: p.key})
		default:
			b.put(addressKey(a), nil)
		}
	}
	b.dirty.addresses = map[netip.Addr]bool{}
}

// serviceAt returns the Service whose cluster IP an address is. The API server gives an address to one Service only; while
// the news of that are incomplete, the older Service keeps it.
func (b *Builder) serviceAt(a netip.Addr) *service {
	var best *service
	for _, s := range b.servicesAt[a] {
		if best == nil || s.created.Before(best.created) || s.created.Equal(best.created) && s.key.compare(best.key) < 0 {
			best = s
		}
	}
	return best
}

// podAt returns the pod whose own address it is. Of several, of which only one can still be there, it is the youngest
// one that is not terminating. An address that pods share with their node is none of a pod.
func (b *Builder) podAt(a netip.Addr) *pod {
	var best *pod
	for _, p := range b.podsAt[a] {
		if !p.hostNetwork && (best == nil || p.owns(best)) {
			best = p
		}
	}
	return best
}

// owns reports whether p, rather than o, has an address that both report.
func (p *pod) owns(o *pod) bool {
	switch {
	case p.terminating != o.terminating:
		return o.terminating
	case !p.created.Equal(o.created):
		return p.created.After(o.created)
	}
	return p.key.compare(o.key) < 0
}

package model

import (
	"net/netip"
	"slices"
)

// owner says who owns an address: a Service whose cluster IP it is, before a pod.
type owner struct {
	service  ServiceKey
	workload WorkloadKey
	// vanished is true for the cluster IP of a Service that is gone: nobody is there.
	vanished bool
}

// maxVanished bounds the cluster IPs of gone Services that are remembered.
const maxVanished = 4096

// vanished remembers the cluster IPs of Services that went, the oldest first. It matters where no known range covers them:
// a client that still calls one must get an error, and not a plaintext connection past the mesh. It is the only thing here
// that depends on the past; a control plane that starts later and knows the ranges says the same.
type vanished struct {
	order []netip.Addr
	known map[netip.Addr]bool
}

// add remembers an address, and returns the one that it forgets for that; false when it forgets none.
func (v *vanished) add(a netip.Addr) (netip.Addr, bool) {
	if v.known[a] {
		return netip.Addr{}, false
	}
	v.known[a] = true
	v.order = append(v.order, a)
	if len(v.order) <= maxVanished {
		return netip.Addr{}, false
	}
	oldest := v.order[0]
	v.order = v.order[1:]
	delete(v.known, oldest)
	return oldest, true
}

// remove forgets an address that somebody owns again.
func (v *vanished) remove(a netip.Addr) {
	if v.known[a] {
		delete(v.known, a)
		v.order = slices.DeleteFunc(v.order, func(o netip.Addr) bool { return o == a })
	}
}

func addressKey(a netip.Addr) Key { return Key{Kind: KindAddress, Name: a.String()} }

func (b *Builder) resolveAddresses() {
	for a := range b.dirty.addresses {
		switch s, p := b.serviceAt(a), b.podAt(a); {
		case s != nil:
			b.vanished.remove(a)
			b.put(addressKey(a), &owner{service: s.key})
		case p != nil:
			b.vanished.remove(a)
			b.put(addressKey(a), &owner{workload: p.key})
		case b.vanished.known[a]:
			b.put(addressKey(a), &owner{vanished: true})
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

package model

import "net/netip"

// span is the node of the neighbourhood of known addresses (see neighbourhood).
type span struct{}

// neighbourhood returns the range around an address in which others of its kind are likely: nodes, and the IPAM of most
// CNIs, hand out addresses in blocks of about that size. Only private addresses have one, since others are not asked about
// unless a range says so.
//
// It stands in for ranges that nobody found: node pod CIDRs are absent or wrong with several CNIs, and ServiceCIDR objects
// are younger than Kubernetes. All that follows from it is that an unknown address there is looked at twice (UnknownPod).
func neighbourhood(a netip.Addr) (netip.Prefix, bool) {
	if !isPrivate(a) {
		return netip.Prefix{}, false
	}
	bits := 64
	if a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

func spanKey(p netip.Prefix) Key { return Key{Kind: KindSpan, Name: p.String()} }

// inhabit counts the owners that came into (1) or left (-1) the neighbourhoods of addresses.
func (b *Builder) inhabit(addresses []netip.Addr, by int) {
	for _, a := range addresses {
		p, ok := neighbourhood(a)
		if !ok {
			continue
		}
		if b.inhabited[p] += by; b.inhabited[p] == 0 {
			delete(b.inhabited, p)
		}
		b.dirty.spans[p] = true
	}
}

func (b *Builder) resolveSpans() {
	for p := range b.dirty.spans {
		if b.inhabited[p] > 0 {
			b.put(spanKey(p), &span{})
		} else {
			b.put(spanKey(p), nil)
		}
	}
	b.dirty.spans = map[netip.Prefix]bool{}
}

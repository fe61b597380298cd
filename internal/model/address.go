package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// owner says who owns an address: a Service whose cluster IP it is, before a pod, before a node.
type owner struct {
	kind ownerKind
	// Of a Service or a pod; of a Node only the name. There is one for each address of a pod, so that it has no room for what it is not.
	cluster, namespace, name string
}

type ownerKind uint8

const (
	ownedByService ownerKind = iota
	ownedByWorkload
	ownedByNode // and by no pod as its own
	// ownerVanished: it is the cluster IP of a Service that is gone, and nobody is there.
	ownerVanished
)

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
			b.put(addressKey(a), &owner{ownedByService, s.key.Cluster, s.key.Namespace, s.key.Name})
		case p != nil:
			b.vanished.remove(a)
			b.put(addressKey(a), &owner{ownedByWorkload, p.key.Cluster, p.key.Namespace, p.key.Name})
		case len(b.nodesAt[a]) > 0:
			b.vanished.remove(a)
			b.put(addressKey(a), &owner{kind: ownedByNode, name: slices.Min(slices.Collect(maps.Keys(b.nodesAt[a])))})
		case b.vanished.known[a]:
			b.put(addressKey(a), &owner{kind: ownerVanished})
		default:
			b.put(addressKey(a), nil)
		}
		for key, p := range b.podsAt[a].all() {
			b.noteTaken(b.namespaces[key.Namespace], p)
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

// podAt returns the pod whose own address it is. Of several, of which only one can be there, it is one that is not
// terminating. Namespaces do not take addresses from each other: the one whose pod is the oldest of these keeps it, and has
// it for its youngest, since the older ones of the same namespace are about to go.
func (b *Builder) podAt(a netip.Addr) *pod {
	var first *pod
	for _, p := range b.podsAt[a].all() {
		if b.mayOwn(p, a) && (first == nil || p.precedes(first)) {
			first = p
		}
	}
	if first == nil {
		return nil
	}
	return b.podOf(a, first.key.Namespace)
}

// podOf returns the pod of one namespace that has the address, if only that namespace's word counts.
func (b *Builder) podOf(a netip.Addr, namespace string) *pod {
	var best *pod
	for _, p := range b.podsAt[a].all() {
		if p.key.Namespace == namespace && b.mayOwn(p, a) && (best == nil || p.replaces(best)) {
			best = p
		}
	}
	return best
}

// mayOwn reports whether an address that a pod reports can be its own. The address of a node is the node's and of the pods
// that share it; where a pod has a machine of its own, that is the node on which it runs.
func (b *Builder) mayOwn(p *pod, a netip.Addr) bool {
	nodes := b.nodesAt[a]
	return !p.hostNetwork && (len(nodes) == 0 || nodes[p.node])
}

// precedes orders pods that report one address, for choosing the namespace that has it.
func (p *pod) precedes(o *pod) bool {
	switch {
	case p.terminating != o.terminating:
		return o.terminating
	case !p.created.Equal(o.created):
		return p.created.Before(o.created)
	}
	return p.key.compare(o.key) < 0
}

// replaces orders pods of one namespace that report one address.
func (p *pod) replaces(o *pod) bool {
	switch {
	case p.terminating != o.terminating:
		return o.terminating
	case !p.created.Equal(o.created):
		return p.created.After(o.created)
	}
	return p.key.compare(o.key) < 0
}

// claimant returns the pod that an endpoint of a namespace's Services stands for: one of the namespace itself rather than
// one of another, so that nobody takes a Service's pods from it by reporting their addresses (see backend.contested).
func (b *Builder) claimant(a netip.Addr, namespace string) *pod {
	own, holder := b.podOf(a, namespace), b.podAt(a)
	if own == nil || holder != nil && own.terminating && !holder.terminating {
		return holder
	}
	return own
}

// noteTaken keeps whether somebody else has an address that a pod reports.
func (b *Builder) noteTaken(ns *namespace, p *pod) {
	_, _, taken := b.taken(p)
	b.note(ns, ns.taken, p.key, taken)
	if taken {
		b.dirty.summaries[ns.name] = true // who has it may be another than before
	}
}

// taken returns the first address of a pod that somebody outside of its namespace has, and who that is.
func (b *Builder) taken(p *pod) (netip.Addr, string, bool) {
	if p.hostNetwork || p.terminating {
		return netip.Addr{}, "", false
	}
	for _, a := range p.addresses {
		if s := b.serviceAt(a); s != nil {
			return a, fmt.Sprintf("the cluster IP of Service %s/%s", s.key.Namespace, s.key.Name), true
		}
		if !b.mayOwn(p, a) {
			return a, "the address of a node that the pod does not run on", true
		}
		if o := b.podAt(a); o != nil && o.key.Namespace != p.key.Namespace {
			return a, fmt.Sprintf("the address of pod %s/%s, which had it first", o.key.Namespace, o.key.Name), true
		}
	}
	return netip.Addr{}, "", false
}

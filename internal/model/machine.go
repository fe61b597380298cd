package model

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// addressesOf returns a Node's own addresses, from where its processes, and pods in its network, connect.
func addressesOf(o *corev1.Node) []netip.Addr {
	var addresses []netip.Addr
	for _, a := range o.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			addresses = append(addresses, ip.Unmap())
		}
	}
	return addresses
}

func machineKey(a netip.Addr) Key { return Key{Kind: kindMachine, Name: a.String()} }

// moveMachine makes addresses those of a Node that had others before.
func (b *Builder) moveMachine(name string, before, now []netip.Addr) {
	for _, a := range before {
		e, _ := b.tree.Get(entry{key: machineKey(a)})
		if e.value == name && !slices.Contains(now, a) {
			b.put(machineKey(a), nil)
		}
	}
	for _, a := range now {
		b.put(machineKey(a), name)
	}
}

// NodeAt returns the name of the Node whose own address a is; false when it is no Node's.
func (s *Snapshot) NodeAt(a netip.Addr) (string, bool) {
	return get[string](s, machineKey(a.Unmap()))
}

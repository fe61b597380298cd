package model

import (
	"net/netip"
	"slices"
)

func machineKey(a netip.Addr) Key { return Key{Kind: kindMachine, Name: a.String()} }

// moveMachine makes addresses those of a Node that had others before. From there its processes connect, and the pods in its network.
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

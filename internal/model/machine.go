package model

import "net/netip"

// NodeAt returns the name of the Node whose own address a is; false when it is no Node's. From there its processes connect, and the
// pods in its network.
func (s *Snapshot) NodeAt(a netip.Addr) (string, bool) {
	o, _ := get[*owner](s, addressKey(a.Unmap()))
	if o == nil || o.kind != ownedByNode {
		return "", false
	}
	return o.name, true
}

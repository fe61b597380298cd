package model

import "net/netip"

// Succeed makes a new builder go on where another one ended: its first snapshot comes after last, and names as changed all that
// either of them has. Readers of the older snapshots thus look again, and find most of it as it was. A cluster IP that the last snapshot
// knew stays one of which nobody is there, unless somebody is.
func (b *Builder) Succeed(last *Snapshot) {
	if last == nil {
		return
	}
	b.last = last
	last.tree.Scan(func(e entry) bool {
		if !e.key.Kind.internal() {
			b.changed[e.key] = true
		}
		if o, ok := e.value.(*owner); ok && (o.kind == ownerVanished || o.kind == ownedByService) {
			b.remember(e.key.Name)
		}
		return true
	})
	b.dirty.internal = true
}

func (b *Builder) remember(clusterIP string) {
	if a, err := netip.ParseAddr(clusterIP); err == nil {
		b.vanished.add(a)
		b.dirty.addresses[a] = true
	}
}

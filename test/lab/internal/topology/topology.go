// Package topology says what a lab looks like: its nodes, names and address
// ranges. It is the one place where they are chosen.
package topology

import (
	"fmt"
	"net/netip"
)

// Cluster is a lab. IPv6 fields are zero when the machine has no IPv6.
type Cluster struct {
	Domain       string
	PodRanges    []netip.Prefix
	ServiceRange []netip.Prefix
	// Nodes has the control plane's node first.
	Nodes []Node
}

// Node is one machine of the lab: a kubelet and a container runtime in
// namespaces of their own.
type Node struct {
	Name string
	// Addresses are the node's own, with the length of the network that joins
	// the nodes.
	Addresses []netip.Prefix
	// PodRanges are the node's parts of the cluster's pod ranges.
	PodRanges []netip.Prefix
}

// New returns a lab with one node, dual-stack unless the machine lacks IPv6.
func New(ipv6 bool) Cluster {
	c := Cluster{
		Domain:       "cluster.local",
		PodRanges:    prefixes(ipv6, "10.244.0.0/16", "fd00:244::/56"),
		ServiceRange: prefixes(ipv6, "10.96.0.0/16", "fd00:96::/112"),
	}
	c.Nodes = []Node{c.node("lab", 0, ipv6)}
	return c
}

// node makes the node with this index, which decides its addresses: node i has
// 10.77.0.(i+1) and the i-th /24 and /64 of the pod ranges.
func (c Cluster) node(name string, index int, ipv6 bool) Node {
	return Node{
		Name:      name,
		Addresses: prefixes(ipv6, fmt.Sprintf("10.77.0.%d/24", index+1), fmt.Sprintf("fd00:77::%x/64", index+1)),
		PodRanges: prefixes(ipv6, fmt.Sprintf("10.244.%d.0/24", index), fmt.Sprintf("fd00:244:0:%x::/64", index)),
	}
}

func prefixes(ipv6 bool, v4, v6 string) []netip.Prefix {
	list := []netip.Prefix{netip.MustParsePrefix(v4)}
	if ipv6 {
		list = append(list, netip.MustParsePrefix(v6))
	}
	return list
}

// APIService returns the addresses of the Service `kubernetes`: the first of
// each service range.
func (c Cluster) APIService() []netip.Addr { return c.serviceAddresses(1) }

// DNSService returns the addresses of the cluster's DNS service.
func (c Cluster) DNSService() []netip.Addr { return c.serviceAddresses(10) }

// serviceAddresses returns the n-th address of each service range, n < 256.
func (c Cluster) serviceAddresses(n byte) []netip.Addr {
	var addresses []netip.Addr
	for _, prefix := range c.ServiceRange {
		bytes := prefix.Addr().AsSlice()
		bytes[len(bytes)-1] += n
		address, _ := netip.AddrFromSlice(bytes)
		addresses = append(addresses, address)
	}
	return addresses
}

// IPv6 reports whether the lab is dual-stack.
func (c Cluster) IPv6() bool { return len(c.ServiceRange) > 1 }

// IPs returns the node's addresses without the network's length.
func (n Node) IPs() []netip.Addr {
	var addresses []netip.Addr
	for _, prefix := range n.Addresses {
		addresses = append(addresses, prefix.Addr())
	}
	return addresses
}

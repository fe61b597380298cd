package topology

import (
	"fmt"
	"testing"
)

func TestNodesHaveRangesOfTheirOwn(t *testing.T) {
	c := New(true)
	if got := fmt.Sprint(c.Nodes); got != "[{lab [10.77.0.1/24 fd00:77::1/64] [10.244.0.0/24 fd00:244::/64]}]" {
		t.Errorf("nodes %s", got)
	}
	second := c.node("lab2", 1, true)
	if got := fmt.Sprint(second); got != "{lab2 [10.77.0.2/24 fd00:77::2/64] [10.244.1.0/24 fd00:244:0:1::/64]}" {
		t.Errorf("second node %s", got)
	}
	for _, node := range []Node{c.Nodes[0], second} {
		for i, prefix := range node.PodRanges {
			if !c.PodRanges[i].Contains(prefix.Addr()) {
				t.Errorf("pods of %s are outside the cluster's %s", prefix, c.PodRanges[i])
			}
		}
	}
	if c.Nodes[0].PodRanges[0].Overlaps(second.PodRanges[0]) || c.Nodes[0].PodRanges[1].Overlaps(second.PodRanges[1]) {
		t.Error("the nodes' pod ranges overlap")
	}
}

func TestServiceAddresses(t *testing.T) {
	for _, test := range []struct {
		ipv6     bool
		api, dns string
	}{
		{true, "[10.96.0.1 fd00:96::1]", "[10.96.0.10 fd00:96::a]"},
		{false, "[10.96.0.1]", "[10.96.0.10]"},
	} {
		c := New(test.ipv6)
		if api, dns := fmt.Sprint(c.APIService()), fmt.Sprint(c.DNSService()); api != test.api || dns != test.dns {
			t.Errorf("IPv6 %t: API %s, DNS %s; want %s, %s", test.ipv6, api, dns, test.api, test.dns)
		}
	}
}

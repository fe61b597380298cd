package model

import (
	"fmt"
	"net/netip"
	"testing"
)

// rangesWorld has a Service and a pod of both families, and a pod on a node's address.
const rangesWorld = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a}
spec: {clusterIP: 10.96.7.1, clusterIPs: [10.96.7.1, "fd00:96::1"], ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: a}
spec: {nodeName: n1, containers: [{name: app}]}
status: {podIP: 172.30.5.1, podIPs: [{ip: 172.30.5.1}, {ip: "fd30:5::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: a}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: app}]}
status: {podIP: 172.30.5.200}
`

const (
	serviceCIDRs = `---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, "fd00:96::/108"]}
`
	nodeWith = `---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [%s]}
status: {addresses: [{type: InternalIP, address: 172.30.5.200}]}
`
	rootWith = `---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: tulle-system}
spec: {meshWide: {network: {%s}}}
`
)

// Where ranges come from, and what addresses in them are. Whatever is found, a known address is what it is, a node's and a
// public one are outside, and an unknown one near known ones is never taken for an outside one at once.
func TestRanges(t *testing.T) {
	t.Parallel()
	const outside, service, pod, unknownService, unknownPod = Outside, ServicePort, PodAddress, UnknownService, UnknownPod
	known := map[string]DestinationKind{
		"10.96.7.1": service, "fd00:96::1": service, "172.30.5.1": pod, "fd30:5::1": pod, "8.8.8.8": outside, "2001:db8::1": outside,
	}
	for name, test := range map[string]struct {
		yaml string
		want map[string]DestinationKind
	}{
		"ServiceCIDRs and node ranges": {serviceCIDRs + fmt.Sprintf(nodeWith, `172.30.0.0/16, "fd30:5::/64"`), map[string]DestinationKind{
			"10.96.200.1": unknownService, "fd00:96::7": unknownService, "172.30.99.1": unknownPod, "fd30:5::99": unknownPod, "192.168.1.1": outside,
			"172.30.5.200": outside,
		}},
		"no ServiceCIDRs": {fmt.Sprintf(nodeWith, "172.30.0.0/16"), map[string]DestinationKind{
			"10.96.7.2": unknownPod, "fd00:96::7": unknownPod, "10.96.200.1": outside,
		}},
		"no node ranges": {serviceCIDRs + fmt.Sprintf(nodeWith, ""), map[string]DestinationKind{
			"10.96.200.1": unknownService, "172.30.5.99": unknownPod, "fd30:5::99": unknownPod, "172.30.99.1": outside,
			"172.30.5.200": outside,
		}},
		"node ranges that the CNI ignores": {serviceCIDRs + fmt.Sprintf(nodeWith, "10.244.0.0/24"), map[string]DestinationKind{
			"172.30.5.99": unknownPod, "fd30:5::99": unknownPod, "10.244.0.9": unknownPod,
		}},
		"no ranges at all": {"", map[string]DestinationKind{
			"10.96.7.2": unknownPod, "172.30.5.99": unknownPod, "192.168.1.1": outside,
			"172.30.5.200": unknownPod, // no Node says that it is one's
		}},
		"the root's pod ranges": {serviceCIDRs + fmt.Sprintf(nodeWith, "") + fmt.Sprintf(rootWith, `podRanges: [172.30.5.0/28, "fd30:5::/120"]`), map[string]DestinationKind{
			"172.30.5.2": unknownPod, "172.30.5.99": outside, "fd30:5::99": unknownPod, "fd30:5::999": outside,
		}},
		"the root's Service ranges": {fmt.Sprintf(nodeWith, "") + fmt.Sprintf(rootWith, `serviceRanges: [10.96.0.0/16]`), map[string]DestinationKind{
			"10.96.200.1": unknownService, "fd00:96::7": unknownPod, "172.30.5.99": unknownPod,
		}},
		"a mapped address": {serviceCIDRs, map[string]DestinationKind{"::ffff:10.96.7.1": service, "::ffff:10.96.200.1": unknownService}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := NewBuilder(testConfig())
			for _, o := range parseManifests(t, name, []byte(rangesWorld+test.yaml)) {
				b.Set(o)
			}
			r := b.Snapshot().Reader()
			for _, addresses := range []map[string]DestinationKind{known, test.want} {
				for a, want := range addresses {
					if got := r.Address(netip.AddrPortFrom(netip.MustParseAddr(a), 80)).Kind; got != want {
						t.Errorf("%s is of kind %d, want %d", a, got, want)
					}
				}
			}
		})
	}
}

// A neighbourhood is one for as long as somebody is there.
func TestNeighbourhood(t *testing.T) {
	t.Parallel()
	b := NewBuilder(testConfig())
	objects := parseManifests(t, "world", []byte(rangesWorld))
	kind := func(a string) DestinationKind {
		return b.Snapshot().Reader().Address(netip.MustParseAddrPort(a)).Kind
	}
	for range 2 {
		if got := kind("172.30.5.9:80"); got != Outside {
			t.Errorf("before: %d", got)
		}
		for _, o := range objects {
			b.Set(o)
		}
		if got := kind("172.30.5.9:80"); got != UnknownPod {
			t.Errorf("with a pod near: %d", got)
		}
		for _, o := range objects {
			b.Delete(o)
		}
	}
	if got := kind("172.30.5.9:80"); got != Outside {
		t.Errorf("after: %d", got)
	}
}

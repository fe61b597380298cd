//go:build linux

package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The fabric's own addresses on its bridge: the pods' gateways.
const (
	Gateway4 = "169.254.1.1"
	Gateway6 = "fe80::1"
)

const bridgeName = "fabric"

// Fabric joins the namespaces of pods. It is a namespace with a bridge that routes between them and leads nowhere else.
type Fabric struct {
	*NS
	bridge netlink.Link
	pods   int
}

// NewFabric makes a fabric.
func NewFabric() (*Fabric, error) {
	ns, err := New()
	if err != nil {
		return nil, err
	}
	f := &Fabric{NS: ns}
	if err := ns.Do(f.setUp); err != nil {
		return nil, errors.Join(fmt.Errorf("set up the fabric: %w", err), ns.Close())
	}
	return f, nil
}

func (f *Fabric) setUp() error {
	for file, value := range map[string]string{
		"ipv4/ip_forward":              "1",
		"ipv4/conf/all/send_redirects": "0",
		"ipv4/conf/default/rp_filter":  "0",
		"ipv6/conf/all/forwarding":     "1",
		"ipv6/conf/default/accept_dad": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	// Without an address of its own a bridge takes the lowest one of its ports: when a port comes, pods that know the
	// old one would send into the void until they ask again.
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add a bridge: %w", err)
	}
	var err error
	if f.bridge, err = netlink.LinkByName(bridgeName); err != nil {
		return err
	}
	if err := addAddress(f.bridge, netip.MustParsePrefix(Gateway4+"/32")); err != nil {
		return err
	}
	if err := addAddress(f.bridge, netip.MustParsePrefix(Gateway6+"/64")); err != nil {
		return err
	}
	return netlink.LinkSetUp(f.bridge)
}

// AddPod makes the namespace of a pod with these addresses. Every destination is routed to the fabric, also those that
// nobody has, as in a cluster.
func (f *Fabric) AddPod(addresses ...netip.Addr) (*NS, error) {
	pod, err := New()
	if err != nil {
		return nil, err
	}
	f.pods++
	name := fmt.Sprintf("pod%d", f.pods)
	err = f.Do(func() error { return f.plug(pod, name, addresses) })
	if err == nil {
		err = pod.Do(func() error { return setUpPod(addresses) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up pod %v: %w", addresses, err), pod.Close())
	}
	return pod, nil
}

// RemoveRoutes forgets the addresses of a pod that is gone.
func (f *Fabric) RemoveRoutes(addresses ...netip.Addr) error {
	return f.Do(func() error {
		var errs error
		for _, a := range addresses {
			errs = errors.Join(errs, netlink.RouteDel(hostRoute(f.bridge, a)))
		}
		return errs
	})
}

// AddRange routes a range of addresses to a pod, which has all of them: a bridge could not keep that many neighbours.
func (f *Fabric) AddRange(pod *NS, via netip.Addr, r netip.Prefix) error {
	err := f.Do(func() error {
		return netlink.RouteReplace(&netlink.Route{LinkIndex: f.bridge.Attrs().Index, Dst: ipNet(r), Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	})
	if err != nil {
		return fmt.Errorf("route to %s: %w", r, err)
	}
	return pod.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		local := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(r), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL}
		if err := netlink.RouteReplace(local); err != nil {
			return fmt.Errorf("have %s: %w", r, err)
		}
		return nil
	})
}

// AddAddress gives the fabric an address that every pod reaches, for what runs outside of pods.
func (f *Fabric) AddAddress(a netip.Addr) error {
	return f.Do(func() error { return addAddress(f.bridge, netip.PrefixFrom(a, a.BitLen())) })
}

func (f *Fabric) plug(pod *NS, name string, addresses []netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, f.bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add a veth pair: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range addresses {
		if err := netlink.RouteReplace(hostRoute(f.bridge, a)); err != nil {
			return fmt.Errorf("route to %s: %w", a, err)
		}
	}
	return nil
}

func setUpPod(addresses []netip.Addr) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	v6 := false
	for _, a := range addresses {
		v6 = v6 || a.Is6()
		if err := addAddress(eth0, netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	if !v6 {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		return err
	}
	for _, a := range addresses {
		if err := netlink.RouteReplace(defaultRoute(eth0, a)); err != nil {
			return fmt.Errorf("default route for %s: %w", a, err)
		}
	}
	return nil
}

func addAddress(link netlink.Link, p netip.Prefix) error {
	// Without duplicate address detection an IPv6 address is usable at once.
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

func hostRoute(link netlink.Link, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(a, a.BitLen()))}
}

func defaultRoute(link netlink.Link, a netip.Addr) *netlink.Route {
	gateway, all := net.ParseIP(Gateway4), netip.MustParsePrefix("0.0.0.0/0")
	if a.Is6() {
		gateway, all = net.ParseIP(Gateway6), netip.MustParsePrefix("::/0")
	}
	return &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(all), Gw: gateway, Src: a.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

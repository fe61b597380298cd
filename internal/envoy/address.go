package envoy

import (
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// SocketAddress is a TCP address.
func SocketAddress(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: socket(a.Addr(), a.Port())}}
}

// AnyAddress is where a listener binds to a port on all addresses. A pod without IPv6 may run on a kernel without it,
// where binding to [::] fails; with ipv6, the one socket takes IPv4 too.
func AnyAddress(port uint16, ipv6 bool) *corev3.Address {
	s := socket(netip.IPv4Unspecified(), port)
	if ipv6 {
		s = socket(netip.IPv6Unspecified(), port)
		s.Ipv4Compat = true
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: s}}
}

// InternalAddress is a listener of the same Envoy.
func InternalAddress(listener string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
		AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: listener},
	}}}
}

// Range is a range of addresses.
func Range(p netip.Prefix) *corev3.CidrRange {
	return &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))} //nolint:gosec // 0 to 128
}

// Endpoint is an endpoint at an address.
func Endpoint(a *corev3.Address) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}}}
}

func socket(a netip.Addr, port uint16) *corev3.SocketAddress {
	return &corev3.SocketAddress{
		Address:       a.String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}
}

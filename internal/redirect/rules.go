package redirect

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// TableName is the name of the nftables table, of family inet.
const TableName = "tulle"

// Names of the chains.
const (
	ChainPrerouting = "prerouting"
	ChainOutput     = "output"
	ChainInput      = "input"
)

// register is the one that every match of a rule loads and compares.
const register = 1

// conntrackDNAT is IPS_DST_NAT of the kernel's nf_conntrack_common.h: the destination was rewritten.
const conntrackDNAT = 1 << 5

// Config says what differs between pods.
type Config struct {
	// ExcludeInbound are ports of the pod that are reached without its proxy, besides the sidecar's own.
	ExcludeInbound []uint16
	// ExcludeOutbound are destination ports that the pod reaches without its proxy.
	ExcludeOutbound []uint16
}

// chain is a base chain and its rules, in order.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

// rule is one rule; its name is kept in the kernel as the rule's comment.
type rule struct {
	name  string
	exprs []expr.Any
}

// chains returns the whole table for c.
func chains(c Config) []chain {
	return []chain{
		{ChainPrerouting, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, prerouting(c)},
		{ChainOutput, nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, output(c)},
		{ChainInput, nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, input()},
	}
}

// prerouting sees what others open to the pod. What the pod sends to itself never comes here: its destination was
// settled in the output chain.
func prerouting(c Config) []rule {
	var rules []rule
	for _, port := range append([]uint16{sidecar.StatsPort, sidecar.ProbePort}, c.ExcludeInbound...) {
		rules = append(rules, when("inbound-excluded", tcp(), destinationPort(port)).then(accept()...))
	}
	return append(rules, when("inbound", tcp(), destinationIsLocal()).then(redirectTo(sidecar.InboundPort)...))
}

// output sees what the pod opens. The order matters: what the proxy forwards to its own app is recognised by its source
// before the proxy's calls to its own pod are sent to the inbound listener.
func output(c Config) []rule {
	rules := []rule{
		when("proxy-to-app", source(netip.MustParseAddr(sidecar.InboundSource4))).then(accept()...),
		when("proxy-to-app", source(netip.MustParseAddr(sidecar.InboundSource6))).then(accept()...),
		when("loopback", destination(netip.MustParsePrefix("127.0.0.0/8"))).then(accept()...),
		when("loopback", destination(netip.MustParsePrefix("::1/128"))).then(accept()...),
	}
	for _, port := range []uint16{sidecar.StatsPort, sidecar.ProbePort} {
		rules = append(rules, when("proxy-to-own-port", proxyUser(), tcp(), destinationPort(port)).then(accept()...))
	}
	// The pod calls its own Service or address: this is the proxy's second connection of three, and the pod's inbound rules hold for it.
	rules = append(rules,
		when("self-call", proxyUser(), overLoopback(), tcp()).then(redirectTo(sidecar.InboundPort)...),
		when("proxy", proxyUser()).then(accept()...),
		// Who scrapes thousands of pods would have its proxy look up, and keep, each of their addresses. There is nothing but
		// metrics on that port, and no mTLS.
		when("scrape", tcp(), destinationPort(sidecar.StatsPort)).then(accept()...))
	for _, port := range c.ExcludeOutbound {
		rules = append(rules, when("outbound-excluded", tcp(), destinationPort(port)).then(accept()...))
	}
	return append(rules, when("outbound", tcp()).then(redirectTo(sidecar.OutboundPort)...))
}

// input refuses connections that were opened to the proxy's own listeners by their port. Their original destination is the
// listener itself: forwarding them would call the listener again, without end.
func input() []rule {
	var rules []rule
	for _, port := range []uint16{sidecar.OutboundPort, sidecar.InboundPort} {
		rules = append(rules, when("direct", tcp(), destinationPort(port), notRedirected()).then(reset()...))
	}
	return rules
}

// when starts a rule that matches all of matches.
func when(name string, matches ...[]expr.Any) rule {
	r := rule{name: name}
	for _, m := range matches {
		r.exprs = append(r.exprs, m...)
	}
	return r
}

// then adds a counter and what to do.
func (r rule) then(verdict ...expr.Any) rule {
	r.exprs = append(r.exprs, &expr.Counter{})
	r.exprs = append(r.exprs, verdict...)
	return r
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func reset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

func redirectTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: register},
	}
}

func tcp() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equals([]byte{unix.IPPROTO_TCP})}
}

// destinationPort needs tcp before it.
func destinationPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equals(binaryutil.BigEndian.PutUint16(port)),
	}
}

func destinationIsLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true},
		equals(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

func proxyUser() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: register}, equals(binaryutil.NativeEndian.PutUint32(sidecar.UID))}
}

func overLoopback() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, equals(name)}
}

func notRedirected() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: register},
		masked(binaryutil.NativeEndian.PutUint32(conntrackDNAT)),
		equals(binaryutil.NativeEndian.PutUint32(0)),
	}
}

// Offsets of the addresses in the IPv4 and IPv6 headers.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

func source(a netip.Addr) []expr.Any {
	if a.Is4() {
		return address(netip.PrefixFrom(a, a.BitLen()), source4)
	}
	return address(netip.PrefixFrom(a, a.BitLen()), source6)
}

func destination(p netip.Prefix) []expr.Any {
	if p.Addr().Is4() {
		return address(p, destination4)
	}
	return address(p, destination6)
}

// address matches the address at an offset of the network header, and first that the header is of its family.
func address(p netip.Prefix, offset uint32) []expr.Any {
	family := byte(unix.NFPROTO_IPV6)
	if p.Addr().Is4() {
		family = unix.NFPROTO_IPV4
	}
	size := p.Addr().BitLen() / 8
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, equals([]byte{family}),
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)},
	}
	if p.Bits() < p.Addr().BitLen() {
		exprs = append(exprs, masked(prefixMask(p.Bits(), size)))
	}
	return append(exprs, equals(p.Masked().Addr().AsSlice()))
}

func prefixMask(bits, size int) []byte {
	mask := make([]byte, size)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

func equals(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func masked(mask []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

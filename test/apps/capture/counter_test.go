package main

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// ipv4 and ipv6 make packets with a TCP segment of 20 bytes of header and payload, and padding of the link behind.
func ipv4(source, destination, payload string) []byte {
	header := make([]byte, 20)
	header[0], header[9] = 0x45, protocolTCP
	binary.BigEndian.PutUint16(header[2:], uint16(40+len(payload)))
	copy(header[12:], netip.MustParseAddr(source).AsSlice())
	copy(header[16:], netip.MustParseAddr(destination).AsSlice())
	return append(append(append(header, tcpHeader()...), payload...), "marker in the padding"...)
}

func ipv6(source, destination, payload string) []byte {
	header := make([]byte, 40)
	header[0], header[6] = 0x60, protocolTCP
	binary.BigEndian.PutUint16(header[4:], uint16(20+len(payload)))
	copy(header[8:], netip.MustParseAddr(source).AsSlice())
	copy(header[24:], netip.MustParseAddr(destination).AsSlice())
	return append(append(header, tcpHeader()...), payload...)
}

func tcpHeader() []byte {
	header := make([]byte, 20)
	header[12] = 5 << 4
	return header
}

func TestCounts(t *testing.T) {
	c := &counter{
		addresses: map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true, netip.MustParseAddr("fd00::1"): true},
		Texts:     map[string]int64{"marker": 0},
	}
	for _, packet := range [][]byte{
		ipv4("10.0.0.1", "10.0.0.2", "GET /marker"),
		ipv4("10.0.0.2", "10.0.0.1", "sealed"),
		ipv4("10.0.0.2", "10.0.0.1", ""),
		ipv4("10.0.0.3", "10.0.0.4", "marker of others"),
		ipv6("fd00::2", "fd00::1", "a marker"),
		nil, {0x45}, {0x60}, {0x10}, ipv4("10.0.0.1", "10.0.0.2", "x")[:25],
	} {
		c.packet(packet)
	}
	if c.Packets != 3 || c.Bytes != 11+6+8 || c.Texts["marker"] != 2 {
		t.Errorf("got %+v, want 3 packets, 25 bytes, 2 with the marker", c)
	}
}

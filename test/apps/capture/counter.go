package main

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// counter counts TCP payload.
type counter struct {
	addresses map[netip.Addr]bool
	// Packets and Bytes count packets with payload, and the payload. A packet that crosses two interfaces counts twice.
	Packets int64 `json:"packets"`
	Bytes   int64 `json:"bytes"`
	// Dropped counts packets that the kernel had no room for.
	Dropped int64 `json:"dropped"`
	// Texts counts the packets in which a text occurs.
	Texts map[string]int64 `json:"texts"`
}

// packet takes an IP packet.
func (c *counter) packet(packet []byte) {
	source, destination, segment, ok := tcpSegment(packet)
	if !ok || (len(c.addresses) > 0 && !c.addresses[source] && !c.addresses[destination]) {
		return
	}
	payload := tcpPayload(segment)
	if len(payload) == 0 {
		return
	}
	c.Packets++
	c.Bytes += int64(len(payload))
	for text := range c.Texts {
		if bytes.Contains(payload, []byte(text)) {
			c.Texts[text]++
		}
	}
}

const protocolTCP = 6

// tcpSegment finds the TCP segment of an IPv4 or IPv6 packet without extension headers.
func tcpSegment(packet []byte) (source, destination netip.Addr, segment []byte, ok bool) {
	if len(packet) < 1 {
		return source, destination, nil, false
	}
	switch packet[0] >> 4 {
	case 4:
		header := int(packet[0]&0xf) * 4
		if len(packet) < 20 || header < 20 || packet[9] != protocolTCP {
			return source, destination, nil, false
		}
		end := min(int(binary.BigEndian.Uint16(packet[2:4])), len(packet))
		if end < header {
			return source, destination, nil, false
		}
		return netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), packet[header:end], true
	case 6:
		const header = 40
		if len(packet) < header || packet[6] != protocolTCP {
			return source, destination, nil, false
		}
		end := min(header+int(binary.BigEndian.Uint16(packet[4:6])), len(packet))
		return netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40])), packet[header:end], true
	default:
		return source, destination, nil, false
	}
}

// tcpPayload is what a segment carries.
func tcpPayload(segment []byte) []byte {
	if len(segment) < 20 {
		return nil
	}
	header := int(segment[12]>>4) * 4
	if header < 20 || header > len(segment) {
		return nil
	}
	return segment[header:]
}

package xds

import (
	"slices"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// inbound is the listener for what others open to a proxy's pod.
var inbound = resource.Ref{Type: resource.Listener, Name: "inbound"}

// Encryption is what a proxy has acknowledged of what encrypts its traffic.
type Encryption struct {
	// CertificateExpires is when the certificate ends that the proxy has acknowledged on this stream; zero: it has none yet.
	CertificateExpires time.Time
	// Listening is true when it is known which inbound listener the proxy works with; PlaintextPorts are then the ports, sorted, on
	// which that one takes connections without mTLS. 0 stands for all ports that it does not name.
	Listening      bool
	PlaintextPorts []uint16
}

func (e Encryption) equal(o Encryption) bool {
	return e.CertificateExpires.Equal(o.CertificateExpires) && e.Listening == o.Listening && slices.Equal(e.PlaintextPorts, o.PlaintextPorts)
}

// openPorts remembers the ports of the listener that was looked at last.
type openPorts struct {
	of    *resource.Resource
	ports []uint16
}

// encryption says what the proxy has acknowledged. A listener that Envoy still warms is not the one that it works with.
func (s *session) encryption() Encryption {
	var e Encryption
	if c := s.entries[workload]; c != nil && c.held != nil {
		e.CertificateExpires = c.held.Expires
	}
	l := s.entries[inbound]
	if l == nil || l.held == nil {
		return e
	}
	working := l.held
	if l.prev != nil && !s.warm(l.held) {
		working = l.prev
	}
	if s.inbound.of != working {
		ports, err := plaintextPorts(working)
		if err != nil {
			return e
		}
		s.inbound = openPorts{working, ports}
	}
	e.Listening, e.PlaintextPorts = true, s.inbound.ports
	return e
}

// plaintextPorts returns the ports of the filter chains that have no transport socket: Envoy's default is plaintext.
func plaintextPorts(r *resource.Resource) ([]uint16, error) {
	var l listenerv3.Listener
	if err := r.Body().UnmarshalTo(&l); err != nil {
		return nil, err
	}
	chains := l.GetFilterChains()
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(chains, d)
	}
	var ports []uint16
	for _, c := range chains {
		if c.GetTransportSocket() == nil {
			ports = append(ports, uint16(c.GetFilterChainMatch().GetDestinationPort().GetValue()))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

package identity

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Serving is the certificate of one of our servers, exchanged while it serves. It is safe for concurrent use.
type Serving struct {
	name    string
	current atomic.Pointer[servingState]
	// next is a newer one that must not be served yet.
	next atomic.Pointer[servingState]
}

type servingState struct {
	certificate *tls.Certificate
	ca          []byte
	lineage     lineage
}

// NewServing returns a certificate that is not there yet; name is that of its Secret, for errors.
func NewServing(name string) *Serving { return &Serving{name: name} }

// offer takes the newest certificate in. advance decides when it is served.
func (s *Serving) offer(crt, key, ca []byte) error {
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return fmt.Errorf("secret %s: %w", s.name, err)
	}
	if len(ca) == 0 {
		return fmt.Errorf("secret %s: %s is empty: clients could not verify the certificate", s.name, CAKey)
	}
	lineage, err := parseLineage(crt, ca)
	if err != nil {
		return fmt.Errorf("secret %s: %w", s.name, err)
	}
	s.next.Store(&servingState{certificate: &pair, ca: ca, lineage: lineage})
	return nil
}

// advance serves the newest certificate as soon as every client can be expected to accept it; with none before it, at once.
// It reports whether it did.
func (s *Serving) advance(known rootSet, now time.Time) bool {
	next, current := s.next.Load(), s.current.Load()
	if next == nil || current != nil && next.lineage.hold(current.lineage, known, now) != "" {
		return false
	}
	s.current.Store(next)
	s.next.Store(nil)
	return true
}

// cas returns the PEMs of who signed the certificate and the next.
func (s *Serving) cas() [][]byte {
	var cas [][]byte
	for _, state := range []*servingState{s.current.Load(), s.next.Load()} {
		if state != nil {
			cas = append(cas, state.ca)
		}
	}
	return cas
}

// Ready reports whether there is a certificate.
func (s *Serving) Ready() bool { return s.current.Load() != nil }

var errNoServing = errors.New("cert-manager has not issued this server's certificate yet")

// GetCertificate is for tls.Config. A name that the current certificate lacks, as another version of Tulle may have asked for fewer, is served
// with the next: to hold it back would help nobody who calls that name.
func (s *Serving) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	next, current := s.next.Load(), s.current.Load() // in this order: advance makes the one the other
	switch {
	case current == nil:
		return nil, fmt.Errorf("secret %s: %w", s.name, errNoServing)
	case next != nil && hello != nil && !current.names(hello.ServerName) && next.names(hello.ServerName):
		return next.certificate, nil
	default:
		return current.certificate, nil
	}
}

// names reports whether a client that calls the server by a name accepts it.
func (s *servingState) names(name string) bool {
	return s.lineage.certificates[0].VerifyHostname(name) == nil
}

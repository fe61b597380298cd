package identity

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
)

// Serving is the certificate of one of our servers, exchanged while it serves. It is safe for concurrent use.
type Serving struct {
	name    string
	current atomic.Pointer[servingState]
}

type servingState struct {
	certificate *tls.Certificate
	ca          []byte
}

// NewServing returns a certificate that is not there yet; name is that of its Secret, for errors.
func NewServing(name string) *Serving { return &Serving{name: name} }

// Set exchanges the certificate. On an error the one before stays.
func (s *Serving) Set(crt, key, ca []byte) error {
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return fmt.Errorf("secret %s: %w", s.name, err)
	}
	if len(ca) == 0 {
		return fmt.Errorf("secret %s: %s is empty: clients could not verify the certificate", s.name, CAKey)
	}
	s.current.Store(&servingState{certificate: &pair, ca: ca})
	return nil
}

// CA returns the PEM of who signed the certificate; nil before there is one.
func (s *Serving) CA() []byte {
	if c := s.current.Load(); c != nil {
		return c.ca
	}
	return nil
}

// Ready reports whether there is a certificate.
func (s *Serving) Ready() bool { return s.current.Load() != nil }

var errNoServing = errors.New("cert-manager has not issued this server's certificate yet")

// GetCertificate is for tls.Config.
func (s *Serving) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.current.Load(); c != nil {
		return c.certificate, nil
	}
	return nil, fmt.Errorf("secret %s: %w", s.name, errNoServing)
}

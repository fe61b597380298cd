package envoy

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Signers sign the mesh's certificates as the product does: with its own signer, from the clock of the machine that it runs on.
type Signers struct {
	// Lifetime of the certificates.
	Lifetime time.Duration
	// Skew is by how much the clock of the replica that signs for a pod (by namespace/name) is ahead of the proxies'.
	Skew map[string]time.Duration

	ca   *authority
	mu   sync.Mutex
	keys map[string][][]byte
}

// SignedBy makes a world use these signers.
func SignedBy(s *Signers) Option { return func(o *options) { o.signers = s } }

// certificates returns who signs for the proxies.
func (w *World) certificates() xds.Certificates {
	if s := w.options.signers; s != nil {
		s.ca = w.meshCA
		return s
	}
	return w.meshCA
}

// Keys returns the PEM of all private keys that were made for a pod's proxy.
func (s *Signers) Keys(pod string) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[pod]
}

// ProxyLog returns all that the pod's Envoy has logged besides its access log.
func (p *Pod) ProxyLog() string {
	p.w.t.Helper()
	text, err := os.ReadFile(p.proxy.logFile())
	p.w.check(err)
	return string(text)
}

// Certificate implements xds.Certificates.
func (s *Signers) Certificate(ctx context.Context, p *resource.Proxy) (*resource.Resource, time.Time, error) {
	name := p.Namespace + "/" + p.Pod
	skew := s.Skew[name]
	signer := identity.NewSigner(func() time.Time { return time.Now().Add(skew) })
	der, err := x509.MarshalPKCS8PrivateKey(s.ca.key)
	if err != nil {
		return nil, time.Time{}, err
	}
	ca, err := identity.ParseAuthority(s.ca.bundle(), encode("PRIVATE KEY", der), s.ca.bundle(), trustDomain, time.Now())
	if err != nil {
		return nil, time.Time{}, err
	}
	signer.SetAuthority(ca)
	if err := signer.SetTerms(trustDomain, s.Lifetime); err != nil {
		return nil, time.Time{}, err
	}
	sealed, renewAt, err := signer.Certificate(ctx, p)
	if err != nil {
		return nil, time.Time{}, err
	}
	var secret tlsv3.Secret
	if err := sealed.Body().UnmarshalTo(&secret); err != nil {
		return nil, time.Time{}, fmt.Errorf("certificate of %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string][][]byte{}
	}
	s.keys[name] = append(s.keys[name], secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes())
	// Its stream waits by that replica's clock.
	return sealed, renewAt.Add(-skew), nil
}

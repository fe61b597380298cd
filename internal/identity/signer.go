package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// WorkloadSecret is the name of the SDS secret that holds a proxy's own certificate.
const WorkloadSecret = "workload"

// ErrNoAuthority is the answer to a proxy while cert-manager has issued no intermediate CA.
var ErrNoAuthority = errors.New("no intermediate CA yet: the root Mesh says why in condition Issued")

// Signer signs workload certificates in memory. It is safe for concurrent use.
type Signer struct {
	now       func() time.Time
	authority atomic.Pointer[Authority]
	terms     atomic.Pointer[terms]
}

// terms are what the mesh says about its certificates.
type terms struct {
	domain   spiffeid.TrustDomain
	lifetime time.Duration
}

// NewSigner returns a signer that can't sign before SetAuthority and SetTerms were called.
func NewSigner(now func() time.Time) *Signer { return &Signer{now: now} }

// SetAuthority sets what the next certificates are signed with; those before keep their chain until they are renewed.
func (s *Signer) SetAuthority(a *Authority) { s.authority.Store(a) }

// Authority returns what certificates are signed with; nil when there is nothing yet.
func (s *Signer) Authority() *Authority { return s.authority.Load() }

// SetTerms sets the trust domain and the lifetime of the next certificates.
func (s *Signer) SetTerms(domain string, lifetime time.Duration) error {
	td, err := spiffeid.TrustDomainFromString(domain)
	if err != nil {
		return fmt.Errorf("trust domain %q: %w", domain, err)
	}
	s.terms.Store(&terms{domain: td, lifetime: lifetime})
	return nil
}

// lifetime is that of the next certificates; 0 before SetTerms.
func (s *Signer) lifetime() time.Duration {
	if t := s.terms.Load(); t != nil {
		return t.lifetime
	}
	return 0
}

// Certificate makes a key and a certificate for a proxy and returns them as the secret that Envoy asks for, with the time to
// make the next: two thirds into its life, some earlier and some later, so that proxies that started together don't renew together.
func (s *Signer) Certificate(_ context.Context, p *resource.Proxy) (*resource.Resource, time.Time, error) {
	authority, terms := s.authority.Load(), s.terms.Load()
	if authority == nil || terms == nil {
		return nil, time.Time{}, ErrNoAuthority
	}
	now := s.now()
	end := now.Add(terms.lifetime)
	if last := authority.NotAfter(); end.After(last) {
		end = last
	}
	if !end.After(now) {
		return nil, time.Time{}, fmt.Errorf("the intermediate CA expired at %s: see condition Issued of the root Mesh", end.UTC().Format(time.RFC3339))
	}
	id, err := spiffeid.FromSegments(terms.domain, "ns", p.Namespace, "sa", p.ServiceAccount)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("identity of pod %s/%s: %w", p.Namespace, p.Pod, err)
	}
	secret, err := authority.issue(commonName(p), id, now, end)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("certificate of %s: %w", id, err)
	}
	r, err := resource.Seal(resource.Ref{Type: resource.Secret, Name: WorkloadSecret}, secret, resource.Resource{Expires: end})
	if err != nil {
		return nil, time.Time{}, err
	}
	return r, renewAt(now, end, mathrand.Float64()), nil
}

// maxCommonName is what X.520 lets a common name have.
const maxCommonName = 64

// commonName names a proxy's workload; it is empty where the name does not fit.
func commonName(p *resource.Proxy) string {
	if name := p.Workload(); len(name) <= maxCommonName {
		return name
	}
	return ""
}

// issue makes a key and a certificate for an identity, which names a workload of it.
func (a *Authority) issue(workload string, id spiffeid.ID, now, end time.Time) (*tlsv3.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := a.sign(key.Public(), workload, id.URL(), now, end)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &tlsv3.Secret{
		Name: WorkloadSecret,
		Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(append(encodeCertificate(der), a.chain...)),
			PrivateKey:       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		}},
	}, nil
}

// renewAt is two thirds into a life, give or take a fifteenth of it; random is in [0, 1).
func renewAt(now, end time.Time, random float64) time.Time {
	life := end.Sub(now).Seconds()
	return now.Add(time.Duration(life * (0.6 + random*2/15) * float64(time.Second)))
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

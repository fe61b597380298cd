package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// backdate is how far before now a workload's certificate begins, for clocks that differ.
const backdate = 2 * time.Minute

// ErrCannotSign says that an issuer gave a certificate that can't sign workload certificates.
var ErrCannotSign = errors.New("cannot sign workload certificates")

// Authority is a CA certificate with its key: what workload certificates are signed with. It is immutable.
type Authority struct {
	certificate *x509.Certificate
	lineage     lineage
	key         crypto.Signer
	chain       []byte // PEM of the CA certificate and of those between it and the root
	roots       []byte // PEM
}

// ParseAuthority reads a Secret that cert-manager keeps: tls.crt, tls.key and ca.crt. It signs a probe and verifies it up to the
// roots, so that an issuer that can't be used is found before a proxy has to. The error wraps ErrCannotSign when it is the
// issuer's certificate that is at fault.
func ParseAuthority(crt, key, ca []byte, domain string, now time.Time) (*Authority, error) {
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("tls.crt and tls.key: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("tls.key: a %T can't sign", pair.PrivateKey)
	}
	certificates, err := parseCertificates(crt)
	if err != nil {
		return nil, fmt.Errorf("tls.crt: %w", err)
	}
	roots, err := authorityRoots(certificates, ca)
	if err != nil {
		return nil, err
	}
	a := &Authority{certificate: certificates[0], key: signer, roots: roots}
	if a.lineage, err = parseLineage(crt, roots); err != nil {
		return nil, err
	}
	if !a.certificate.IsCA {
		return nil, fmt.Errorf("%w: the issued certificate is not a CA (isCA was asked for)", ErrCannotSign)
	}
	for _, c := range certificates {
		if !isRoot(c) || c == a.certificate {
			a.chain = append(a.chain, encodeCertificate(c.Raw)...)
		}
	}
	return a, a.probe(domain, now)
}

// authorityRoots are those of ca.crt or, for issuers that leave it empty, the self-signed end of the chain.
func authorityRoots(chain []*x509.Certificate, ca []byte) ([]byte, error) {
	roots, err := parseCertificates(ca)
	if err != nil {
		return nil, fmt.Errorf("ca.crt: %w", err)
	}
	if len(roots) > 0 {
		return ca, nil
	}
	if last := chain[len(chain)-1]; isRoot(last) {
		return encodeCertificate(last.Raw), nil
	}
	return nil, fmt.Errorf("%w: the issuer names no root (ca.crt is empty and tls.crt does not end in one)", ErrCannotSign)
}

// isRoot reports whether a certificate was signed with its own key.
func isRoot(c *x509.Certificate) bool { return c.CheckSignatureFrom(c) == nil }

// probe signs a certificate of the trust domain and verifies it: path lengths, name constraints and key usages of the
// whole chain have their say. A chain that begins later by a clock that may be ahead of ours is not at fault.
func (a *Authority) probe(domain string, now time.Time) error {
	begins := a.lineage.begins()
	switch {
	case now.After(a.certificate.NotAfter):
		return fmt.Errorf("the intermediate CA expired at %s", stamp(a.certificate.NotAfter))
	case begins.After(now.Add(maxSkew)):
		return fmt.Errorf("the intermediate CA begins at %s, and here it is %s: set the clocks", stamp(begins), stamp(now))
	case begins.After(now):
		now = begins
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	id := &url.URL{Scheme: "spiffe", Host: domain, Path: "/ns/probe/sa/probe"}
	der, err := a.sign(key.Public(), "probe", id, now, now.Add(time.Minute))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotSign, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotSign, err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(a.roots)
	intermediates.AppendCertsFromPEM(a.chain)
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCannotSign, err)
	}
	return nil
}

// sign returns a workload certificate (DER) for a SPIFFE ID. It ends with the authority at the latest.
func (a *Authority) sign(public crypto.PublicKey, workload string, id *url.URL, now, notAfter time.Time) ([]byte, error) {
	if notAfter.After(a.certificate.NotAfter) {
		notAfter = a.certificate.NotAfter
	}
	// The identity is the SPIFFE ID, and nothing else is ever allowed anything. The subject says for metrics which workload of it
	// this is; crypto/x509 marks the SPIFFE ID critical where it is empty, and it chooses a random serial number.
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: workload},
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id},
	}
	return x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
}

// Roots returns the PEM of the roots that the authority descends from.
func (a *Authority) Roots() []byte { return a.roots }

// NotBefore and NotAfter bound the authority's life.
func (a *Authority) NotBefore() time.Time { return a.certificate.NotBefore }

// NotAfter is when the authority, and all that it signed, ends.
func (a *Authority) NotAfter() time.Time { return a.certificate.NotAfter }

package envoy

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	trustDomain         = "cluster.local"
	certificateLifetime = time.Hour
)

// WithCertificateLifetime makes the mesh's certificates live that long instead of an hour. They are renewed after two thirds of it.
func WithCertificateLifetime(d time.Duration) Option {
	return func(o *options) { o.certificateLifetime = d }
}

// authority is a certificate authority: the mesh's, the control plane's, or a stranger's.
type authority struct {
	cert     *x509.Certificate
	key      crypto.Signer
	lifetime time.Duration // of what it signs

	mu         sync.Mutex
	identities map[string]string // SPIFFE IDs to use instead of the true one, by namespace/pod
}

func newAuthority(name string, lifetime time.Duration) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key, lifetime: lifetime, identities: map[string]string{}}, err
}

// bundle is the PEM that trusts this authority.
func (a *authority) bundle() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// issue signs a certificate for a SPIFFE ID, a DNS name, or both.
func (a *authority) issue(spiffeID, dnsName string) (tls.Certificate, error) {
	return a.issueNamed("", spiffeID, dnsName)
}

// issueNamed is issue with a common name in the subject.
func (a *authority) issueNamed(commonName, spiffeID, dnsName string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if dnsName != "" {
		template.DNSNames = []string{dnsName}
	}
	return a.sign(template, spiffeID, key)
}

// issueForClient signs what cert-manager makes of a Certificate with no more than a URI and a client's usages: an RSA key, and a subject that is empty.
func (a *authority) issueForClient(uri string) (tls.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return tls.Certificate{}, err
	}
	return a.sign(&x509.Certificate{
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, uri, key)
}

// sign completes a template and signs it; without a URI if that is empty.
func (a *authority) sign(template *x509.Certificate, uri string, key crypto.Signer) (tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(a.lifetime)
	if uri != "" {
		id, err := url.Parse(uri)
		if err != nil {
			return tls.Certificate{}, err
		}
		template.URIs = []*url.URL{id}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func spiffeID(namespace, serviceAccount string) string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", trustDomain, namespace, serviceAccount)
}

// pretend makes a pod's next certificate one for another identity.
func (a *authority) pretend(pod, identity string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.identities[pod] = identity
}

// Certificate implements xds.Certificates.
func (a *authority) Certificate(_ context.Context, p *resource.Proxy) (*resource.Resource, time.Time, error) {
	a.mu.Lock()
	identity, ok := a.identities[p.Namespace+"/"+p.Pod]
	a.mu.Unlock()
	if !ok {
		identity = spiffeID(p.Namespace, p.ServiceAccount)
	}
	cert, err := a.issueNamed(p.Workload(), identity, "")
	if err != nil {
		return nil, time.Time{}, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, time.Time{}, err
	}
	name := resource.Ref{Type: resource.Secret, Name: "workload"}
	sealed, err := resource.Seal(name, &tlsv3.Secret{Name: name.Name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(encode("CERTIFICATE", cert.Certificate[0])),
		PrivateKey:       inline(encode("PRIVATE KEY", key)),
	}}}, resource.Resource{Expires: time.Now().Add(a.lifetime)})
	return sealed, time.Now().Add(a.lifetime * 2 / 3), err
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return epoch }

// ca is a CA that tests sign with, as cert-manager would.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (c ca) crt() []byte { return encodeCertificate(c.cert.Raw) }

func (c ca) keyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// issue makes a CA certificate, signed by parent or by itself, valid for life around epoch; edit changes its template.
func issue(t testing.TB, parent *ca, life time.Duration, edit func(*x509.Certificate)) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if edit != nil {
		edit(template)
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca{cert: cert, key: key}
}

// secret is a Secret as cert-manager writes it.
func secret(t testing.TB, name string, c ca, root []byte) *corev1.Secret {
	t.Helper()
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: name},
		Data:       map[string][]byte{corev1.TLSCertKey: c.crt(), corev1.TLSPrivateKeyKey: c.keyPEM(t), CAKey: root},
	}
}

func join(documents ...[]byte) []byte { return bytes.Join(documents, nil) }

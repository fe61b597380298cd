package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

var reviews = &resource.Proxy{Namespace: "bookinfo", Pod: "reviews-1", ServiceAccount: "reviews"}

func newSigner(t *testing.T, intermediateLife, lifetime time.Duration) (*Signer, ca) {
	t.Helper()
	root := issue(t, nil, 1000*time.Hour, nil)
	intermediate := issue(t, &root, intermediateLife, nil)
	a, err := ParseAuthority(intermediate.crt(), intermediate.keyPEM(t), root.crt(), "cluster.local", epoch)
	if err != nil {
		t.Fatal(err)
	}
	s := NewSigner(clock)
	s.SetAuthority(a)
	if err := s.SetTerms("cluster.local", lifetime); err != nil {
		t.Fatal(err)
	}
	return s, root
}

func pair(t *testing.T, r *resource.Resource) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	var s tlsv3.Secret
	if err := r.Body().UnmarshalTo(&s); err != nil {
		t.Fatal(err)
	}
	c := s.GetTlsCertificate()
	p, err := tls.X509KeyPair(c.GetCertificateChain().GetInlineBytes(), c.GetPrivateKey().GetInlineBytes())
	if err != nil {
		t.Fatal(err)
	}
	return p, p.Leaf
}

func TestCertificateIsOneThatPeersVerify(t *testing.T) {
	s, root := newSigner(t, 168*time.Hour, 24*time.Hour)
	r, renewAt, err := s.Certificate(context.Background(), reviews)
	if err != nil {
		t.Fatal(err)
	}
	p, leaf := pair(t, r)
	if r.Ref != (resource.Ref{Type: resource.Secret, Name: "workload"}) {
		t.Errorf("named %v", r.Ref)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://cluster.local/ns/bookinfo/sa/reviews" {
		t.Errorf("identity %v", leaf.URIs)
	}
	if want := epoch.Add(-2 * time.Minute); !leaf.NotBefore.Equal(want) {
		t.Errorf("begins at %v, want %v", leaf.NotBefore, want)
	}
	if want := epoch.Add(24 * time.Hour); !leaf.NotAfter.Equal(want) {
		t.Errorf("ends at %v, want %v", leaf.NotAfter, want)
	}
	if early, late := epoch.Add(14*time.Hour), epoch.Add(18*time.Hour); renewAt.Before(early) || renewAt.After(late) {
		t.Errorf("renewed at %v, want two thirds into its life", renewAt)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.cert)
	for _, der := range p.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: epoch, KeyUsages: usages}); err != nil {
		t.Errorf("with the chain it came with: %v", err)
	}
}

func TestTwoCertificatesShareNeitherKeyNorSerial(t *testing.T) {
	s, _ := newSigner(t, 168*time.Hour, 24*time.Hour)
	var leaves []*x509.Certificate
	for range 2 {
		r, _, err := s.Certificate(context.Background(), reviews)
		if err != nil {
			t.Fatal(err)
		}
		_, leaf := pair(t, r)
		leaves = append(leaves, leaf)
	}
	if leaves[0].SerialNumber.Cmp(leaves[1].SerialNumber) == 0 {
		t.Error("same serial number")
	}
	if string(leaves[0].RawSubjectPublicKeyInfo) == string(leaves[1].RawSubjectPublicKeyInfo) {
		t.Error("same key")
	}
}

func TestCertificateEndsWithTheIntermediate(t *testing.T) {
	s, _ := newSigner(t, 5*time.Hour, 24*time.Hour)
	r, renewAt, err := s.Certificate(context.Background(), reviews)
	if err != nil {
		t.Fatal(err)
	}
	_, leaf := pair(t, r)
	if want := epoch.Add(5 * time.Hour); !leaf.NotAfter.Equal(want) {
		t.Errorf("ends at %v, want %v", leaf.NotAfter, want)
	}
	if !renewAt.Before(leaf.NotAfter) {
		t.Errorf("renewed at %v, after its end", renewAt)
	}
}

func TestSignerRefusesWithoutAValidIntermediate(t *testing.T) {
	s := NewSigner(clock)
	if _, _, err := s.Certificate(context.Background(), reviews); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("without an intermediate: %v", err)
	}
	expired, _ := newSigner(t, time.Hour, time.Hour)
	expired.now = func() time.Time { return epoch.Add(2 * time.Hour) }
	if _, _, err := expired.Certificate(context.Background(), reviews); err == nil || !strings.Contains(err.Error(), "expired at 2026-03-01T13:00:00Z") {
		t.Errorf("with an expired intermediate: %v", err)
	}
}

func TestNewIntermediateSignsTheNextCertificate(t *testing.T) {
	s, root := newSigner(t, 168*time.Hour, time.Hour)
	next := issue(t, &root, 300*time.Hour, nil)
	a, err := ParseAuthority(next.crt(), next.keyPEM(t), root.crt(), "cluster.local", epoch)
	if err != nil {
		t.Fatal(err)
	}
	s.SetAuthority(a)
	r, _, err := s.Certificate(context.Background(), reviews)
	if err != nil {
		t.Fatal(err)
	}
	_, leaf := pair(t, r)
	if err := leaf.CheckSignatureFrom(next.cert); err != nil {
		t.Errorf("not signed by the new intermediate: %v", err)
	}
}

func TestParseAuthorityFindsIssuersThatCannotSign(t *testing.T) {
	root := issue(t, nil, 1000*time.Hour, nil)
	leafOnly := issue(t, nil, 1000*time.Hour, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	elsewhere := issue(t, nil, 1000*time.Hour, func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"example.org"}, true
	})
	other := issue(t, nil, 1000*time.Hour, nil)
	tests := []struct {
		name   string
		parent ca
		roots  []byte
		edit   func(*x509.Certificate)
		want   string
	}{
		{name: "good", parent: root},
		{name: "not a CA", parent: root, edit: func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature },
			want: "the issued certificate is not a CA"},
		{name: "path length of the root", parent: leafOnly, want: "too many intermediates"},
		{name: "name constraint of the root", parent: elsewhere, want: "not permitted by"},
		{name: "other root", parent: root, roots: other.crt(), want: "certificate signed by unknown authority"},
		{name: "no root", parent: root, roots: []byte("\n"), want: "names no root"},
		{name: "may not sign", parent: root, edit: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }, want: "cannot sign workload certificates"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := issue(t, &tt.parent, 168*time.Hour, tt.edit)
			roots := tt.roots
			if roots == nil {
				roots = tt.parent.crt()
			}
			_, err := ParseAuthority(c.crt(), c.keyPEM(t), roots, "cluster.local", epoch)
			if tt.want == "" && err != nil {
				t.Fatalf("refused: %v", err)
			}
			if tt.want != "" && (!errors.Is(err, ErrCannotSign) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want one that cannot sign because %q", err, tt.want)
			}
		})
	}
}

func BenchmarkCertificate(b *testing.B) {
	root := issue(b, nil, 1000*time.Hour, nil)
	a, err := ParseAuthority(root.crt(), root.keyPEM(b), root.crt(), "cluster.local", epoch)
	if err != nil {
		b.Fatal(err)
	}
	s := NewSigner(clock)
	s.SetAuthority(a)
	if err := s.SetTerms("cluster.local", time.Hour); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := s.Certificate(context.Background(), reviews); err != nil {
			b.Fatal(err)
		}
	}
}

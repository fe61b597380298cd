package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestBundleIsASetOfValidRoots(t *testing.T) {
	a, b := issue(t, nil, 100*time.Hour, nil), issue(t, nil, 100*time.Hour, nil)
	expired := issue(t, nil, -time.Minute, nil)
	leaf := issue(t, &a, time.Hour, nil)
	leaf.cert.IsCA = false

	one, err := Bundle(epoch, join(a.crt(), b.crt()), a.crt(), expired.crt())
	if err != nil {
		t.Fatal(err)
	}
	two, err := Bundle(epoch, b.crt(), a.crt())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("equal sets differ in bytes")
	}
	if got := bytes.Count(one, []byte("BEGIN CERTIFICATE")); got != 2 {
		t.Errorf("%d roots, want 2", got)
	}

	garbage := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	kept, err := Bundle(epoch, garbage, a.crt())
	if err == nil || !strings.Contains(err.Error(), "parse certificate") {
		t.Errorf("garbage: %v", err)
	}
	if !bytes.Contains(kept, bytes.TrimSpace(a.crt())) {
		t.Error("a good root was lost because of its neighbour")
	}
}

// recorder holds what materials announced.
type recorder struct {
	bundles [][]byte
	changes int
	log     bytes.Buffer
}

func newMaterials(t *testing.T) (*Materials, *recorder) {
	t.Helper()
	r := &recorder{}
	m := NewMaterials(clock, slog.New(slog.NewTextHandler(&r.log, nil)),
		func(b []byte) { r.bundles = append(r.bundles, b) }, func(time.Duration) {}, func() { r.changes++ })
	if err := m.SetTerms("cluster.local", time.Hour); err != nil {
		t.Fatal(err)
	}
	return m, r
}

func TestMaterialsKeepBothRootsWhileTheyAreExchanged(t *testing.T) {
	m, r := newMaterials(t)
	first, second := issue(t, nil, 1000*time.Hour, nil), issue(t, nil, 1000*time.Hour, nil)
	m.SetSecret(secret(t, Intermediate, issue(t, &first, 100*time.Hour, nil), first.crt()))
	m.SetTrusted(m.Trust(), m.Trust()) // as the trust ConfigMap comes back
	m.SetSecret(secret(t, Intermediate, issue(t, &second, 100*time.Hour, nil), second.crt()))

	if len(r.bundles) != 2 {
		t.Fatalf("%d bundles announced, want 2", len(r.bundles))
	}
	want, err := Bundle(epoch, first.crt(), second.crt())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.bundles[1], want) {
		t.Errorf("the bundle holds\n%s\nwant\n%s", r.bundles[1], want)
	}
}

func TestMaterialsKeepWhatWorksAndNeverLogAKey(t *testing.T) {
	m, r := newMaterials(t)
	root := issue(t, nil, 1000*time.Hour, nil)
	m.SetSecret(secret(t, Intermediate, issue(t, &root, 100*time.Hour, nil), root.crt()))
	before := m.Signer.Authority()

	broken := secret(t, Intermediate, issue(t, &root, 100*time.Hour, nil), root.crt())
	broken.Data[corev1.TLSPrivateKeyKey] = issue(t, nil, time.Hour, nil).keyPEM(t)
	m.SetSecret(broken)
	if m.Signer.Authority() != before {
		t.Error("the working intermediate was given up")
	}
	if _, err := m.Authority(); err == nil {
		t.Error("nothing is said of the broken one")
	}
	if text := r.log.String(); !strings.Contains(text, "tulle-intermediate") || strings.Contains(text, "PRIVATE") {
		t.Errorf("log: %s", text)
	}
}

func TestTrustDomainIsProbedAgainWhenItChanges(t *testing.T) {
	m, _ := newMaterials(t)
	root := issue(t, nil, 1000*time.Hour, nil)
	m.SetSecret(secret(t, Intermediate, issue(t, &root, 100*time.Hour, nil), root.crt()))
	before := m.Signer.Authority()
	if err := m.SetTerms("example.org", time.Hour); err != nil {
		t.Fatal(err)
	}
	if m.Signer.Authority() == before {
		t.Error("the authority was not verified for the new trust domain")
	}
}

func TestServingCertificateIsExchanged(t *testing.T) {
	s := NewServing(WebhookCertificate)
	if _, err := s.GetCertificate(nil); !errors.Is(err, errNoServing) {
		t.Errorf("before the first: %v", err)
	}
	root := issue(t, nil, time.Hour, nil)
	for range 2 {
		c := issue(t, &root, time.Hour, nil)
		if err := s.offer(c.crt(), c.keyPEM(t), root.crt()); err != nil {
			t.Fatal(err)
		}
		s.advance(nil, epoch)
		got, err := s.GetCertificate(nil)
		if err != nil || !bytes.Equal(got.Certificate[0], c.cert.Raw) {
			t.Errorf("not the newest certificate (%v)", err)
		}
	}
	if err := s.offer([]byte("x"), []byte("y"), nil); err == nil || !s.Ready() {
		t.Error("a broken Secret must be refused and change nothing")
	}
}

// A version of Tulle that is called by one name more gets a certificate with both. What is held back for clocks that differ is served to those
// who call the new name, and to them only.
func TestServingCertificateOfANameMore(t *testing.T) {
	root := issue(t, nil, time.Hour, nil)
	s := NewServing(WebhookCertificate)
	offer := func(begins time.Time, names ...string) ca {
		c := issue(t, &root, time.Hour, func(c *x509.Certificate) { c.NotBefore, c.DNSNames = begins, names })
		if err := s.offer(c.crt(), c.keyPEM(t), root.crt()); err != nil {
			t.Fatal(err)
		}
		s.advance(nil, epoch)
		return c
	}
	want := func(name string, c ca) {
		t.Helper()
		got, err := s.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		if err != nil || !bytes.Equal(got.Certificate[0], c.cert.Raw) {
			t.Errorf("%q is served with another certificate (%v)", name, err)
		}
	}
	before := offer(epoch.Add(-time.Hour), "one.test")
	want("one.test", before)
	want("two.test", before) // there is no better one: the client says what is wrong
	after := offer(epoch, "one.test", "two.test")
	want("one.test", before)
	want("two.test", after)
	want("three.test", before)
	want("", before)
	s.advance(nil, epoch.Add(maxSkew))
	want("one.test", after)
	want("two.test", after)
}

// A Secret that a server can't use is told of until there is one that it can.
func TestUnusableServingCertificateIsTold(t *testing.T) {
	m, _ := newMaterials(t)
	root := issue(t, nil, 1000*time.Hour, nil)
	good := issue(t, &root, time.Hour, nil)
	m.SetSecret(secret(t, WebhookCertificate, good, root.crt()))
	broken := secret(t, WebhookCertificate, good, nil)
	m.SetSecret(broken)
	if err := m.Unusable(); err == nil || !strings.Contains(err.Error(), "secret tulle-webhook-tls: ca.crt is empty") || !m.Webhook.Ready() {
		t.Errorf("unusable: %v; serves: %t", err, m.Webhook.Ready())
	}
	m.SetSecret(secret(t, WebhookCertificate, good, root.crt()))
	if err := m.Unusable(); err != nil {
		t.Errorf("still unusable: %v", err)
	}
}

func TestWatchFeedsMaterials(t *testing.T) {
	root := issue(t, nil, 1000*time.Hour, nil)
	serving := issue(t, &root, time.Hour, nil)
	old := issue(t, nil, 1000*time.Hour, nil)
	client := fake.NewClientset(
		secret(t, Intermediate, issue(t, &root, 100*time.Hour, nil), root.crt()),
		secret(t, WebhookCertificate, serving, root.crt()),
		secret(t, ControlPlaneCertificate, serving, root.crt()),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: TrustConfigMap}, Data: map[string]string{CAKey: string(old.crt())}},
	)
	changed := make(chan struct{}, 16)
	m := NewMaterials(clock, slog.New(slog.DiscardHandler), func([]byte) {}, func(time.Duration) {}, func() { changed <- struct{}{} })
	if err := m.SetTerms("cluster.local", time.Hour); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- (&Watch{Client: client, Namespace: "tulle-system", Materials: m}).Start(ctx) }()
	for range 4 {
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("not all objects arrived")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := m.Ready(); err != nil {
		t.Error(err)
	}
	want, err := Bundle(epoch, root.crt(), old.crt())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Trust(), want) {
		t.Errorf("trusts\n%s\nwant\n%s", m.Trust(), want)
	}
}

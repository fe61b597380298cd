package integration

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// badIssuer is an issuer that the root Mesh names.
type badIssuer struct {
	name    string
	ref     v1alpha1.IssuerRef
	objects func(t *testing.T) []client.Object
	reason  string
	// message comes before what is said of the intermediate that still serves.
	message string
}

func badIssuers() []badIssuer {
	const remedy = " does not exist: create it or correct spec.meshWide.trust.issuerRef of the root Mesh"
	ca := func(name string, edit func(*x509.Certificate)) func(*testing.T) []client.Object {
		return func(t *testing.T) []client.Object {
			return []client.Object{caSecret(t, name, edit), caIssuer(name, name)}
		}
	}
	return []badIssuer{
		{name: "missing", ref: v1alpha1.IssuerRef{Name: "nobody"}, reason: "IssuerNotFound", message: "Issuer tulle-system/nobody" + remedy},
		{name: "missing in the cluster", ref: v1alpha1.IssuerRef{Name: "nobody", Kind: "ClusterIssuer"}, reason: "IssuerNotFound", message: "ClusterIssuer nobody" + remedy},
		{
			name: "of the wrong kind", ref: v1alpha1.IssuerRef{Name: "here", Kind: "ClusterIssuer"}, objects: ca("here", nil),
			reason: "IssuerNotFound", message: "ClusterIssuer here" + remedy,
		},
		{
			name: "without its secret", ref: v1alpha1.IssuerRef{Name: "empty"},
			objects: func(*testing.T) []client.Object { return []client.Object{caIssuer("empty", "no-such-secret")} },
			reason:  "IssuerNotReady", message: `Issuer tulle-system/empty is not ready: ErrGetKeyPair: Error getting keypair for CA issuer: secrets "no-such-secret" not found`,
		},
		{
			name: "no CA", ref: v1alpha1.IssuerRef{Name: "leaf"}, objects: ca("leaf", func(c *x509.Certificate) { c.IsCA = false }),
			reason: "IssuerNotReady", message: "Issuer tulle-system/leaf is not ready: ErrInvalidKeyPair: Error getting keypair for CA issuer: certificate is not a CA",
		},
		{
			name: "that can't sign CAs", ref: v1alpha1.IssuerRef{Name: "shallow"}, objects: ca("shallow", func(c *x509.Certificate) { c.MaxPathLenZero = true }),
			reason: "CannotSign",
			message: "Issuer tulle-system/shallow cannot sign workload certificates: x509: too many intermediates for path length constraint: " +
				"choose one that signs CAs in spec.meshWide.trust.issuerRef of the root Mesh",
		},
	}
}

// testBadIssuers: whatever issuer is named, Meshes say what is wrong with it, and proxies old and new have certificates.
func testBadIssuers(t *testing.T, w *world) {
	w = w.in(t)
	root := mesh(system, v1alpha1.RootName, v1alpha1.MeshSpec{})
	w.condition("healthy", "healthy", v1alpha1.ConditionIssued, metav1.ConditionTrue, "Issued", w.issuedBy("Issuer tulle-system/tulle-ca"))
	served := w.serve("issuers")
	for _, row := range badIssuers() {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			if row.objects != nil {
				w.create(row.objects(t)...)
			}
			w.update(root, func() {
				root.Spec.MeshWide = &v1alpha1.MeshWideSpec{Trust: &v1alpha1.TrustSpec{IssuerRef: &row.ref}}
			})
			w.issuedFalse(row.reason, row.message)
		})
	}
	served.goesOn(t, w)
	w.update(root, func() { root.Spec.MeshWide = nil })
	w.eventually("the mesh's own issuer signs again", func() error { return w.issued("healthy") })
	w.healthy()
}

// issuedFalse waits until the healthy Mesh says what is wrong, with or without what still serves.
func (w *world) issuedFalse(reason, message string) {
	w.t.Helper()
	w.eventually("Issued says: "+message, func() error {
		m := mesh("healthy", "healthy", v1alpha1.MeshSpec{})
		if err := w.get(m); err != nil {
			return err
		}
		for _, c := range m.Status.Conditions {
			if c.Type != v1alpha1.ConditionIssued {
				continue
			}
			// What the rows before led to may still be on its way.
			text := strings.TrimSuffix(c.Message, "; kubelets are writing a new root into the pods' volumes")
			said, still, found := strings.Cut(text, "; certificates are signed with the intermediate CA issued before, until ")
			_, err := time.Parse(time.RFC3339, still)
			if c.Status == metav1.ConditionFalse && c.Reason == reason && said == message && (err == nil || !found) {
				return nil
			}
			return errors.New(string(c.Status) + " " + c.Reason + ": " + c.Message)
		}
		return errors.New("no condition Issued")
	})
}

// issued is nil while a Mesh can have certificates.
func (w *world) issued(name string) error {
	m := mesh(name, name, v1alpha1.MeshSpec{})
	if err := w.get(m); err != nil {
		return err
	}
	for _, c := range m.Status.Conditions {
		if c.Type == v1alpha1.ConditionIssued && c.Status != metav1.ConditionTrue {
			return errors.New(c.Message)
		}
	}
	return nil
}

// served is a namespace whose proxies must not notice what is wrong elsewhere.
type served struct {
	namespace string
	before    *proxy
}

func (w *world) serve(ns string) served {
	w.t.Helper()
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
	s := served{namespace: ns}
	s.before = s.start(w.t, w, "before")
	return s
}

// start runs a pod with a proxy that is connected and has its certificate.
func (s served) start(t *testing.T, w *world, name string) *proxy {
	t.Helper()
	p := pod(s.namespace, name)
	w.create(p)
	w.run(p)
	if !hasSidecar(p) {
		t.Fatalf("pod %s was not injected", name)
	}
	envoy := w.connect(t, p)
	w.eventually("the certificate of "+name, func() error {
		if errors.Is(envoy.failure(), errGoesOn) {
			_, err := envoy.certificate()
			return err
		}
		envoy = w.connect(t, p) // the control plane did not know the pod yet
		return errors.New("it was refused at first")
	})
	return envoy
}

// goesOn checks that the first proxy's stream goes on, and that a new one is served too.
func (s served) goesOn(t *testing.T, w *world) {
	t.Helper()
	s.start(t, w, "after")
	if err := s.before.failure(); !errors.Is(err, errGoesOn) {
		t.Errorf("a stream ended: %v", err)
	}
}

// badCertificate is what a Secret of cert-manager's holds.
type badCertificate struct {
	name   string
	secret string
	// data are changed from what was good.
	data    func(t *testing.T, root tls.Certificate, good map[string][]byte) map[string][]byte
	reason  string
	message string
}

func badCertificates() []badCertificate {
	const remedy = ": choose one that signs CAs in spec.meshWide.trust.issuerRef of the root Mesh"
	inner := func(edit func(*x509.Certificate)) func(*testing.T, tls.Certificate, map[string][]byte) map[string][]byte {
		return func(t *testing.T, root tls.Certificate, good map[string][]byte) map[string][]byte {
			crt, key := issue(t, root, edit)
			return map[string][]byte{corev1.TLSCertKey: crt, corev1.TLSPrivateKeyKey: key, identity.CAKey: good[identity.CAKey]}
		}
	}
	change := func(key string, edit func([]byte) []byte) func(*testing.T, tls.Certificate, map[string][]byte) map[string][]byte {
		return func(_ *testing.T, _ tls.Certificate, good map[string][]byte) map[string][]byte {
			data := map[string][]byte{}
			for k, v := range good {
				data[k] = v
			}
			data[key] = edit(data[key])
			return data
		}
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	ended := time.Now().Add(-time.Minute).Truncate(time.Second)
	return []badCertificate{
		{
			name: "truncated certificate", secret: identity.Intermediate, data: change(corev1.TLSCertKey, half), reason: "NotIssued",
			message: "Secret tulle-system/tulle-intermediate: tls.crt and tls.key: tls: failed to find any PEM data in certificate input",
		},
		{
			name: "truncated key", secret: identity.Intermediate, data: change(corev1.TLSPrivateKeyKey, half), reason: "NotIssued",
			message: "Secret tulle-system/tulle-intermediate: tls.crt and tls.key: tls: failed to find any PEM data in key input",
		},
		{
			name: "rubbish", secret: identity.Intermediate, data: change(corev1.TLSCertKey, func([]byte) []byte {
				return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("rubbish")})
			}), reason: "NotIssued",
			message: "Secret tulle-system/tulle-intermediate: tls.crt and tls.key: x509: malformed certificate",
		},
		{
			name: "another's key", secret: identity.Intermediate, reason: "NotIssued",
			data: func(t *testing.T, root tls.Certificate, good map[string][]byte) map[string][]byte {
				_, key := issue(t, root, nil)
				return map[string][]byte{corev1.TLSCertKey: good[corev1.TLSCertKey], corev1.TLSPrivateKeyKey: key, identity.CAKey: good[identity.CAKey]}
			},
			message: "Secret tulle-system/tulle-intermediate: tls.crt and tls.key: tls: private key does not match public key",
		},
		{
			name: "expired", secret: identity.Intermediate, data: inner(func(c *x509.Certificate) { c.NotAfter = ended }), reason: "NotIssued",
			message: "Secret tulle-system/tulle-intermediate: the intermediate CA expired at " + ended.UTC().Format(time.RFC3339),
		},
		{
			name: "no CA", secret: identity.Intermediate, data: inner(func(c *x509.Certificate) { c.IsCA = false }), reason: "CannotSign",
			message: "Issuer tulle-system/tulle-ca cannot sign workload certificates: the issued certificate is not a CA (isCA was asked for)" + remedy,
		},
		{
			name: "another trust domain", secret: identity.Intermediate, reason: "CannotSign",
			data: inner(func(c *x509.Certificate) {
				c.PermittedDNSDomainsCritical, c.PermittedURIDomains = true, []string{"elsewhere.example"}
			}),
			message: `Issuer tulle-system/tulle-ca cannot sign workload certificates: x509: a root or intermediate certificate is not authorized to sign for this name: URI "spiffe://cluster.local/ns/probe/sa/probe" is not permitted by any constraint` + remedy,
		},
		{
			name: "no root", secret: identity.Intermediate, data: change(identity.CAKey, func([]byte) []byte { return nil }), reason: "CannotSign",
			message: "Issuer tulle-system/tulle-ca cannot sign workload certificates: the issuer names no root (ca.crt is empty and tls.crt does not end in one)" + remedy,
		},
		{
			name: "another root", secret: identity.Intermediate, reason: "CannotSign",
			data: func(t *testing.T, _ tls.Certificate, good map[string][]byte) map[string][]byte {
				other := caSecret(t, "other", nil)
				return map[string][]byte{
					corev1.TLSCertKey: good[corev1.TLSCertKey], corev1.TLSPrivateKeyKey: good[corev1.TLSPrivateKeyKey], identity.CAKey: other.Data[corev1.TLSCertKey],
				}
			},
			message: "Issuer tulle-system/tulle-ca cannot sign workload certificates: x509: certificate signed by unknown authority" + remedy,
		},
		{
			name: "the webhooks' key", secret: identity.WebhookCertificate, data: change(corev1.TLSPrivateKeyKey, half), reason: "NotIssued",
			message: "secret tulle-webhook-tls: tls: failed to find any PEM data in key input; the certificate before serves on",
		},
		{
			name: "the control plane's CA", secret: identity.ControlPlaneCertificate, data: change(identity.CAKey, func([]byte) []byte { return nil }), reason: "NotIssued",
			message: "secret tulle-xds-tls: ca.crt is empty: clients could not verify the certificate; the certificate before serves on",
		},
	}
}

// testBadCertificates: whatever is in the Secrets, Meshes say so, and proxies, injection and streams go on with what was there before.
func testBadCertificates(t *testing.T, w *world, stopCertManager func()) {
	w = w.in(t)
	served := w.serve("certificates")
	w.eventually("certificates", func() error { return w.issued("healthy") })
	stopCertManager() // it would replace what is broken
	authority, err := tls.X509KeyPair(w.secret(identity.RootCertificate).Data[corev1.TLSCertKey], w.secret(identity.RootCertificate).Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range badCertificates() {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			secret := w.secret(row.secret)
			good := secret.Data
			w.update(secret, func() { secret.Data = row.data(t, authority, good) })
			w.issuedFalse(row.reason, row.message)
			w.update(secret, func() { secret.Data = good })
			w.eventually("it is good again", func() error { return w.issued("healthy") })
		})
	}
	secret := w.secret(identity.Intermediate)
	w.update(secret, func() { secret.Data[corev1.TLSCertKey] = bytes.Repeat([]byte("x"), 100) })
	w.issuedFalse("NotIssued", "Secret tulle-system/tulle-intermediate: tls.crt and tls.key: tls: failed to find any PEM data in certificate input")
	served.goesOn(t, w)
}

// issue makes an intermediate CA and its key, PEM.
func issue(t *testing.T, root tls.Certificate, edit func(*x509.Certificate)) (crt, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "intermediate"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.Leaf, private.Public(), root.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

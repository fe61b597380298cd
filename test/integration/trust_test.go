package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// testTrust: the whole chain is issued, its root is in the trust ConfigMap, and the operator can't read the root's key.
func testTrust(t *testing.T, w *world) {
	w.namespace("trust")
	w.create(mesh("trust", "trust", v1alpha1.MeshSpec{}))
	w.condition("trust", "trust", v1alpha1.ConditionIssued, metav1.ConditionTrue, "Issued", w.issuedBy("Issuer tulle-system/tulle-ca"))
	var certificates certmanagerv1.CertificateList
	w.list(&certificates, client.InNamespace(system), client.MatchingLabels{"app.kubernetes.io/managed-by": "tulle"})
	if len(certificates.Items) != 4 {
		t.Errorf("%d Certificates are marked as Tulle's, want 4", len(certificates.Items))
	}
	w.event(system, "Certificate", identity.Intermediate, "Created", "for the mesh")

	root := w.secret(identity.RootCertificate)
	trusted := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: identity.TrustConfigMap}}
	w.eventually("the trust ConfigMap", func() error { return w.get(trusted) })
	if strings.TrimSpace(trusted.Data[identity.CAKey]) != strings.TrimSpace(string(root.Data[corev1.TLSCertKey])) {
		t.Errorf("trusted are\n%s\nwant\n%s", trusted.Data[identity.CAKey], root.Data[corev1.TLSCertKey])
	}

	operator, err := client.New(w.operatorConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = operator.Get(context.Background(), client.ObjectKeyFromObject(root), &corev1.Secret{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("the operator may read the root's key: %v", err)
	}
}

func (w *world) secret(name string) *corev1.Secret {
	w.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}}
	w.eventually("Secret "+name, func() error { return w.get(s) })
	return s
}

// issuedBy is the message of Issued while an issuer's intermediate is in use.
func (w *world) issuedBy(issuer string) string {
	w.t.Helper()
	block, _ := pem.Decode(w.secret(identity.Intermediate).Data[corev1.TLSCertKey])
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	return issuer + " signs; the intermediate CA is valid until " + c.NotAfter.UTC().Format(time.RFC3339)
}

// TestCertManagerArrivesLate: without cert-manager the operator says so, and goes on by itself once it is installed.
func TestCertManagerArrivesLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(nil)
	w.namespace("late")
	w.create(mesh("late", "late", v1alpha1.MeshSpec{}))
	message := "cert-manager is not installed (no CustomResourceDefinition certificates.cert-manager.io): install it; Tulle goes on by itself then"
	w.condition("late", "late", v1alpha1.ConditionIssued, metav1.ConditionFalse, "CertManagerMissing", message)
	w.condition("late", "late", v1alpha1.ConditionReady, metav1.ConditionFalse, "CertManagerMissing", message)
	w.event("late", "Mesh", "late", "CertManagerMissing", "install it")
	if err := w.ready(); err == nil {
		t.Error("the operator calls itself ready without certificates")
	}
	w.installCertManager()
	w.condition("late", "late", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	w.eventually("the operator is ready", w.ready)
}

// TestIssuers: one that is missing, one that cert-manager refuses, one that can't sign CAs, and a good one, one after the other.
func TestIssuers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	root := mesh(system, v1alpha1.RootName, v1alpha1.MeshSpec{MeshWide: &v1alpha1.MeshWideSpec{Trust: &v1alpha1.TrustSpec{
		IssuerRef: &v1alpha1.IssuerRef{Name: "corporate"}, CertificateDuration: new(v1alpha1.Duration("30s")),
	}}})
	w.create(root)
	w.start(nil)
	issued := func(reason, message string) {
		t.Helper()
		status := metav1.ConditionFalse
		if reason == identity.ReasonIssued {
			status = metav1.ConditionTrue
		}
		w.condition(system, v1alpha1.RootName, v1alpha1.ConditionIssued, status, reason, message)
	}
	issued("IssuerNotFound", "Issuer tulle-system/corporate does not exist: create it or correct spec.meshWide.trust.issuerRef of the root Mesh")

	w.create(caSecret(t, "leaf", func(c *x509.Certificate) { c.IsCA = false }), caIssuer("corporate", "leaf"))
	issued("IssuerNotReady", "Issuer tulle-system/corporate is not ready: ErrInvalidKeyPair: Error getting keypair for CA issuer: certificate is not a CA")

	w.create(caSecret(t, "no-intermediates", func(c *x509.Certificate) { c.MaxPathLenZero = true }), caIssuer("shallow", "no-intermediates"))
	w.update(root, func() { root.Spec.MeshWide.Trust.IssuerRef.Name = "shallow" })
	issued("CannotSign", "Issuer tulle-system/shallow cannot sign workload certificates: x509: too many intermediates for path length constraint: "+
		"choose one that signs CAs in spec.meshWide.trust.issuerRef of the root Mesh")

	good := caSecret(t, "good", nil)
	good.Namespace = "cert-manager" // where cert-manager looks for what a ClusterIssuer names
	w.namespace(good.Namespace)
	w.create(good, &certmanagerv1.ClusterIssuer{ObjectMeta: metav1.ObjectMeta{Name: "good"}, Spec: caIssuer("good", "good").Spec})
	w.update(root, func() {
		root.Spec.MeshWide.Trust.IssuerRef.Name, root.Spec.MeshWide.Trust.IssuerRef.Kind = "good", "ClusterIssuer"
	})
	w.eventually("the good issuer signs", func() error {
		if err := w.get(root); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(root.Status.Conditions, v1alpha1.ConditionIssued); c.Status != metav1.ConditionTrue {
			return apierrors.NewBadRequest(c.Message)
		}
		return nil
	})
	issued("Issued", w.issuedBy("ClusterIssuer good"))
	w.condition(system, v1alpha1.RootName, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "the mesh is ready")
	w.eventually("the mesh's own root is not made, or gone", func() error {
		return w.gone(&certmanagerv1.Certificate{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: identity.RootCertificate}})
	})
	testIssuerBreaks(t, w, root)
}

// testIssuerBreaks: an issuer that is gone disturbs nobody: pods are injected, and old and new proxies have certificates.
func testIssuerBreaks(t *testing.T, w *world, root *v1alpha1.Mesh) {
	const ns = "undisturbed"
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
	start := func(name string) *proxy { return served{namespace: ns}.start(t, w, name) }
	before := start("before")
	signs := w.issuedBy("ClusterIssuer good")
	until := signs[strings.LastIndex(signs, " ")+1:]
	w.update(root, func() { root.Spec.MeshWide.Trust.IssuerRef.Name = "gone" })
	w.condition(ns, ns, v1alpha1.ConditionIssued, metav1.ConditionFalse, "IssuerNotFound",
		"ClusterIssuer gone does not exist: create it or correct spec.meshWide.trust.issuerRef of the root Mesh; "+
			"certificates are signed with the intermediate CA issued before, until "+until)
	start("after")
	if err := before.failure(); !errors.Is(err, errGoesOn) {
		t.Errorf("a stream ended: %v", err)
	}
	w.condition(ns, ns, v1alpha1.ConditionProgrammed, metav1.ConditionTrue, "Programmed", "all 2 proxies hold generation 1")

	// A proxy outlives its Mesh, and its certificates go on being renewed.
	m := mesh(ns, ns, v1alpha1.MeshSpec{})
	w.delete(m)
	w.eventually("the Mesh is gone", func() error { return w.gone(m) })
	last, err := before.certificate()
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("a certificate after the Mesh is gone", func() error {
		next, err := before.certificate()
		if err == nil && next.SerialNumber.Cmp(last.SerialNumber) == 0 {
			err = errors.New("still the one of before")
		}
		return err
	})
	if err := before.failure(); !errors.Is(err, errGoesOn) {
		t.Errorf("the stream ended: %v", err)
	}
}

func caIssuer(name, secret string) *certmanagerv1.Issuer {
	return &certmanagerv1.Issuer{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name},
		Spec:       certmanagerv1.IssuerSpec{IssuerConfig: certmanagerv1.IssuerConfig{CA: &certmanagerv1.CAIssuer{SecretName: secret}}},
	}
}

// caSecret is a self-signed CA's key pair; edit changes its certificate.
func caSecret(t *testing.T, name string, edit func(*x509.Certificate)) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		},
	}
}

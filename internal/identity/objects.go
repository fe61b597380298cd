package identity

import (
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// Lifetimes of what cert-manager issues. Each is renewed when a third of it is left.
const (
	rootDuration            = 10 * 365 * 24 * time.Hour
	intermediateMinDuration = 7 * 24 * time.Hour
	servingDuration         = 30 * 24 * time.Hour
)

// Options say what differs between meshes.
type Options struct {
	// Namespace of the operator, where all objects are.
	Namespace string
	// IssuerRef is spec.meshWide.trust.issuerRef; nil for the mesh's own root.
	IssuerRef *v1alpha1.IssuerRef
	// CertificateDuration is the lifetime of a workload's certificate.
	CertificateDuration time.Duration
}

// Issuer returns the reference to the issuer that signs the intermediate and the servers' certificates.
func (o Options) Issuer() cmmeta.IssuerReference {
	ref := cmmeta.IssuerReference{Name: CAIssuer, Kind: certmanagerv1.IssuerKind, Group: certmanagerv1.SchemeGroupVersion.Group}
	if o.IssuerRef == nil {
		return ref
	}
	ref.Name = o.IssuerRef.Name
	if o.IssuerRef.Kind != "" {
		ref.Kind = o.IssuerRef.Kind
	}
	if o.IssuerRef.Group != "" {
		ref.Group = o.IssuerRef.Group
	}
	return ref
}

// Desired returns the objects that make cert-manager issue what the mesh needs.
func Desired(o Options) []client.Object {
	objects := []client.Object{
		o.intermediate(),
		o.serving(WebhookCertificate, WebhookService, ConversionService),
		o.serving(ControlPlaneCertificate, ControlPlaneService),
	}
	if o.IssuerRef != nil {
		return objects
	}
	return append(o.ownRoot(), objects...)
}

// Obsolete returns the objects that another issuerRef asked for and this one does not. The root's Secret stays, as cert-manager
// leaves it, so that going back finds the same root.
func Obsolete(o Options) []client.Object {
	if o.IssuerRef == nil {
		return nil
	}
	return o.ownRoot()
}

// ownRoot is the chain bootstrap Issuer, root Certificate, CA Issuer.
func (o Options) ownRoot() []client.Object {
	root := o.certificate(RootCertificate, rootDuration)
	root.Spec.CommonName = "Tulle root CA"
	root.Spec.IsCA = true
	root.Spec.Usages = caUsages()
	// A renewed root keeps its key, so that what it signed before verifies against it too.
	root.Spec.PrivateKey.RotationPolicy = certmanagerv1.RotationPolicyNever
	root.Spec.IssuerRef = cmmeta.IssuerReference{
		Name: BootstrapIssuer, Kind: certmanagerv1.IssuerKind, Group: certmanagerv1.SchemeGroupVersion.Group,
	}
	return []client.Object{
		o.issuer(BootstrapIssuer, certmanagerv1.IssuerConfig{SelfSigned: &certmanagerv1.SelfSignedIssuer{}}),
		root,
		o.issuer(CAIssuer, certmanagerv1.IssuerConfig{CA: &certmanagerv1.CAIssuer{SecretName: RootCertificate}}),
	}
}

// intermediate lives at least three times as long as what it signs: when it is renewed, with a third of its life left,
// no workload certificate has to be shorter than asked for.
func (o Options) intermediate() *certmanagerv1.Certificate {
	c := o.certificate(Intermediate, max(intermediateMinDuration, 3*o.CertificateDuration))
	c.Spec.CommonName = "Tulle intermediate CA"
	c.Spec.IsCA = true
	c.Spec.Usages = caUsages()
	return c
}

func (o Options) serving(name string, services ...string) *certmanagerv1.Certificate {
	c := o.certificate(name, servingDuration)
	for _, service := range services {
		c.Spec.DNSNames = append(c.Spec.DNSNames, ServerName(service, o.Namespace))
	}
	c.Spec.Usages = []certmanagerv1.KeyUsage{certmanagerv1.UsageDigitalSignature, certmanagerv1.UsageServerAuth}
	return c
}

func (o Options) certificate(name string, duration time.Duration) *certmanagerv1.Certificate {
	return &certmanagerv1.Certificate{
		TypeMeta:   metav1.TypeMeta{APIVersion: certmanagerv1.SchemeGroupVersion.String(), Kind: certmanagerv1.CertificateKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: name},
		Spec: certmanagerv1.CertificateSpec{
			SecretName:  name,
			Duration:    &metav1.Duration{Duration: duration},
			RenewBefore: &metav1.Duration{Duration: duration / 3},
			IssuerRef:   o.Issuer(),
			PrivateKey: &certmanagerv1.CertificatePrivateKey{
				Algorithm:      certmanagerv1.ECDSAKeyAlgorithm,
				Size:           256,
				Encoding:       certmanagerv1.PKCS8,
				RotationPolicy: certmanagerv1.RotationPolicyAlways,
			},
		},
	}
}

func (o Options) issuer(name string, config certmanagerv1.IssuerConfig) *certmanagerv1.Issuer {
	return &certmanagerv1.Issuer{
		TypeMeta:   metav1.TypeMeta{APIVersion: certmanagerv1.SchemeGroupVersion.String(), Kind: certmanagerv1.IssuerKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: name},
		Spec:       certmanagerv1.IssuerSpec{IssuerConfig: config},
	}
}

func caUsages() []certmanagerv1.KeyUsage {
	return []certmanagerv1.KeyUsage{certmanagerv1.UsageCertSign, certmanagerv1.UsageCRLSign, certmanagerv1.UsageDigitalSignature}
}

package identity

import (
	"errors"
	"fmt"
	"testing"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

func issuerStatus(status cmmeta.ConditionStatus, reason, message string) *certmanagerv1.IssuerStatus {
	return &certmanagerv1.IssuerStatus{Conditions: []certmanagerv1.IssuerCondition{
		{Type: certmanagerv1.IssuerConditionReady, Status: status, Reason: reason, Message: message},
	}}
}

func certificate(name string, conditions ...certmanagerv1.CertificateCondition) *certmanagerv1.Certificate {
	return &certmanagerv1.Certificate{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: name, Generation: 1},
		Status:     certmanagerv1.CertificateStatus{Conditions: conditions},
	}
}

func ready(status cmmeta.ConditionStatus, reason, message string) certmanagerv1.CertificateCondition {
	return certmanagerv1.CertificateCondition{Type: certmanagerv1.CertificateConditionReady, Status: status, Reason: reason, Message: message, ObservedGeneration: 1}
}

func TestIssued(t *testing.T) {
	root := issue(t, nil, 1000*time.Hour, nil)
	intermediate := issue(t, &root, 167*time.Hour, nil)
	authority, err := ParseAuthority(intermediate.crt(), intermediate.keyPEM(t), root.crt(), "cluster.local", epoch)
	if err != nil {
		t.Fatal(err)
	}
	good := func() Issuance {
		i := Issuance{
			Options: Options{Namespace: "tulle-system"}, CertManager: true, Issuer: issuerStatus(cmmeta.ConditionTrue, "", ""),
			Certificates: map[string]*certmanagerv1.Certificate{}, Authority: authority, Now: epoch,
		}
		for _, name := range []string{RootCertificate, Intermediate, WebhookCertificate, ControlPlaneCertificate} {
			i.Certificates[name] = certificate(name, ready(cmmeta.ConditionTrue, "Ready", ""))
		}
		return i
	}
	const meanwhile = "; certificates are signed with the intermediate CA issued before, until 2026-03-08T11:00:00Z"
	foreign := &v1alpha1.IssuerRef{Name: "corporate", Kind: "ClusterIssuer", Group: "cert-manager.io"}

	tests := []struct {
		name            string
		edit            func(*Issuance)
		reason, message string
	}{
		{"good", func(*Issuance) {}, "Issued", "Issuer tulle-system/tulle-ca signs; the intermediate CA is valid until 2026-03-08T11:00:00Z"},
		{"no cert-manager", func(i *Issuance) { i.CertManager = false }, "CertManagerMissing",
			"cert-manager is not installed (no CustomResourceDefinition certificates.cert-manager.io): install it; Tulle goes on by itself then"},
		{"issuer missing", func(i *Issuance) { i.Options.IssuerRef, i.Issuer = foreign, nil }, "IssuerNotFound",
			"ClusterIssuer corporate does not exist: create it or correct spec.meshWide.trust.issuerRef of the root Mesh" + meanwhile},
		{"issuer missing at first", func(i *Issuance) { i.Options.IssuerRef, i.Issuer, i.Authority = foreign, nil, nil }, "IssuerNotFound",
			"ClusterIssuer corporate does not exist: create it or correct spec.meshWide.trust.issuerRef of the root Mesh"},
		{"issuer not ready", func(i *Issuance) {
			i.Issuer = issuerStatus(cmmeta.ConditionFalse, "ErrInvalidKeyPair", "signing certificate is not a CA")
		}, "IssuerNotReady", "Issuer tulle-system/tulle-ca is not ready: ErrInvalidKeyPair: signing certificate is not a CA" + meanwhile},
		{"issuer of another group", func(i *Issuance) {
			i.Options.IssuerRef, i.Issuer = &v1alpha1.IssuerRef{Name: "x", Kind: "StepIssuer", Group: "certmanager.step.sm"}, nil
		}, "Issued", "StepIssuer.certmanager.step.sm tulle-system/x signs; the intermediate CA is valid until 2026-03-08T11:00:00Z"},
		{"cannot sign", func(i *Issuance) {
			i.Options.IssuerRef, i.Authority = foreign, nil
			i.AuthorityError = fmt.Errorf("%w: the issued certificate is not a CA (isCA was asked for)", ErrCannotSign)
		}, "CannotSign", "ClusterIssuer corporate cannot sign workload certificates: the issued certificate is not a CA (isCA was asked for): " +
			"choose one that signs CAs in spec.meshWide.trust.issuerRef of the root Mesh"},
		{"unreadable", func(i *Issuance) { i.AuthorityError = errors.New("tls.key: bad") }, "NotIssued",
			"Secret tulle-system/tulle-intermediate: tls.key: bad" + meanwhile},
		{"not issued yet", func(i *Issuance) {
			i.Authority = nil
			i.Certificates[Intermediate] = certificate(Intermediate, ready(cmmeta.ConditionFalse, "DoesNotExist", "Issuing certificate as Secret does not exist"))
		}, "NotIssued", "Certificate tulle-system/tulle-intermediate: DoesNotExist: Issuing certificate as Secret does not exist"},
		{"renewal fails", func(i *Issuance) {
			i.Certificates[Intermediate] = certificate(Intermediate, ready(cmmeta.ConditionFalse, "Expired", "old"),
				certmanagerv1.CertificateCondition{Type: certmanagerv1.CertificateConditionIssuing, Status: cmmeta.ConditionFalse, Reason: "Failed", Message: "vault is sealed"})
		}, "RenewalFailing", "Certificate tulle-system/tulle-intermediate: Failed: vault is sealed" + meanwhile},
		{"serving not issued", func(i *Issuance) { delete(i.Certificates, WebhookCertificate) }, "RenewalFailing",
			"Certificate tulle-system/tulle-webhook-tls: not made yet" + meanwhile},
		{"ready for an older spec", func(i *Issuance) { i.Certificates[Intermediate].Generation = 2 }, "RenewalFailing",
			"Certificate tulle-system/tulle-intermediate: cert-manager has not looked at its newest generation yet" + meanwhile},
		{"expiring", func(i *Issuance) { i.Now = epoch.Add(140 * time.Hour) }, "Expiring",
			"the intermediate CA ends at 2026-03-08T11:00:00Z and cert-manager has not renewed it: see Certificate tulle-system/tulle-intermediate"},
		{"somebody else's object", func(i *Issuance) {
			i.Conflict = errors.New("Issuer tulle-system/tulle-ca exists and was not made by Tulle")
		}, "Conflicted",
			"Issuer tulle-system/tulle-ca exists and was not made by Tulle"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := good()
			tt.edit(&i)
			want := Verdict{Status: metav1.ConditionFalse, Reason: tt.reason, Message: tt.message}
			if tt.reason == ReasonIssued {
				want.Status = metav1.ConditionTrue
			}
			if got := i.Issued(); got != want {
				t.Errorf("got\n%+v\nwant\n%+v", got, want)
			}
		})
	}
}

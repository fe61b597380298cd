package identity

import (
	"errors"
	"fmt"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the condition Issued.
const (
	ReasonIssued             = "Issued"
	ReasonPending            = "Pending"
	ReasonConflicted         = "Conflicted"
	ReasonNotApplied         = "NotApplied"
	ReasonCertManagerMissing = "CertManagerMissing"
	ReasonIssuerNotFound     = "IssuerNotFound"
	ReasonIssuerNotReady     = "IssuerNotReady"
	ReasonCannotSign         = "CannotSign"
	ReasonNotIssued          = "NotIssued"
	ReasonRenewalFailing     = "RenewalFailing"
	ReasonExpiring           = "Expiring"
)

// Issuance is what is known of the mesh's certificates.
type Issuance struct {
	// Options that the objects were made from.
	Options Options
	// CertManager is false when its CRDs are not served.
	CertManager bool
	// Issuer is the issuer's state; nil when there is none. It is not looked for when its group is not cert-manager's own.
	Issuer *certmanagerv1.IssuerStatus
	// Certificates are those that Desired asks for, by name, as far as they exist.
	Certificates map[string]*certmanagerv1.Certificate
	// Authority is what this replica signs with; nil when there is nothing yet.
	Authority *Authority
	// AuthorityError says why the intermediate's Secret can't be used.
	AuthorityError error
	// Unusable says why the newest certificate of a server can't be used.
	Unusable error
	// Waiting says why what the intermediate's Secret holds must not be used yet; empty when it is in use.
	Waiting string
	// Conflict names an object of ours that somebody else made; ApplyError says why one can't be made for other reasons.
	Conflict, ApplyError error
	// Now is the time to judge by.
	Now time.Time
}

// Verdict is the value of a condition.
type Verdict struct {
	Status          metav1.ConditionStatus
	Reason, Message string
}

// Issued says whether the mesh can issue certificates and, if not, whose fault it is and what helps.
func (i Issuance) Issued() Verdict {
	for _, check := range []func() (reason, message string){
		i.certManager, i.applied, i.issuer, i.authority, i.certificates, i.expiry,
	} {
		if reason, message := check(); reason != "" {
			return Verdict{Status: metav1.ConditionFalse, Reason: reason, Message: message}
		}
	}
	message := fmt.Sprintf("%s signs; the intermediate CA is valid until %s", i.issuerName(), stamp(i.Authority.NotAfter()))
	if i.Waiting != "" {
		message += "; its successor waits: " + i.Waiting
	}
	return Verdict{Status: metav1.ConditionTrue, Reason: ReasonIssued, Message: message}
}

func (i Issuance) certManager() (reason, message string) {
	if i.CertManager {
		return "", ""
	}
	return ReasonCertManagerMissing, "cert-manager is not installed (no CustomResourceDefinition certificates.cert-manager.io): " +
		"install it; Tulle goes on by itself then"
}

func (i Issuance) applied() (reason, message string) {
	switch {
	case i.Conflict != nil:
		return ReasonConflicted, i.Conflict.Error()
	case i.ApplyError != nil:
		return ReasonNotApplied, i.ApplyError.Error() + i.meanwhile()
	}
	return "", ""
}

func (i Issuance) issuer() (reason, message string) {
	if i.Options.Issuer().Group != certmanagerv1.SchemeGroupVersion.Group {
		return "", ""
	}
	if i.Issuer == nil {
		if i.Options.IssuerRef == nil {
			return ReasonIssuerNotFound, i.issuerName() + " does not exist yet"
		}
		return ReasonIssuerNotFound, i.issuerName() +
			" does not exist: create it or correct spec.meshWide.trust.issuerRef of the root Mesh" + i.meanwhile()
	}
	for _, c := range i.Issuer.Conditions {
		if c.Type == certmanagerv1.IssuerConditionReady && c.Status == cmmeta.ConditionTrue {
			return "", ""
		}
		if c.Type == certmanagerv1.IssuerConditionReady {
			return ReasonIssuerNotReady, fmt.Sprintf("%s is not ready: %s: %s%s", i.issuerName(), c.Reason, c.Message, i.meanwhile())
		}
	}
	return ReasonIssuerNotReady, i.issuerName() + " is not ready: cert-manager has not looked at it yet" + i.meanwhile()
}

func (i Issuance) authority() (reason, message string) {
	switch {
	case errors.Is(i.AuthorityError, ErrCannotSign):
		return ReasonCannotSign, fmt.Sprintf("%s %v: choose one that signs CAs in spec.meshWide.trust.issuerRef of the root Mesh%s",
			i.issuerName(), i.AuthorityError, i.meanwhile())
	case i.AuthorityError != nil:
		return ReasonNotIssued, fmt.Sprintf("Secret %s/%s: %v%s", i.Options.Namespace, Intermediate, i.AuthorityError, i.meanwhile())
	case i.Unusable != nil:
		return ReasonNotIssued, fmt.Sprintf("%v; the certificate before serves on", i.Unusable)
	}
	return "", ""
}

func (i Issuance) certificates() (reason, message string) {
	names := []string{Intermediate, ControlPlaneCertificate, WebhookCertificate}
	if i.Options.IssuerRef == nil {
		names = append([]string{RootCertificate}, names...)
	}
	for _, name := range names {
		if why := i.certificate(name); why != "" {
			reason := ReasonNotIssued
			if i.Authority != nil {
				reason = ReasonRenewalFailing
			}
			return reason, fmt.Sprintf("Certificate %s/%s: %s%s", i.Options.Namespace, name, why, i.meanwhile())
		}
	}
	if i.Authority == nil && i.Waiting != "" {
		return ReasonNotIssued, fmt.Sprintf("the intermediate CA of Secret %s/%s waits: %s", i.Options.Namespace, Intermediate, i.Waiting)
	}
	if i.Authority == nil {
		return ReasonNotIssued, fmt.Sprintf("Secret %s/%s has not been read yet", i.Options.Namespace, Intermediate)
	}
	return "", ""
}

// certificate returns cert-manager's own words for why a Certificate is not ready; empty when it is.
func (i Issuance) certificate(name string) string {
	c := i.Certificates[name]
	if c == nil {
		return "not made yet"
	}
	why := "cert-manager has not looked at it yet"
	for _, condition := range c.Status.Conditions {
		if condition.Type == certmanagerv1.CertificateConditionReady {
			if condition.Status == cmmeta.ConditionTrue && condition.ObservedGeneration == c.Generation {
				return ""
			}
			why = condition.Reason + ": " + condition.Message
			if condition.ObservedGeneration != c.Generation {
				why = "cert-manager has not looked at its newest generation yet"
			}
		}
	}
	// The last attempt says more than that there is no Secret.
	for _, condition := range c.Status.Conditions {
		if condition.Type == certmanagerv1.CertificateConditionIssuing && condition.Status == cmmeta.ConditionFalse {
			why = condition.Reason + ": " + condition.Message
		}
	}
	return why
}

// expiry warns when cert-manager has had the time to renew twice and did not: it begins with a third of the life left.
func (i Issuance) expiry() (reason, message string) {
	if !i.Authority.lineage.ending(i.Now) {
		return "", ""
	}
	return ReasonExpiring, fmt.Sprintf("the intermediate CA ends at %s and cert-manager has not renewed it: see Certificate %s/%s",
		stamp(i.Authority.NotAfter()), i.Options.Namespace, Intermediate)
}

// meanwhile says how long what was issued before still serves.
func (i Issuance) meanwhile() string {
	if i.Authority == nil || !i.Authority.NotAfter().After(i.Now) {
		return ""
	}
	return "; certificates are signed with the intermediate CA issued before, until " + stamp(i.Authority.NotAfter())
}

func (i Issuance) issuerName() string {
	ref := i.Options.Issuer()
	name := ref.Name
	if ref.Kind != certmanagerv1.ClusterIssuerKind {
		name = i.Options.Namespace + "/" + name
	}
	if ref.Group != certmanagerv1.SchemeGroupVersion.Group {
		return ref.Kind + "." + ref.Group + " " + name
	}
	return ref.Kind + " " + name
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

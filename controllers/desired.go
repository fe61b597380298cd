package controllers

import (
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/webhooks"
)

// Desired returns all that the reconcilers keep for a snapshot, besides what holds issued certificates: the objects that
// cert-manager issues from, the webhook configurations, and what the pods of each namespace mount. What depends on issued
// certificates is left empty in them. It is for those who want to know before it is applied.
func Desired(namespace string, s *model.Snapshot) ([]client.Object, error) {
	wide := s.Reader().MeshWide()
	desired := identity.Desired(identity.Options{Namespace: namespace, IssuerRef: wide.Issuer, CertificateDuration: wide.CertificateDuration})
	desired = append(desired, webhooks.Configurations(enrolled(s), webhooks.Target{
		Service: types.NamespacedName{Namespace: namespace, Name: identity.WebhookService},
	})...)
	maps, err := bootstrapConfigMaps(bootstrapNamespaces(s), identity.ServerName(identity.ControlPlaneService, namespace), nil)
	return append(desired, maps...), err
}

// Foreign returns a *ConflictError when an object that exists was not made by Tulle: it stays as it is.
func Foreign(kind string, live client.Object) error {
	if live.GetLabels()[managedByLabel] == managedBy {
		return nil
	}
	return &ConflictError{Kind: kind, Namespace: live.GetNamespace(), Name: live.GetName()}
}

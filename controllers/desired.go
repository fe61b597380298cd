package controllers

import (
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/webhooks"
)

// Surroundings are what the objects that Tulle keeps depend on besides the mesh.
type Surroundings struct {
	// Service returns a Service; nil when there is none.
	Service func(client.ObjectKey) *corev1.Service
	// Live returns the object of that kind and name; nil when there is none.
	Live func(client.Object) client.Object
	// Monitoring are the kinds of the Prometheus Operator that there are.
	Monitoring []string
}

// Desired returns all that the reconcilers keep for a snapshot, besides what holds issued certificates: the objects that
// cert-manager issues from, the webhook configurations, what the pods of each namespace mount, what weighted rules are made into, and monitors. What
// depends on issued certificates is left empty in them. It is for those who want to know before it is applied.
//
// The conflicts say which rules are made into nothing, since somebody else has a name that they need.
func Desired(namespace string, s *model.Snapshot, around Surroundings) ([]client.Object, []SplitConflict, error) {
	wide := s.Reader().MeshWide()
	desired := identity.Desired(identity.Options{Namespace: namespace, IssuerRef: wide.Issuer, CertificateDuration: wide.CertificateDuration})
	desired = append(desired, webhooks.Configurations(enrolled(s), webhooks.Target{
		Service: types.NamespacedName{Namespace: namespace, Name: identity.WebhookService},
	})...)
	maps, err := bootstrapConfigMaps(bootstrapNamespaces(s), identity.ServerName(identity.ControlPlaneService, namespace), nil)
	desired = append(desired, maps...)
	decided := decideSplits(s, nil, smi.TrafficSplits().Hub(), around.Service, func(o client.Object) (client.Object, error) { return around.Live(o), nil })
	for _, d := range decided {
		desired, err = append(desired, d.objects...), errors.Join(err, d.err)
	}
	for _, n := range monitorsOf(namespace, s) {
		for _, o := range n.objects {
			if slices.Contains(around.Monitoring, o.GetKind()) {
				desired = append(desired, o)
			}
		}
	}
	return desired, conflictsOf(decided), err
}

// Foreign returns a *ConflictError when an object that exists was not made by Tulle: it stays as it is.
func Foreign(kind string, live client.Object) error {
	if live.GetLabels()[managedByLabel] == managedBy {
		return nil
	}
	return &ConflictError{Kind: kind, Namespace: live.GetNamespace(), Name: live.GetName()}
}

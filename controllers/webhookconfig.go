package controllers

import (
	"context"
	"errors"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/webhooks"
)

// Webhooks keeps the webhook configurations current: which namespaces are enrolled, and who signed the webhooks' certificate.
type Webhooks struct {
	// Panics counts what panicked.
	Panics    *contain.Panics
	Namespace string
	// Never are the namespaces that are never part of the mesh.
	Never            []string
	World            *World
	Materials        *identity.Materials
	MaterialsChanged *Signal
	Findings         *Findings
	Applier          *Applier
	// Cache is the manager's.
	Cache cache.Cache

	namespace *metav1.OwnerReference
}

// SetupWithManager adds the reconciler to a manager.
func (w *Webhooks) SetupWithManager(m manager.Manager) error {
	return builder.ControllerManagedBy(m).Named("webhooks").WithOptions(options()).
		WatchesRawSource(w.World.Reshaped.Source(0)).
		WatchesRawSource(w.MaterialsChanged.Source(0)).
		WatchesRawSource(source.Kind(w.Cache, client.Object(&admissionregistrationv1.MutatingWebhookConfiguration{}), always())).
		WatchesRawSource(source.Kind(w.Cache, client.Object(&admissionregistrationv1.ValidatingWebhookConfiguration{}), always())).
		Complete(contained(w.Panics, "webhooks", w))
}

// Reconcile implements reconcile.Reconciler.
func (w *Webhooks) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	snapshot, ca := w.World.Snapshot(), w.Materials.WebhookCA()
	if snapshot == nil || ca == nil {
		return reconcile.Result{}, nil
	}
	owner, err := w.owner(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	err = w.Applier.Apply(ctx, webhooks.Configurations(enrolled(snapshot), webhooks.Target{
		Service:  types.NamespacedName{Namespace: w.Namespace, Name: identity.WebhookService},
		CABundle: ca,
		Never:    w.Never,
		Owner:    owner,
	})...)
	conflict, rest := conflictsIn(err)
	if conflict != nil {
		w.Findings.setWebhooks(conflict)
	} else {
		w.Findings.setWebhooks(nil)
	}
	if err == nil {
		w.Findings.setCarried(webhooksCarry, ca)
	}
	return reconcile.Result{}, rest
}

// owner is the operator's Namespace: the configurations go with it, or no pod of an enrolled namespace could start any more. It is
// the only Namespace that the operator may read, and it is the same for as long as the operator lives.
func (w *Webhooks) owner(ctx context.Context) (*metav1.OwnerReference, error) {
	if w.namespace == nil {
		var namespace corev1.Namespace
		if err := w.Applier.Direct.Get(ctx, client.ObjectKey{Name: w.Namespace}, &namespace); err != nil {
			return nil, errors.Join(errors.New("read the operator's Namespace"), err)
		}
		w.namespace = &metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: namespace.Name, UID: namespace.UID}
	}
	return w.namespace, nil
}

// enrolled are the namespaces with a Mesh that enrols them.
func enrolled(s *model.Snapshot) []string {
	var names []string
	reader := s.Reader()
	for _, name := range s.Namespaces() {
		if reader.Namespace(name).Meshed {
			names = append(names, name)
		}
	}
	return names
}

package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// Bundle keeps the ConfigMap of all roots that the mesh trusts: those of before stay until they expire, so that what they
// signed is still accepted while it is replaced. To forget one earlier, take it out of the ConfigMap, or delete that.
type Bundle struct {
	// Panics counts what panicked.
	Panics           *contain.Panics
	Namespace        string
	Materials        *identity.Materials
	MaterialsChanged *Signal
	// Applier reads directly.
	Applier *Applier
}

// SetupWithManager adds the reconciler to a manager.
func (b *Bundle) SetupWithManager(m manager.Manager) error {
	return builder.ControllerManagedBy(m).Named("trust-bundle").WithOptions(options()).
		WatchesRawSource(b.MaterialsChanged.Source(0)).
		Complete(contained(b.Panics, "trust-bundle", b))
}

// Reconcile implements reconcile.Reconciler.
func (b *Bundle) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	authority, _ := b.Materials.Authority()
	if authority == nil {
		return reconcile.Result{}, nil
	}
	live := trustConfigMap(b.Namespace, nil)
	if err := client.IgnoreNotFound(b.Applier.Direct.Get(ctx, client.ObjectKeyFromObject(live), live)); err != nil {
		return reconcile.Result{}, fmt.Errorf("read ConfigMap %s: %w", client.ObjectKeyFromObject(live), err)
	}
	// What is no root in the ConfigMap is dropped from it; that is no reason to stop.
	roots, _ := identity.Bundle(time.Now(), []byte(live.Data[identity.CAKey]), authority.Roots())
	if len(roots) == 0 {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: time.Hour}, b.Applier.Apply(ctx, trustConfigMap(b.Namespace, roots))
}

// trustConfigMap is the ConfigMap that holds roots.
func trustConfigMap(namespace string, roots []byte) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: identity.TrustConfigMap},
		Data:       map[string]string{identity.CAKey: string(roots)},
	}
}

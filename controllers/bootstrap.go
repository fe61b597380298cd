package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tulle-mesh/tulle/internal/bootstrap"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Bootstrap keeps, in each namespace with a Mesh or with pods that have our sidecar, the ConfigMap that these mount: how to verify
// the control plane. It belongs to no Mesh: pods need it until they end, also after their Mesh is gone.
type Bootstrap struct {
	// Panics counts what panicked.
	Panics           *contain.Panics
	Namespace        string
	World            *World
	Materials        *identity.Materials
	MaterialsChanged *Signal
	Findings         *Findings
	Applier          *Applier
	// Cache is the manager's.
	Cache cache.Cache
}

// SetupWithManager adds the reconciler to a manager.
func (b *Bootstrap) SetupWithManager(m manager.Manager) error {
	return builder.ControllerManagedBy(m).Named("bootstrap").WithOptions(options()).
		WatchesRawSource(b.World.Reshaped.Source(0)).
		WatchesRawSource(b.MaterialsChanged.Source(0)).
		WatchesRawSource(source.Kind(b.Cache, client.Object(&corev1.ConfigMap{}), always())).
		Complete(contained(b.Panics, "bootstrap", b))
}

// Reconcile implements reconcile.Reconciler.
func (b *Bootstrap) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	snapshot := b.World.Snapshot()
	if snapshot == nil || !b.Materials.ControlPlane.Ready() {
		return reconcile.Result{}, nil
	}
	ca, err := b.Materials.ControlPlaneCA()
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("CA bundle of the control plane: %w", err)
	}
	namespaces := bootstrapNamespaces(snapshot)
	desired, err := bootstrapConfigMaps(namespaces, identity.ServerName(identity.ControlPlaneService, b.Namespace), ca)
	if err != nil {
		return reconcile.Result{}, err
	}
	err = b.apply(ctx, desired)
	if err == nil {
		b.Findings.setCarried(bootstrapCarries, ca)
	}
	return reconcile.Result{}, errors.Join(err, b.prune(ctx, namespaces))
}

func (b *Bootstrap) apply(ctx context.Context, desired []client.Object) error {
	conflicts := map[string]error{}
	var errs []error
	for _, o := range desired {
		err := b.Applier.Apply(ctx, o)
		conflict, rest := conflictsIn(err)
		if conflict != nil {
			conflicts[o.GetNamespace()] = conflict
		}
		// A namespace that ends needs nothing any more.
		if rest != nil && !apierrors.HasStatusCause(rest, corev1.NamespaceTerminatingCause) {
			errs = append(errs, rest)
		}
	}
	b.Findings.setConflicts(conflicts)
	return errors.Join(errs...)
}

// prune deletes the ConfigMap from namespaces that no longer need it.
func (b *Bootstrap) prune(ctx context.Context, needed []string) error {
	var live corev1.ConfigMapList
	if err := b.Cache.List(ctx, &live); err != nil {
		return fmt.Errorf("list ConfigMaps: %w", err)
	}
	keep := map[string]bool{}
	for _, namespace := range needed {
		keep[namespace] = true
	}
	var errs []error
	for i := range live.Items {
		if o := &live.Items[i]; o.Name == sidecar.BootstrapConfigMap && !keep[o.Namespace] {
			errs = append(errs, b.Applier.Delete(ctx, o))
		}
	}
	return errors.Join(errs...)
}

// bootstrapNamespaces are those with a Mesh that enrols them, and those with pods that have our sidecar.
func bootstrapNamespaces(s *model.Snapshot) []string {
	var needed []string
	reader := s.Reader()
	for _, name := range s.Namespaces() {
		if reader.Namespace(name).Meshed || anyMeshed(s.Workloads(name)) {
			needed = append(needed, name)
		}
	}
	return needed
}

func anyMeshed(workloads []*model.Workload) bool {
	for _, w := range workloads {
		if w.Meshed {
			return true
		}
	}
	return false
}

// bootstrapConfigMaps are what the pods of the namespaces mount.
func bootstrapConfigMaps(namespaces []string, serverName string, ca []byte) ([]client.Object, error) {
	token, err := bootstrap.TokenSDS(sidecar.CredentialsDir)
	if err != nil {
		return nil, err
	}
	trusted, err := bootstrap.CASDS(sidecar.CredentialsDir, serverName)
	if err != nil {
		return nil, err
	}
	var desired []client.Object
	for _, namespace := range namespaces {
		desired = append(desired, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: sidecar.BootstrapConfigMap},
			Data:       map[string]string{bootstrap.CAFile: string(ca), bootstrap.TokenSDSFile: token, bootstrap.CASDSFile: trusted},
		})
	}
	return desired, nil
}

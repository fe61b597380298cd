package controllers

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// Definitions installs the CustomResourceDefinitions of SMI's kinds where there are none, and keeps those that it installed current: their
// versions, and who signed the conversion webhook's certificate. Those of others it leaves alone. It deletes none: that would delete all objects of the kind.
type Definitions struct {
	// Panics counts what panicked.
	Panics           *contain.Panics
	Namespace        string
	Materials        *identity.Materials
	MaterialsChanged *Signal
	Findings         *Findings
	// Applier reads directly.
	Applier *Applier
	// Cache has the metadata of all CustomResourceDefinitions.
	Cache cache.Cache

	told map[types.UID]string
}

// SetupWithManager adds the reconciler to a manager.
func (d *Definitions) SetupWithManager(m manager.Manager) error {
	return builder.ControllerManagedBy(m).Named("smi-definitions").WithOptions(options()).
		WatchesRawSource(d.MaterialsChanged.Source(0)).
		WatchesRawSource(source.Kind(d.Cache, client.Object(crd()), always())).
		Complete(contained(d.Panics, "smi-definitions", d))
}

// Reconcile implements reconcile.Reconciler.
func (d *Definitions) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	ca := d.Materials.WebhookCA()
	if ca == nil {
		return reconcile.Result{}, nil
	}
	desired, err := smi.Definitions(types.NamespacedName{Namespace: d.Namespace, Name: identity.ConversionService}, ca)
	if err != nil {
		return reconcile.Result{}, err
	}
	_, rest := conflictsIn(d.Applier.Apply(ctx, desired...)) // others' definitions are fine
	if rest == nil {
		d.Findings.setCarried(definitionsCarry, ca)
	}
	return reconcile.Result{}, errors.Join(rest, d.look(ctx))
}

// look tells, once each, of definitions of others that Tulle can't use.
func (d *Definitions) look(ctx context.Context) error {
	told := map[types.UID]string{}
	for _, kind := range []smi.Kind{smi.TrafficSplits(), smi.HTTPRouteGroups()} {
		definition := &apiextensionsv1.CustomResourceDefinition{}
		if err := d.Applier.Direct.Get(ctx, client.ObjectKey{Name: kind.CRD()}, definition); err != nil {
			if client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("read CustomResourceDefinition %s: %w", kind.CRD(), err)
			}
			continue
		}
		if _, err := smi.Served(kind, definition); err != nil {
			told[definition.UID] = err.Error()
			if d.told[definition.UID] != err.Error() {
				d.Applier.Events.Eventf(definition, nil, corev1.EventTypeWarning, "VersionNotServed", "Read", "%s", err.Error())
			}
		}
	}
	d.told = told
	return nil
}

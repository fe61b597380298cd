package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// Splits keeps, for each weighted rule of a Mesh, a TrafficSplit and a Service for each of its versions. What a rule does never depends on them: they are for
// tools that read SMI, and for those who want to call one version.
type Splits struct {
	// Panics counts what panicked.
	Panics   *contain.Panics
	World    *World
	Findings *Findings
	// TrafficSplits returns those of the cluster and the version that they are in; none when the kind is not served.
	TrafficSplits func() (version string, all []*unstructured.Unstructured)
	// TrafficSplit returns one of them, as it is there; nil when it is not.
	TrafficSplit func(client.ObjectKey) *unstructured.Unstructured
	// SplitsChanged fires when one of them did.
	SplitsChanged *Signal
	// Applier reads Services from Cache. Setup adds to it how to read TrafficSplits, and where they come from.
	Applier *Applier
	// Cache is the manager's.
	Cache cache.Cache

	origins map[client.ObjectKey]string // by name of what was applied
	looks   splitLooks
}

// SetupWithManager adds the reconciler to a manager.
func (s *Splits) SetupWithManager(m manager.Manager) error {
	s.Applier.Reader = splitReader{s.Applier.Reader, s.TrafficSplit}
	s.Applier.Exact = true
	s.Applier.Origin = func(o client.Object) string { return s.origins[client.ObjectKeyFromObject(o)] }
	ours := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		s.looks.touch(o.GetNamespace())
		if o.GetLabels()[managedByLabel] != managedBy && o.GetLabels()[versionLabel] == "" {
			return nil
		}
		return []reconcile.Request{request}
	})
	return builder.ControllerManagedBy(m).Named("splits").WithOptions(options()).
		WatchesRawSource(s.World.Reshaped.Source(0)).
		WatchesRawSource(s.SplitsChanged.Source(0)).
		WatchesRawSource(source.Kind(s.Cache, client.Object(&corev1.Service{}), ours)).
		Complete(contained(s.Panics, "splits", s))
}

// Reconcile implements reconcile.Reconciler.
func (s *Splits) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	snapshot := s.World.Snapshot()
	if snapshot == nil {
		return reconcile.Result{}, nil
	}
	version, live := s.TrafficSplits()
	look := s.looks.next(snapshot, version, live)
	decided := decideSplits(snapshot, look.at, version, func(key client.ObjectKey) *corev1.Service {
		var service corev1.Service
		if s.Cache.Get(ctx, key, &service) != nil {
			return nil // its arrival wakes
		}
		return &service
	}, func(o client.Object) (client.Object, error) { return s.Applier.live(ctx, o) })
	keep := map[string]bool{}
	origins := map[client.ObjectKey]string{}
	maps.Copy(origins, s.origins)
	maps.DeleteFunc(origins, func(key client.ObjectKey, _ string) bool { return look.at(key.Namespace) })
	s.origins = origins
	for _, d := range decided {
		for _, o := range d.objects {
			keep[splitKey(o)] = true
			s.origins[client.ObjectKeyFromObject(o)] = fmt.Sprintf("%s of Mesh %s/%s", d.field, d.namespace, d.mesh)
		}
	}
	var errs []error
	for _, d := range decided {
		if d.err != nil {
			errs = append(errs, d.err)
			continue
		}
		errs = append(errs, unlessEnding(s.Applier.Apply(ctx, d.objects...)))
	}
	err := errors.Join(append(errs, s.prune(ctx, look, keep, live))...)
	s.Findings.setSplitConflicts(s.looks.done(look, conflictsOf(decided), err))
	return reconcile.Result{}, err
}

// unlessEnding leaves out that a namespace is being deleted: it needs nothing any more.
func unlessEnding(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// prune deletes what is not wanted any more of what Tulle made in the namespaces that are looked at.
func (s *Splits) prune(ctx context.Context, look *splitLook, keep map[string]bool, live []*unstructured.Unstructured) error {
	var errs []error
	for _, split := range live {
		if look.at(split.GetNamespace()) && split.GetLabels()[managedByLabel] == managedBy && model.MadeForMesh(split) && !keep[splitKey(split)] {
			errs = append(errs, s.Applier.Delete(ctx, split))
		}
	}
	namespaces := []string{corev1.NamespaceAll}
	if !look.all {
		namespaces = slices.Sorted(maps.Keys(look.scenes))
	}
	for _, namespace := range namespaces {
		var services corev1.ServiceList
		if err := s.Cache.List(ctx, &services, client.HasLabels{versionLabel}, client.InNamespace(namespace)); err != nil {
			return errors.Join(append(errs, fmt.Errorf("list Services: %w", err))...)
		}
		for i := range services.Items {
			service := &services.Items[i]
			service.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Service"))
			if service.Labels[managedByLabel] == managedBy && model.MadeForMesh(service) && !keep[splitKey(service)] {
				errs = append(errs, s.Applier.Delete(ctx, service))
			}
		}
	}
	return errors.Join(errs...)
}

func splitKey(o client.Object) string {
	return o.GetObjectKind().GroupVersionKind().Kind + " " + o.GetNamespace() + "/" + o.GetName()
}

// splitReader reads TrafficSplits where the model's informer keeps them, and all else as before.
type splitReader struct {
	client.Reader
	split func(client.ObjectKey) *unstructured.Unstructured
}

// Get implements client.Reader.
func (r splitReader) Get(ctx context.Context, key client.ObjectKey, into client.Object, options ...client.GetOption) error {
	u, ok := into.(*unstructured.Unstructured)
	if !ok {
		return r.Reader.Get(ctx, key, into, options...)
	}
	found := r.split(key)
	if found == nil {
		return apierrors.NewNotFound(schema.GroupResource{Group: smi.TrafficSplits().Group, Resource: smi.TrafficSplits().Plural}, key.Name)
	}
	found.DeepCopyInto(u)
	return nil
}

package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
	// SplitsChanged fires when one of them did.
	SplitsChanged *Signal
	// Applier reads Services from Cache. Setup adds to it how to read TrafficSplits, and where they come from.
	Applier *Applier
	// Cache is the manager's.
	Cache cache.Cache

	origins map[client.ObjectKey]string // by name of what was applied
}

// SetupWithManager adds the reconciler to a manager.
func (s *Splits) SetupWithManager(m manager.Manager) error {
	s.Applier.Reader = splitReader{s.Applier.Reader, s.TrafficSplits}
	s.Applier.Exact = true
	s.Applier.Origin = func(o client.Object) string { return s.origins[client.ObjectKeyFromObject(o)] }
	ours := handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
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
	outputs := splitOutputs(snapshot, func(key client.ObjectKey) *corev1.Service {
		var service corev1.Service
		if s.Cache.Get(ctx, key, &service) != nil {
			return nil // its arrival wakes
		}
		return &service
	})
	roots := foreignRoots(live)
	foreign := func(root client.ObjectKey) bool { return roots[root] }
	keep := map[string]bool{}
	s.origins = map[client.ObjectKey]string{}
	var conflicts []SplitConflict
	var errs []error
	for _, out := range outputs {
		if version == "" && out.clash == nil {
			continue // a kind of which nobody can have objects
		}
		wanted, err := out.objects(version, foreign)
		if err == nil {
			err = errors.Join(out.clash, s.conflict(ctx, wanted))
		}
		if conflict, rest := conflictsIn(err); conflict != nil {
			conflicts = append(conflicts, SplitConflict{out.namespace, out.mesh, out.field, conflict.Error()})
			continue
		} else if rest != nil {
			errs = append(errs, rest)
			continue
		}
		for _, o := range wanted {
			keep[splitKey(o)] = true
			s.origins[client.ObjectKeyFromObject(o)] = fmt.Sprintf("%s of Mesh %s/%s", out.field, out.namespace, out.mesh)
		}
		errs = append(errs, unlessEnding(s.Applier.Apply(ctx, wanted...)))
	}
	s.Findings.setSplitConflicts(conflicts)
	return reconcile.Result{}, errors.Join(append(errs, s.prune(ctx, keep, live))...)
}

// unlessEnding leaves out that a namespace is being deleted: it needs nothing any more.
func unlessEnding(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// conflict returns a *ConflictError if somebody else made one of the objects. It comes before all of them are applied: a TrafficSplit of which some Services are
// somebody else's would not say what the rule says.
func (s *Splits) conflict(ctx context.Context, wanted []client.Object) error {
	for _, o := range wanted {
		live, err := s.Applier.live(ctx, o)
		if err != nil {
			return err
		}
		if live == nil {
			continue
		}
		kind := o.GetObjectKind().GroupVersionKind().Kind
		if err := Foreign(kind, live); err != nil {
			return err
		}
	}
	return nil
}

// prune deletes what is not wanted any more of what Tulle made.
func (s *Splits) prune(ctx context.Context, keep map[string]bool, live []*unstructured.Unstructured) error {
	var errs []error
	for _, split := range live {
		if split.GetLabels()[managedByLabel] == managedBy && model.MadeForMesh(split) && !keep[splitKey(split)] {
			errs = append(errs, s.Applier.Delete(ctx, split))
		}
	}
	var services corev1.ServiceList
	if err := s.Cache.List(ctx, &services, client.HasLabels{versionLabel}); err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	for i := range services.Items {
		service := &services.Items[i]
		service.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Service"))
		if service.Labels[managedByLabel] == managedBy && model.MadeForMesh(service) && !keep[splitKey(service)] {
			errs = append(errs, s.Applier.Delete(ctx, service))
		}
	}
	return errors.Join(errs...)
}

func splitKey(o client.Object) string {
	return o.GetObjectKind().GroupVersionKind().Kind + " " + o.GetNamespace() + "/" + o.GetName()
}

// foreignRoots are the Services of which somebody else says in a TrafficSplit how to split them, usable or not.
func foreignRoots(all []*unstructured.Unstructured) map[client.ObjectKey]bool {
	roots := map[client.ObjectKey]bool{}
	for _, split := range all {
		if model.MadeForMesh(split) {
			continue
		}
		if text, _, _ := unstructured.NestedString(split.Object, "spec", "service"); text != "" {
			roots[RootOf(split.GetNamespace(), text)] = true
		}
	}
	return roots
}

// RootOf is the Service that a TrafficSplit of a namespace names, which may be written as a domain name.
func RootOf(namespace, service string) client.ObjectKey {
	name, _, _ := strings.Cut(service, ".")
	return client.ObjectKey{Namespace: namespace, Name: name}
}

// splitReader reads TrafficSplits where the model's informer keeps them, and all else as before.
type splitReader struct {
	client.Reader
	splits func() (string, []*unstructured.Unstructured)
}

// Get implements client.Reader.
func (r splitReader) Get(ctx context.Context, key client.ObjectKey, into client.Object, options ...client.GetOption) error {
	u, ok := into.(*unstructured.Unstructured)
	if !ok {
		return r.Reader.Get(ctx, key, into, options...)
	}
	version, all := r.splits()
	if i := slices.IndexFunc(all, func(s *unstructured.Unstructured) bool { return client.ObjectKeyFromObject(s) == key }); i >= 0 {
		all[i].DeepCopyInto(u)
		return nil
	}
	return apierrors.NewNotFound(smi.TrafficSplits().Resource(version).GroupResource(), key.Name)
}

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/monitoring"
	"github.com/tulle-mesh/tulle/internal/status"
)

const (
	// monitorsDelay gathers what changes together: few changes of the mesh concern monitors. It is shorter than statusDelay, so that a
	// status is written once.
	monitorsDelay = 100 * time.Millisecond
	// kindsWait is how long to wait for kinds that were just defined before it is told that they can't be read.
	kindsWait = 10 * time.Second
	// kindsRetry is how soon kinds that are not served are asked for again after kindsWait.
	kindsRetry = 30 * time.Second
)

// monitoringKinds are the kinds of the Prometheus Operator: those that are made, by the one name that they have, and Prometheus, which
// says what it selects.
func monitoringKinds() []Kind {
	made := cache.ByObject{Field: named(monitoring.Name)}
	return []Kind{
		{monitoring.GVK(monitoring.PodMonitor), "podmonitors.monitoring.coreos.com", made},
		{monitoring.GVK(monitoring.ServiceMonitor), "servicemonitors.monitoring.coreos.com", made},
		{monitoring.GVK(monitoring.PrometheusRule), "prometheusrules.monitoring.coreos.com", made},
		{monitoring.GVK(monitoring.Prometheus), "prometheuses.monitoring.coreos.com", cache.ByObject{Transform: onlySelectors}},
	}
}

// onlySelectors drops what a Prometheus says besides what it selects: pods' templates are large.
func onlySelectors(in any) (any, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	u.SetManagedFields(nil)
	u.SetAnnotations(nil)
	delete(u.Object, "status")
	if spec, ok := u.Object["spec"].(map[string]any); ok {
		maps.DeleteFunc(spec, func(field string, _ any) bool { return !strings.HasSuffix(field, "Selector") })
	}
	return u, nil
}

// Monitors keeps the objects by which a Prometheus finds the metrics of the mesh, and those of Tulle itself with the rules for them,
// where the cluster has their kinds.
type Monitors struct {
	// Panics counts what panicked.
	Panics    *contain.Panics
	Namespace string
	World     *World
	Findings  *Findings
	Kinds     *Kinds
	// Applier reads from Kinds.
	Applier *Applier
	// Cache is the manager's.
	Cache cache.Cache

	// since is when a kind was first defined and not read yet; zero when there is none.
	since time.Time
}

// SetupWithManager adds the reconciler to a manager.
func (m *Monitors) SetupWithManager(term manager.Manager) error {
	if err := term.Add(m.Kinds); err != nil {
		return err
	}
	return builder.ControllerManagedBy(term).Named("monitors").WithOptions(options()).
		WatchesRawSource(m.World.Reshaped.Source(monitorsDelay)).
		WatchesRawSource(m.Kinds.Changed.Source(0)).
		WatchesRawSource(source.Kind(m.Cache, client.Object(crd()), always())).
		Complete(contained(m.Panics, "monitors", m))
}

// Reconcile implements reconcile.Reconciler.
func (m *Monitors) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	snapshot := m.World.Snapshot()
	if snapshot == nil {
		return reconcile.Result{}, nil
	}
	kinds, wait, err := m.follow(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	if wait == crdRetry {
		return reconcile.Result{RequeueAfter: wait}, nil // what was found before holds until the kinds are known
	}
	prometheuses, err := m.prometheuses(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	found := map[string]status.Monitoring{}
	var keep []client.Object
	var errs []error
	for _, n := range monitorsOf(m.Namespace, snapshot) {
		result := m.make(ctx, n, kinds)
		if result.Err != nil && !apierrors.HasStatusCause(result.Err, corev1.NamespaceTerminatingCause) {
			errs = append(errs, result.Err)
		}
		n.judge(&result, prometheuses)
		for _, o := range n.objects {
			keep = append(keep, o)
		}
		found[n.name] = result
	}
	m.Findings.setMonitoring(found)
	return reconcile.Result{RequeueAfter: wait}, errors.Join(errors.Join(errs...), m.prune(ctx, keep))
}

// follow says how far each kind is, by its name, and when to look again. It is crdRetry for as long as kinds may be about to come.
func (m *Monitors) follow(ctx context.Context) (map[string]KindState, time.Duration, error) {
	states := map[string]KindState{}
	unready := false
	for _, kind := range monitoringKinds() {
		state, err := m.Kinds.Follow(ctx, kind)
		if err != nil {
			return nil, 0, err
		}
		states[kind.Kind] = state
		unready = unready || state == KindUnserved || state == KindUnread
	}
	if !unready {
		m.since = time.Time{}
		return states, 0, nil
	}
	if m.since.IsZero() {
		m.since = time.Now()
	}
	if time.Since(m.since) < kindsWait {
		return states, crdRetry, nil
	}
	return states, kindsRetry, nil
}

// prometheuses are all objects of the kind Prometheus, where they can be read.
func (m *Monitors) prometheuses(ctx context.Context) ([]unstructured.Unstructured, error) {
	list := listOf(monitoring.Prometheus)
	if err := m.Kinds.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list Prometheuses: %w", err)
	}
	return list.Items, nil
}

func listOf(kind string) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(monitoring.GVK(kind + "List"))
	return list
}

// monitors are what a namespace should have.
type monitors struct {
	name    string
	mode    v1alpha1.MonitorMode
	objects []*unstructured.Unstructured
}

// monitorsOf says what each namespace of the mesh, and the operator's own, should have.
func monitorsOf(operator string, s *model.Snapshot) []monitors {
	owners := map[string][]metav1.OwnerReference{}
	for _, r := range s.Meshes() {
		owners[r.Namespace] = append(owners[r.Namespace], metav1.OwnerReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "Mesh", Name: r.Name, UID: types.UID(r.UID),
		})
	}
	var all []monitors
	reader := s.Reader()
	for _, name := range s.Namespaces() {
		ns := reader.Namespace(name)
		if !ns.Meshed {
			continue
		}
		n := monitors{name: name, mode: ns.Monitors.Mode}
		if n.mode != v1alpha1.MonitorsNever {
			settings := monitoring.Settings{Labels: ns.Monitors.Labels, Interval: ns.Monitors.Interval, Owners: owners[name]}
			n.objects = append(n.objects, monitoring.Proxies(name, settings))
			if ports := s.MetricsPorts(name); len(ports) > 0 {
				n.objects = append(n.objects, monitoring.Services(name, ports, settings))
			}
		}
		all = append(all, n)
	}
	// Those of Tulle itself belong to no Mesh: there may be no root.
	own := reader.Namespace(operator).Monitors
	n := monitors{name: operator, mode: own.Mode}
	if n.mode != v1alpha1.MonitorsNever {
		settings := monitoring.Settings{Labels: own.Labels, Interval: own.Interval}
		n.objects = append(n.objects, monitoring.Operator(operator, settings), monitoring.Rules(operator, settings))
	}
	return append(all, n)
}

// make applies the objects of a namespace whose kinds there are.
func (m *Monitors) make(ctx context.Context, n monitors, kinds map[string]KindState) status.Monitoring {
	result := status.Monitoring{Mode: n.mode}
	var errs []error
	for _, o := range n.objects {
		switch kinds[o.GetKind()] {
		case KindMissing, KindUnserved:
			result.Missing = append(result.Missing, missingKind(o.GetKind()))
			continue
		case KindUnread:
			errs = append(errs, fmt.Errorf("the API server does not list %s objects for Tulle: has ClusterRole tulle-manager the rules of this version?", o.GetKind()))
			continue
		}
		conflict, rest := conflictsIn(m.Applier.Apply(ctx, o))
		switch {
		case conflict != nil:
			result.Conflict = conflict
		case rest != nil:
			errs = append(errs, rest)
		default:
			result.Made = append(result.Made, o.GetKind()+" "+o.GetName())
		}
	}
	result.Err = errors.Join(errs...)
	return result
}

// missingKind is what the cluster lacks when it lacks a kind, with the version that is needed.
func missingKind(kind string) string {
	for _, k := range monitoringKinds() {
		if k.Kind == kind {
			return k.CRD + " " + k.Version
		}
	}
	return kind
}

// judge says which of the Prometheuses takes up what was made.
func (n monitors) judge(result *status.Monitoring, prometheuses []unstructured.Unstructured) {
	if len(prometheuses) == 0 {
		return
	}
	for _, o := range n.objects {
		s := monitoring.Select(prometheuses, o)
		if len(s.By) == 0 {
			result.Unselected = append(result.Unselected, fmt.Sprintf("%s %s is selected by no Prometheus: %s", o.GetKind(), o.GetName(), strings.Join(s.Refusals, ", ")))
		}
		result.Prometheuses = append(result.Prometheuses, s.By...)
	}
	slices.Sort(result.Prometheuses)
	result.Prometheuses = slices.Compact(result.Prometheuses)
}

// prune deletes what Tulle made and nobody needs any more.
func (m *Monitors) prune(ctx context.Context, keep []client.Object) error {
	needed := map[objectKey]bool{}
	for _, o := range keep {
		needed[keyOf(o)] = true
	}
	var errs []error
	for _, kind := range []string{monitoring.PodMonitor, monitoring.ServiceMonitor, monitoring.PrometheusRule} {
		list := listOf(kind)
		if err := m.Kinds.List(ctx, list); err != nil {
			errs = append(errs, fmt.Errorf("list %s objects: %w", kind, err))
		}
		for i := range list.Items {
			if o := &list.Items[i]; !needed[keyOf(o)] {
				errs = append(errs, m.Applier.Delete(ctx, o))
			}
		}
	}
	return errors.Join(errs...)
}

// MonitorsOrigin says where the monitors of a namespace are changed.
func MonitorsOrigin(operator string) func(client.Object) string {
	return func(o client.Object) string {
		if o.GetNamespace() == operator {
			return "spec.observability.metrics of the root Mesh " + operator + "/" + v1alpha1.RootName
		}
		return "spec.observability.metrics of a Mesh in namespace " + o.GetNamespace()
	}
}

// Monitoring returns what came of the monitors of a namespace; false before they were looked at.
func (f *Findings) Monitoring(namespace string) (*status.Monitoring, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.monitoring[namespace]
	if !ok {
		m.Err = errors.New("its monitors are about to be made")
	}
	return &m, f.monitoring != nil
}

func (f *Findings) setMonitoring(now map[string]status.Monitoring) {
	f.set(func() bool {
		changed := !maps.EqualFunc(f.monitoring, now, sameMonitoring)
		f.monitoring = now
		return changed
	})
}

func sameMonitoring(a, b status.Monitoring) bool {
	same := text(a.Conflict) == text(b.Conflict) && text(a.Err) == text(b.Err)
	a.Conflict, a.Err, b.Conflict, b.Err = nil, nil, nil, nil
	return same && reflect.DeepEqual(a, b)
}

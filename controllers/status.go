package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/peers"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// statusDelay gathers what changes together, such as proxies that connect one after the other.
const statusDelay = 300 * time.Millisecond

// settleTime is how old a Mesh must be before events tell of it: what is applied together with it, such as its
// Services, arrives a moment later.
const settleTime = 3 * time.Second

// statusInterval is how often the time alone may change a status: certificates end, and who spoke plaintext falls silent.
const statusInterval = 10 * time.Second

// Status writes the status of every Mesh, and an event when a condition changes.
type Status struct {
	// Panics counts what panicked.
	Panics   *contain.Panics
	World    *World
	Findings *Findings
	// Fleet returns the state of the proxies of all replicas, with revisions of the snapshot; ProxiesChanged fires when it may have changed.
	Fleet          func(*model.Snapshot) peers.Fleet
	ProxiesChanged *Signal
	// Faults are what this replica could not read. Failures returns what it can't compile; Faults.Changed fires when that may have
	// changed. May be nil.
	Faults   *Faults
	Failures func() []Fault
	// Installation is what injection gives all pods.
	Installation inject.Installation
	// Unsupported says why this Kubernetes can have no sidecars; nil when it can.
	Unsupported error
	// Cache is the manager's.
	Cache  cache.Cache
	Client client.Client
	Events events.EventRecorder
	// Quiet is how long nobody must have connected without mTLS before Strict is called safe.
	Quiet time.Duration
	// Gauges take what the statuses say; may be nil.
	Gauges *Gauges

	// written are the statuses that this process wrote last: the cache may be behind. told are those that events told of last.
	written, told map[types.UID]v1alpha1.MeshStatus
	// observed is what is remembered of the plaintext of each namespace.
	observed map[string]status.Observation
	// versions are the current versions of injected sidecars, which cost more to make than all else here.
	versions map[*model.Namespace]sidecarVersion
}

// sidecarVersion is the version of what injection gives pods of a namespace under these mesh-wide settings.
type sidecarVersion struct {
	wide    *model.MeshWide
	version string
}

// SetupWithManager adds the reconciler to a manager.
func (s *Status) SetupWithManager(m manager.Manager) error {
	return builder.ControllerManagedBy(m).Named("status").WithOptions(options()).
		WatchesRawSource(s.World.Reshaped.Source(statusDelay)).
		WatchesRawSource(s.ProxiesChanged.Source(statusDelay)).
		WatchesRawSource(s.Findings.Changed.Source(statusDelay)).
		WatchesRawSource(s.Faults.Changed.Source(statusDelay)).
		Complete(contained(s.Panics, "status", s))
}

// Reconcile implements reconcile.Reconciler.
func (s *Status) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	snapshot := s.World.Snapshot()
	issued, looked := s.Findings.Issued()
	_, monitored := s.Findings.Monitoring("")
	if snapshot == nil || !looked || !monitored {
		return reconcile.Result{}, nil // a new leader leaves the status as it is until it knows as much as the one before
	}
	fleet := s.Fleet(snapshot)
	if fleet.Incomplete {
		return reconcile.Result{}, nil // what a replica of which nothing is known yet reports, or that it is silent, fires ProxiesChanged
	}
	reports := snapshot.Meshes()
	now, byNamespace := time.Now(), byNamespace(fleet.Proxies)
	s.observed = observe(s.observed, snapshot, reports, byNamespace, fleet.Plaintext, s.Quiet, now)
	inputs := s.inputs(snapshot, reports, fleet, byNamespace, issued, now)
	s.forgetVersions(inputs)
	var errs []error
	var again time.Duration
	gauges := make([]MeshGauges, 0, len(reports))
	written, told := make(map[types.UID]v1alpha1.MeshStatus, len(reports)), make(map[types.UID]v1alpha1.MeshStatus, len(reports))
	for i, report := range reports {
		var mesh v1alpha1.Mesh
		err := s.Cache.Get(ctx, client.ObjectKey{Namespace: report.Namespace, Name: report.Name}, &mesh)
		uid := types.UID(report.UID)
		if err != nil || mesh.UID != uid || mesh.DeletionTimestamp != nil {
			errs = append(errs, client.IgnoreNotFound(err))
			continue // it is gone, or another of that name, which the next snapshot has
		}
		if written[uid], err = s.write(ctx, &mesh, report, s.of(inputs[i])); err != nil {
			errs = append(errs, err)
		}
		gauges = append(gauges, meshGauges(report, written[uid], inputs[i].Proxies))
		var wait time.Duration
		told[uid], wait = s.tell(&mesh, written[uid])
		again = max(again, wait)
	}
	s.written, s.told = written, told
	if s.Gauges != nil {
		s.Gauges.Set(gauges)
	}
	if again == 0 {
		again = statusInterval
	}
	return reconcile.Result{RequeueAfter: again}, errors.Join(errs...)
}

func byNamespace(proxies []xds.ProxyState) map[string][]xds.ProxyState {
	out := map[string][]xds.ProxyState{}
	for i := range proxies {
		namespace := proxies[i].Proxy.Namespace
		out[namespace] = append(out[namespace], proxies[i])
	}
	return out
}

// inputs gathers what is known of each Mesh.
func (s *Status) inputs(snapshot *model.Snapshot, reports []model.MeshReport, fleet peers.Fleet, byNamespace map[string][]xds.ProxyState,
	issued identity.Verdict, now time.Time,
) []status.Input {
	rejections := status.Rejections(fleet.Proxies)
	reader := snapshot.Reader()
	faults, splitConflicts := s.Faults.All(), s.Findings.SplitConflicts()
	if s.Failures != nil {
		faults = append(slices.Clone(faults), s.Failures()...)
	}
	inputs := make([]status.Input, 0, len(reports))
	for _, report := range reports {
		report = WithSplitConflicts(withFaults(report, faults), splitConflicts)
		in := status.Input{
			Report:      report,
			Namespace:   reader.Namespace(report.Namespace),
			Workloads:   snapshot.Workloads(report.Namespace),
			Services:    snapshot.Services(report.Namespace),
			Proxies:     byNamespace[report.Namespace],
			Silent:      fleet.Silent,
			Issued:      issued,
			Unsupported: s.Unsupported,
			Conflict:    s.Findings.Conflict(report.Namespace),
			Plaintext:   s.observed[report.Namespace],
			Quiet:       s.Quiet,
			Now:         now,
		}
		in.Monitoring, _ = s.Findings.Monitoring(report.Namespace)
		in.Rejections = append(in.Rejections, rejections[status.MeshKey{Namespace: report.Namespace, Name: report.Name}]...)
		if report.Root {
			in.Proxies = fleet.Proxies
		} else {
			in.Rejections = append(in.Rejections, rejections[status.MeshKey{Namespace: report.Namespace}]...)
		}
		// Settings that no proxy can start with are a Problem already; the current version is then not known.
		in.Sidecar = s.version(in.Namespace, reader.MeshWide())
		inputs = append(inputs, in)
	}
	return inputs
}

// version returns the version of what pods of a namespace are given now. A namespace that has not changed is the same node as before.
func (s *Status) version(n *model.Namespace, wide *model.MeshWide) string {
	if known, ok := s.versions[n]; ok && known.wide == wide {
		return known.version
	}
	version, _ := inject.Version(inject.For(s.Installation, n, wide))
	if s.versions == nil {
		s.versions = map[*model.Namespace]sidecarVersion{}
	}
	s.versions[n] = sidecarVersion{wide, version}
	return version
}

// forgetVersions forgets namespaces that are gone or have changed.
func (s *Status) forgetVersions(inputs []status.Input) {
	current := make(map[*model.Namespace]bool, len(inputs))
	for _, in := range inputs {
		current[in.Namespace] = true
	}
	maps.DeleteFunc(s.versions, func(n *model.Namespace, _ sidecarVersion) bool { return !current[n] })
}

// write writes a status if it differs from the one before, and returns the one that holds.
func (s *Status) write(ctx context.Context, mesh *v1alpha1.Mesh, report model.MeshReport, next v1alpha1.MeshStatus) (v1alpha1.MeshStatus, error) {
	old, ok := s.written[mesh.UID]
	if !ok {
		old = mesh.Status
	}
	next, _ = status.Merge(old, next, metav1.NewTime(time.Now()))
	if equality.Semantic.DeepEqual(next, mesh.Status) {
		return next, nil
	}
	u, err := statusConfiguration(report, next)
	if err != nil {
		return old, err
	}
	err = s.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), FieldOwner, client.ForceOwnership)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return old, nil // deleted, or another of that name made, since
	}
	if err != nil {
		return old, fmt.Errorf("write the status of Mesh %s/%s: %w", mesh.Namespace, mesh.Name, err)
	}
	return next, nil
}

// tell records events of what changed since they last told, and returns what they have told of now. Of a Mesh that is too young it
// tells after the returned time.
func (s *Status) tell(mesh *v1alpha1.Mesh, now v1alpha1.MeshStatus) (v1alpha1.MeshStatus, time.Duration) {
	before, ok := s.told[mesh.UID]
	if !ok {
		before = mesh.Status
	}
	if young := settleTime - time.Since(mesh.CreationTimestamp.Time); young > 0 {
		if !ok {
			before = v1alpha1.MeshStatus{}
		}
		return before, young
	}
	_, transitions := status.Merge(before, now, metav1.Time{})
	for _, e := range transitions {
		s.Events.Eventf(mesh, nil, e.Type, e.Reason, e.Condition, "%s", note(e.Message))
	}
	return now, 0
}

// statusConfiguration is what is applied to the status of the Mesh that was reported on, not to another of its name.
func statusConfiguration(report model.MeshReport, next v1alpha1.MeshStatus) (*unstructured.Unstructured, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&next)
	if err != nil {
		return nil, fmt.Errorf("status of Mesh %s/%s: %w", report.Namespace, report.Name, err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": fields}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Mesh"))
	u.SetNamespace(report.Namespace)
	u.SetName(report.Name)
	u.SetUID(types.UID(report.UID))
	return u, nil
}

// maxNote is the longest note that an Event may have, in bytes.
const maxNote = 1024

func note(s string) string {
	if len(s) <= maxNote {
		return s
	}
	return strings.ToValidUTF8(s[:maxNote-len("…")], "") + "…"
}

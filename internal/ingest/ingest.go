package ingest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Builder makes snapshots of the objects that it is fed; it is a *model.Builder.
type Builder interface {
	Set(object any)
	Delete(object any)
	SetTrust(bundle []byte)
	Snapshot() *model.Snapshot
	Succeed(last *model.Snapshot)
}

// Options of an Ingester.
type Options struct {
	// Cache has the informers. Its options should have ByObject, or it holds more than is read.
	Cache cache.Cache
	// NewBuilder returns a builder of an empty mesh, used by no one else. There is a second one only after the first has panicked.
	NewBuilder func() Builder
	// Panics counts and logs what made a builder panic.
	Panics *contain.Panics
	// Barred, if not nil, is told of all objects that can't be taken in, whenever they change.
	Barred func([]Barred)
	// Standards, if not nil, are kinds that the cluster may or may not have.
	Standards *Standards
	// Root names the root Mesh.
	Root client.ObjectKey
	// Seen, if not nil, is called before Publish with the time at which the oldest change of an object arrived that the snapshot has.
	Seen func(time.Time)
	// Publish is called, one call at a time, with each new snapshot.
	Publish func(*model.Snapshot)
	Log     logr.Logger
	// Clock is the real one when nil.
	Clock clock.WithTicker
}

// Ingester watches the API server and publishes snapshots. It is a manager.Runnable of every replica.
type Ingester struct {
	options   Options
	queue     *queue
	guard     *guard
	pacer     pacer
	retry     time.Time // when a barred object may be tried again; zero when none waits
	arrived   uint64    // of the changes that may wait, those that the pacer knows of
	revision  uint64
	seen      time.Time // when the oldest change arrived of those that are about to be published; zero when it is none of an object
	published chan struct{}
	splits    atomic.Pointer[followed]
}

// New returns an Ingester that publishes nothing before Start.
func New(o Options) *Ingester {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Ingester{options: o, queue: newQueue(o.Clock.Now), guard: newGuard(o), published: make(chan struct{})}
}

// NeedLeaderElection is false: every replica serves from its own informers.
func (i *Ingester) NeedLeaderElection() bool { return false }

// Published is closed once the first snapshot was published.
func (i *Ingester) Published() <-chan struct{} { return i.published }

// SetTrust takes the PEM of all trusted roots. It may be called at any time, from any goroutine.
func (i *Ingester) SetTrust(bundle []byte) { i.queue.setTrust(bundle) }

// Start watches until the context ends. Nothing is published before every informer has synced.
func (i *Ingester) Start(ctx context.Context) error {
	synced, err := i.watch(ctx)
	if err != nil {
		return err
	}
	var s *standards
	if i.options.Standards != nil {
		s = newStandards(i.options, i.queue, &i.splits)
		definitions, err := s.watch(ctx)
		if err != nil {
			return err
		}
		synced = append(synced, definitions)
	}
	i.options.Log.Info("waiting for the informers", "count", len(synced))
	if !toolscache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil // the context ended
	}
	if s != nil {
		s.begin(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() { s.run(ctx) })
	}
	i.run(ctx)
	return nil
}

// watch feeds the queue from one informer a kind.
func (i *Ingester) watch(ctx context.Context) ([]toolscache.InformerSynced, error) {
	var synced []toolscache.InformerSynced
	handler := toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { i.queue.add(object, false) },
		UpdateFunc: func(before, object any) {
			if !same(before, object) {
				i.queue.add(object, false)
			}
		},
		DeleteFunc: func(object any) { i.queue.add(object, true) },
	}
	for _, object := range watched() {
		informer, err := i.options.Cache.GetInformer(ctx, object, cache.BlockUntilSynced(false))
		if _, optional := object.(*networkingv1.ServiceCIDR); optional && meta.IsNoMatchError(err) {
			i.options.Log.Info("this Kubernetes has no ServiceCIDR objects; Service ranges come from the root Mesh and the addresses seen")
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", object, err)
		}
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, fmt.Errorf("watch %T: %w", object, err)
		}
		synced = append(synced, registration.HasSynced)
	}
	return synced, nil
}

// same says whether an informer tells of an object again, as it does of each when all have been listed anew.
func same(before, now any) bool {
	a, err := meta.Accessor(before)
	if err != nil {
		return false
	}
	b, err := meta.Accessor(now)
	return err == nil && a.GetResourceVersion() != "" && a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
}

// watched are the kinds that the model reads.
func watched() []client.Object {
	return []client.Object{
		&v1alpha1.Mesh{}, &corev1.Node{}, &networkingv1.ServiceCIDR{}, replicaSets(),
		&corev1.Service{}, &corev1.Pod{}, &discoveryv1.EndpointSlice{},
	}
}

// run owns the builder until the context ends.
func (i *Ingester) run(ctx context.Context) {
	now := i.options.Clock.Now()
	endpoints, _ := i.queue.takeEndpoints()
	i.feed(endpoints, now)
	i.publishRest(now)
	timer := i.options.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if due, waits := i.due(); waits {
			timer.Reset(max(0, due.Sub(i.options.Clock.Now())))
		}
		select {
		case <-ctx.Done():
			return
		case <-i.queue.wake:
		case <-timer.C():
		}
		i.step(i.options.Clock.Now())
	}
}

// due returns when there is something to do even if nothing arrives; false when there is not.
func (i *Ingester) due() (time.Time, bool) {
	due, waits := i.pacer.due()
	if !i.retry.IsZero() && (!waits || i.retry.Before(due)) {
		return i.retry, true
	}
	return due, waits
}

// step publishes what is due now.
func (i *Ingester) step(now time.Time) {
	if endpoints, since := i.queue.takeEndpoints(); len(endpoints) > 0 {
		i.seen = since
		i.feed(endpoints, now)
		i.publish(now)
	}
	if arrived := i.queue.restArrived(); arrived != i.arrived {
		i.arrived = arrived
		i.pacer.note(now)
	}
	if due, waits := i.pacer.due(); waits && !now.Before(due) {
		i.publishRest(now)
	}
	tried, next, waits := i.guard.retry(now)
	if i.retry = (time.Time{}); waits {
		i.retry = next
	}
	if tried {
		i.publish(now)
	}
}

func (i *Ingester) publishRest(now time.Time) {
	rest, since, trust, newTrust := i.queue.takeRest()
	i.seen = since
	i.feed(rest, now)
	if newTrust {
		i.guard.setTrust(trust)
	}
	i.pacer.done(now, i.publish(now))
}

func (i *Ingester) feed(changes []change, now time.Time) {
	for _, c := range changes {
		i.guard.take(c, now)
	}
}

// publish hands on the snapshot when it differs from the last one, and says whether it did.
func (i *Ingester) publish(now time.Time) bool {
	snapshot := i.guard.snapshot(now)
	if snapshot == nil || snapshot.Revision() == i.revision {
		return false
	}
	first := i.revision == 0
	i.revision = snapshot.Revision()
	if i.options.Seen != nil && !i.seen.IsZero() {
		i.options.Seen(i.seen)
	}
	i.seen = time.Time{}
	i.options.Publish(snapshot)
	if first {
		close(i.published)
	}
	return true
}

package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/smi"
)

const (
	// standardsWait is how long the first snapshot waits for objects of kinds that the cluster has and the API server refuses to list. They decide
	// where traffic goes, so a replica should not serve without them; but a kind of others that can't be read, as its conversion webhook is away,
	// must not stop the mesh. An API server that is slow or away is waited for without end, as for every other kind.
	standardsWait = 30 * time.Second
	// definitionRetry is when a definition is looked at again that could not be read.
	definitionRetry = 2 * time.Second
)

// Standards say how to read kinds that the cluster may or may not have: they may come after Tulle, change their versions, and go.
type Standards struct {
	// Reader reads CustomResourceDefinitions from the API server itself.
	Reader client.Reader
	Client dynamic.Interface
	// Unreadable is told of each object that makes no sense, each time it arrives; it counts as not there. May be nil.
	Unreadable func(*unstructured.Unstructured, error)
	// TrafficSplits is told when any of them changed, came or went. May be nil.
	TrafficSplits func()
}

// TrafficSplits returns all of the cluster, in the version that is read, which nobody may change; none, and no version, while they are not known.
func (i *Ingester) TrafficSplits() (version string, all []*unstructured.Unstructured) {
	f := i.splits.Load()
	if f == nil || !f.synced() {
		return "", nil
	}
	for _, object := range f.store.List() {
		if u, ok := object.(*unstructured.Unstructured); ok {
			all = append(all, u)
		}
	}
	return f.version, all
}

// TrafficSplit returns one of them, which nobody may change; nil when it is not there, or they are not known.
func (i *Ingester) TrafficSplit(key client.ObjectKey) *unstructured.Unstructured {
	f := i.splits.Load()
	if f == nil || !f.synced() {
		return nil
	}
	object, _, _ := f.store.GetByKey(key.String())
	u, _ := object.(*unstructured.Unstructured)
	return u
}

// standards follows those kinds.
type standards struct {
	Options
	queue *queue
	wake  chan struct{}
	// splits are what is followed of TrafficSplits, for other goroutines.
	splits *atomic.Pointer[followed]
	// followed are by name of the definition; only run's goroutine uses them.
	followed map[string]*followed
}

// followed is a kind that is served.
type followed struct {
	kind    smi.Kind
	version string
	store   toolscache.Store
	synced  toolscache.InformerSynced
	end     func() // and waits
}

func newStandards(o Options, q *queue, splits *atomic.Pointer[followed]) *standards {
	return &standards{Options: o, queue: q, splits: splits, wake: make(chan struct{}, 1), followed: map[string]*followed{}}
}

// kinds are those that the model reads.
func (s *standards) kinds() []smi.Kind { return []smi.Kind{smi.TrafficSplits(), smi.HTTPRouteGroups()} }

// watch has changes of definitions wake run.
func (s *standards) watch(ctx context.Context) (toolscache.InformerSynced, error) {
	definitions := &metav1.PartialObjectMetadata{}
	definitions.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	informer, err := s.Cache.GetInformer(ctx, definitions, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watch CustomResourceDefinitions: %w", err)
	}
	names := map[string]bool{}
	for _, kind := range s.kinds() {
		names[kind.CRD()] = true
	}
	changed := func(object any) {
		if gone, ok := object.(toolscache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if o, err := meta.Accessor(object); err == nil && names[o.GetName()] {
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, object any) { changed(object) }, DeleteFunc: changed,
	})
	if err != nil {
		return nil, fmt.Errorf("watch CustomResourceDefinitions: %w", err)
	}
	return registration.HasSynced, nil
}

// begin follows what there is, and waits until its objects are known, or are refused after standardsWait.
func (s *standards) begin(ctx context.Context) {
	patience := time.Now().Add(standardsWait)
	for err := s.look(ctx); err != nil; err = s.look(ctx) {
		if refusal(err) && time.Now().After(patience) {
			s.Log.Info("going on without SMI's kinds: their definitions can't be read")
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(definitionRetry):
		}
	}
	for _, f := range s.followed {
		for !syncedWithin(ctx, definitionRetry, f.synced) && ctx.Err() == nil {
			if time.Now().After(patience) && refusal(s.ask(ctx, f)) {
				s.Log.Info("going on without objects that can't be listed; they count as soon as they can", "kind", f.kind.Kind, "version", f.version)
				break
			}
		}
	}
}

// ask lists one object, of which the API server says plainly what an informer's watch may only be told to wait for.
func (s *standards) ask(ctx context.Context, f *followed) error {
	ctx, cancel := context.WithTimeout(ctx, standardsWait/3)
	defer cancel()
	_, err := s.Standards.Client.Resource(f.kind.Resource(f.version)).List(ctx, metav1.ListOptions{Limit: 1})
	return err
}

// syncedWithin waits for an informer, for so long.
func syncedWithin(ctx context.Context, wait time.Duration, synced toolscache.InformerSynced) bool {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return toolscache.WaitForCacheSync(waiting.Done(), synced)
}

// refusal says whether the API server has decided that it can't answer, rather than being slow, overloaded or away.
func refusal(err error) bool {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) || apierrors.IsServerTimeout(err) {
		return false
	}
	switch answer.Status().Code {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// run follows kinds that come, change and go, until the context ends.
func (s *standards) run(ctx context.Context) {
	defer func() {
		for _, f := range s.followed {
			f.end()
		}
	}()
	for {
		var again <-chan time.Time
		if s.look(ctx) != nil {
			again = time.After(definitionRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-again:
		}
	}
}

// look compares what is followed with what is served. Its error is logged.
func (s *standards) look(ctx context.Context) error {
	var errs []error
	for _, kind := range s.kinds() {
		if err := s.lookAt(ctx, kind); err != nil && ctx.Err() == nil {
			s.Log.Error(err, "cannot tell whether a kind is served")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *standards) lookAt(ctx context.Context, kind smi.Kind) error {
	var definition apiextensionsv1.CustomResourceDefinition
	err := s.Standards.Reader.Get(ctx, client.ObjectKey{Name: kind.CRD()}, &definition)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read CustomResourceDefinition %s: %w", kind.CRD(), err)
	}
	version := ""
	if err == nil {
		var unusable error
		if version, unusable = smi.Served(kind, &definition); unusable != nil {
			s.Log.Info(unusable.Error())
		}
	}
	now := s.followed[kind.CRD()]
	switch {
	case now != nil && now.version == version || now == nil && version == "":
	case version == "":
		s.Log.Info("a kind is not served any more", "kind", kind.Kind)
		now.end()
		s.set(kind, nil)
		s.forget(now, nil)
	default:
		s.Log.Info("following a kind", "kind", kind.Kind, "version", version)
		if now != nil {
			now.end()
		}
		s.set(kind, s.follow(ctx, kind, version, now))
	}
	return nil
}

func (s *standards) set(kind smi.Kind, f *followed) {
	if f == nil {
		delete(s.followed, kind.CRD())
	} else {
		s.followed[kind.CRD()] = f
	}
	if kind.Kind == smi.TrafficSplits().Kind {
		s.splits.Store(f)
		s.tell(kind.Kind)
	}
}

// tell says that there is something new to see.
func (s *standards) tell(kind string) {
	if kind == smi.TrafficSplits().Kind && s.Standards.TrafficSplits != nil {
		s.Standards.TrafficSplits()
	}
}

// follow watches objects in a version, and forgets what is not there any more of what was known before.
func (s *standards) follow(ctx context.Context, kind smi.Kind, version string, before *followed) *followed {
	informer := toolscache.NewSharedIndexInformer(
		toolscache.ToListWatcherWithWatchListSemantics(listWatch(s.Standards.Client.Resource(kind.Resource(version))), s.Standards.Client),
		&unstructured.Unstructured{}, 0, toolscache.Indexers{})
	// Neither can fail before the informer runs.
	_ = informer.SetTransform(func(in any) (any, error) {
		if u, ok := in.(*unstructured.Unstructured); ok {
			u.SetManagedFields(nil)
		}
		return in, nil
	})
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *toolscache.Reflector, err error) {
		if !errors.Is(err, io.EOF) {
			s.Log.Error(err, "cannot watch objects; what was known of them counts", "kind", kind.Kind, "version", version)
		}
	})
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { s.take(object, false) },
		UpdateFunc: func(before, object any) {
			if !same(before, object) {
				s.take(object, false)
			}
		},
		DeleteFunc: func(object any) { s.take(object, true) },
	})
	following, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	f := &followed{kind: kind, version: version, store: informer.GetStore(), synced: func() bool { return err == nil && registration.HasSynced() }}
	f.end = func() {
		cancel()
		running.Wait()
	}
	running.Go(func() { informer.RunWithContext(following) })
	running.Go(func() {
		if toolscache.WaitForCacheSync(following.Done(), f.synced) {
			s.tell(kind.Kind) // also when there is none
		}
	})
	if before != nil {
		running.Go(func() {
			if toolscache.WaitForCacheSync(following.Done(), f.synced) {
				s.forget(before, f.store)
			}
		})
	}
	return f
}

func listWatch(resource dynamic.NamespaceableResourceInterface) *toolscache.ListWatch {
	return &toolscache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return resource.List(ctx, o) },
		WatchFuncWithContext: resource.Watch,
	}
}

// take hands an object to the model.
func (s *standards) take(event any, deleted bool) {
	if gone, ok := event.(toolscache.DeletedFinalStateUnknown); ok {
		event, deleted = gone.Obj, true
	}
	u, ok := event.(*unstructured.Unstructured)
	if !ok {
		return
	}
	defer s.tell(u.GetKind())
	if deleted {
		s.queue.add(smi.Nothing(u), true)
		return
	}
	object, err := smi.Read(u)
	if err == nil {
		s.queue.add(object, false)
		return
	}
	s.queue.add(smi.Nothing(u), true)
	if s.Standards.Unreadable != nil {
		s.Standards.Unreadable(u, err)
	}
}

// forget takes out of the model what was known, but for what is in a store.
func (s *standards) forget(known *followed, but toolscache.Store) {
	for _, object := range known.store.List() {
		if but != nil {
			if _, there, _ := but.Get(object); there {
				continue
			}
		}
		s.take(object, true)
	}
}

package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// NewInformer makes the informers of the manager's cache (cache.Options.NewInformer). Pods and EndpointSlices are most of a cluster's objects, and nobody but
// the model reads them: their informers pass on what comes and keep nothing. Whoever asks the cache for one finds none.
func NewInformer(from toolscache.ListerWatcher, example runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	standard := toolscache.NewSharedIndexInformer(from, example, resync, indexers)
	if !passed(example) {
		return standard
	}
	return &passing{
		SharedIndexInformer: standard, from: from, example: example.(client.Object),
		known: map[string]state{}, handled: make(chan struct{}), synced: make(chan struct{}),
	}
}

// passed says which kinds no informer keeps.
func passed(object runtime.Object) bool {
	switch object.(type) {
	case *corev1.Pod, *discoveryv1.EndpointSlice:
		return true
	}
	return false
}

// passing is an informer without a store: of the objects there are it knows which they are, so that it can say after a gap what has gone and what is
// new. It embeds a standard one, which never runs, for what nobody calls.
type passing struct {
	toolscache.SharedIndexInformer
	from      toolscache.ListerWatcher
	example   client.Object
	transform toolscache.TransformFunc

	once    sync.Once
	handler toolscache.ResourceEventHandler
	handled chan struct{} // there is a handler
	synced  chan struct{} // the handler got all there was

	mu    sync.Mutex
	known map[string]state
}

// state is what is known of an object: what same compares.
type state struct {
	uid     types.UID
	version string
}

// SetTransform implements toolscache.SharedInformer. It comes before Run.
func (p *passing) SetTransform(f toolscache.TransformFunc) error {
	p.transform = f
	return nil
}

// SetWatchErrorHandlerWithContext implements toolscache.SharedInformer. Reflectors log by themselves.
func (p *passing) SetWatchErrorHandlerWithContext(toolscache.WatchErrorHandlerWithContext) error {
	return nil
}

// AddEventHandler implements toolscache.SharedInformer. There can be one handler: a second one would have missed what came before.
func (p *passing) AddEventHandler(handler toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	err := fmt.Errorf("the informer of %T keeps nothing and has its handler already", p.example)
	p.once.Do(func() {
		p.handler, err = handler, nil
		close(p.handled)
	})
	return p, err
}

// AddEventHandlerWithResyncPeriod implements toolscache.SharedInformer.
func (p *passing) AddEventHandlerWithResyncPeriod(h toolscache.ResourceEventHandler, _ time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	return p.AddEventHandler(h)
}

// AddEventHandlerWithOptions implements toolscache.SharedInformer.
func (p *passing) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, _ toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	return p.AddEventHandler(h)
}

// HasSynced implements toolscache.SharedInformer and, of its only handler, toolscache.ResourceEventHandlerRegistration.
func (p *passing) HasSynced() bool {
	select {
	case <-p.synced:
		return true
	default:
		return false
	}
}

// HasSyncedChecker implements both.
func (p *passing) HasSyncedChecker() toolscache.DoneChecker { return p }

// Name implements toolscache.DoneChecker.
func (p *passing) Name() string { return fmt.Sprintf("%T", p.example) }

// Done implements toolscache.DoneChecker.
func (p *passing) Done() <-chan struct{} { return p.synced }

// Run implements toolscache.SharedInformer.
func (p *passing) Run(stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	p.RunWithContext(ctx)
}

// RunWithContext implements toolscache.SharedInformer. It begins once there is a handler.
func (p *passing) RunWithContext(ctx context.Context) {
	select {
	case <-p.handled:
	case <-ctx.Done():
		return
	}
	toolscache.NewReflectorWithOptions(p.from, p.example, through{p}, toolscache.ReflectorOptions{Name: p.Name()}).RunWithContext(ctx)
}

// through is what the reflector takes for its store.
type through struct{ *passing }

// Transformer implements toolscache.TransformingStore, so that what is collected of the first list is trimmed and packed.
func (t through) Transformer() toolscache.TransformFunc {
	return func(object any) (any, error) {
		trimmed, err := t.trim(object)
		if err != nil {
			return nil, err
		}
		return wrap(trimmed), nil
	}
}

func (t through) trim(object any) (any, error) {
	if t.transform == nil {
		return object, nil
	}
	return t.transform(object)
}

// Add implements toolscache.ReflectorStore.
func (t through) Add(object any) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.pass(object, false)
	return err
}

// Update implements toolscache.ReflectorStore.
func (t through) Update(object any) error { return t.Add(object) }

// Delete implements toolscache.ReflectorStore.
func (t through) Delete(object any) error {
	key, err := toolscache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone(key)
}

// Replace implements toolscache.ReflectorStore: all that there is, at the start and after a gap.
func (t through) Replace(all []any, _ string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	there := make(map[string]struct{}, len(all))
	for _, object := range all {
		key, err := t.pass(object, !t.HasSynced())
		there[key] = struct{}{}
		errs = append(errs, err)
	}
	for key := range t.known {
		if _, ok := there[key]; !ok {
			errs = append(errs, t.gone(key))
		}
	}
	if !t.HasSynced() {
		close(t.synced)
	}
	return errors.Join(errs...)
}

// Resync implements toolscache.ReflectorStore.
func (t through) Resync() error { return nil }

// pass hands an object on, trimmed, or one that is packed already.
func (t through) pass(object any, initial bool) (key string, err error) {
	if object, err = t.trim(object); err != nil {
		return "", err
	}
	if key, err = toolscache.MetaNamespaceKeyFunc(object); err != nil {
		return "", err
	}
	now, err := meta.Accessor(object)
	if err != nil {
		return "", err
	}
	before, known := t.known[key]
	t.known[key] = state{now.GetUID(), now.GetResourceVersion()}
	if known {
		t.handler.OnUpdate(t.stub(now.GetNamespace(), now.GetName(), before), object)
	} else {
		t.handler.OnAdd(object, initial)
	}
	return key, nil
}

// stub is an object that is not kept, by all that is known of it.
func (t through) stub(namespace, name string, s state) client.Object {
	object := t.example.DeepCopyObject().(client.Object)
	object.SetNamespace(namespace)
	object.SetName(name)
	object.SetUID(s.uid)
	object.SetResourceVersion(s.version)
	return object
}

// gone says of an object only which it was.
func (t through) gone(key string) error {
	namespace, name, err := toolscache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	if before, known := t.known[key]; known {
		delete(t.known, key)
		t.handler.OnDelete(t.stub(namespace, name, before))
	}
	return nil
}

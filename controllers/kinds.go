package controllers

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Kind is a kind of another project, which the cluster may or may not have.
type Kind struct {
	schema.GroupVersionKind
	// CRD is the name of its CustomResourceDefinition.
	CRD string
	// Watch narrows down what is watched, as rights may be narrow too.
	Watch cache.ByObject
}

// object returns an empty object of the kind.
func (k Kind) object() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(k.GroupVersionKind)
	return u
}

// KindState says how far a kind is.
type KindState int

// The states of a kind.
const (
	// KindMissing: it has no CustomResourceDefinition.
	KindMissing KindState = iota
	// KindUnserved: it has one, but the API server does not serve the version (yet).
	KindUnserved
	// KindUnread: it is served, and its objects could not be listed yet.
	KindUnread
	// KindWatched: its objects are known.
	KindWatched
)

// Kinds watches others' kinds for as long as the cluster has them: they may come after Tulle, go, and come again. It is a
// manager.Runnable, and a client.Reader of what it watches, which finds nothing of a kind that is not there.
type Kinds struct {
	// CRDs holds the metadata of all CustomResourceDefinitions.
	CRDs client.Reader
	// NewCache makes a cache that watches objects of one kind.
	NewCache func(client.Object, cache.ByObject) (cache.Cache, error)
	// Changed fires when a watched object changed.
	Changed *Signal

	mu      sync.Mutex
	ctx     context.Context
	watched map[schema.GroupKind]*watchedKind
}

// watchedKind is a kind that is served.
type watchedKind struct {
	cache  cache.Cache
	synced toolscache.InformerSynced
	cancel func()
}

// Start implements manager.Runnable.
func (k *Kinds) Start(ctx context.Context) error {
	k.mu.Lock()
	k.ctx = ctx
	k.mu.Unlock()
	k.Changed.Fire()
	<-ctx.Done()
	return nil
}

// Follow starts or ends the watch of a kind, as it is there or not. An error is of the watch; the kind is then KindUnserved.
func (k *Kinds) Follow(ctx context.Context, kind Kind) (KindState, error) {
	definition := crd()
	err := k.CRDs.Get(ctx, client.ObjectKey{Name: kind.CRD}, definition)
	if client.IgnoreNotFound(err) != nil {
		return KindMissing, fmt.Errorf("read CustomResourceDefinition %s: %w", kind.CRD, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	group := kind.GroupKind()
	if err != nil || definition.DeletionTimestamp != nil {
		if w := k.watched[group]; w != nil {
			w.cancel()
			delete(k.watched, group)
		}
		return KindMissing, nil
	}
	if k.ctx == nil {
		return KindUnread, nil // Start fires Changed
	}
	w := k.watched[group]
	if w == nil {
		w, err = k.watch(kind)
		if meta.IsNoMatchError(err) {
			return KindUnserved, nil
		}
		if err != nil {
			return KindUnserved, fmt.Errorf("watch %s: %w", kind.Kind, err)
		}
		if k.watched == nil {
			k.watched = map[schema.GroupKind]*watchedKind{}
		}
		k.watched[group] = w
	}
	if !w.synced() {
		return KindUnread, nil
	}
	return KindWatched, nil
}

// watch starts a cache of one kind: to end it is the only way to end a watch.
func (k *Kinds) watch(kind Kind) (*watchedKind, error) {
	c, err := k.NewCache(kind.object(), kind.Watch)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(k.ctx)
	informer, err := c.GetInformer(ctx, kind.object(), cache.BlockUntilSynced(false))
	if err != nil {
		cancel()
		return nil, err
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { k.Changed.Fire() }, UpdateFunc: func(any, any) { k.Changed.Fire() }, DeleteFunc: func(any) { k.Changed.Fire() },
	})
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		// The only error of a cache is that it was started twice.
		_ = c.Start(ctx)
	}()
	go func() {
		if toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			k.Changed.Fire() // also when there is no object
		}
	}()
	return &watchedKind{cache: c, synced: registration.HasSynced, cancel: cancel}, nil
}

// reader returns the cache of a kind whose objects are known.
func (k *Kinds) reader(gk schema.GroupKind) cache.Cache {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.watched[gk]; w != nil && w.synced() {
		return w.cache
	}
	return nil
}

// Get implements client.Reader, for unstructured objects.
func (k *Kinds) Get(ctx context.Context, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
	gvk := o.GetObjectKind().GroupVersionKind()
	if c := k.reader(gvk.GroupKind()); c != nil {
		return c.Get(ctx, key, o, options...)
	}
	return apierrors.NewNotFound(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, key.Name)
}

// List implements client.Reader, for unstructured lists.
func (k *Kinds) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	gvk := list.GetObjectKind().GroupVersionKind()
	gk := schema.GroupKind{Group: gvk.Group, Kind: gvk.Kind[:max(0, len(gvk.Kind)-len("List"))]}
	if c := k.reader(gk); c != nil {
		return c.List(ctx, list, options...)
	}
	return nil
}

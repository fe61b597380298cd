package controllers

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tulle-mesh/tulle/internal/model"
)

// request is the only request of each reconciler: it looks at all of its output at once, since what it reads is in memory and what
// is as it should be costs no request.
var request = reconcile.Request{}

// Signal wakes reconcilers. It may be used from any goroutine.
type Signal struct {
	mu     sync.Mutex
	wakers map[*func()]struct{}
}

// Fire wakes all that listen.
func (s *Signal) Fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for wake := range s.wakers {
		(*wake)()
	}
}

// Source wakes a reconciler when it starts and, delay after the first of them, on signals, for as long as it runs.
func (s *Signal) Source(delay time.Duration) source.Source {
	return source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.wakers == nil {
			s.wakers = map[*func()]struct{}{}
		}
		wake := func() { queue.AddAfter(request, delay) }
		s.wakers[&wake] = struct{}{}
		context.AfterFunc(ctx, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.wakers, &wake)
		})
		queue.Add(request)
		return nil
	})
}

// World is what this replica knows of the mesh: the newest snapshot, set by the path of data, read by the reconcilers.
type World struct {
	snapshot atomic.Pointer[model.Snapshot]
	// Changed fires with each new snapshot, Reshaped with each that differs in more than endpoints: these change all the time, and are
	// nothing to what is made of namespaces and the mesh-wide settings.
	Changed, Reshaped Signal
}

// Set takes the newest snapshot.
func (w *World) Set(s *model.Snapshot) {
	w.snapshot.Store(s)
	w.Changed.Fire()
	if !s.OnlyEndpoints() {
		w.Reshaped.Fire()
	}
}

// Snapshot returns the newest snapshot; nil before the first.
func (w *World) Snapshot() *model.Snapshot { return w.snapshot.Load() }

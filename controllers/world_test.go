package controllers

import (
	"context"
	"runtime"
	"testing"
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// TestSignalForgetsReconcilersThatEnded: a replica that leads again has reconcilers of its own for each term.
func TestSignalForgetsReconcilersThatEnded(t *testing.T) {
	t.Parallel()
	var s Signal
	queue := func() (workqueue.TypedRateLimitingInterface[reconcile.Request], context.CancelFunc) {
		q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
		t.Cleanup(q.ShutDown)
		ctx, cancel := context.WithCancel(t.Context())
		if err := s.Source(0).Start(ctx, q); err != nil {
			t.Fatal(err)
		}
		return q, cancel
	}
	take := func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		r, _ := q.Get()
		q.Done(r)
	}
	ended, end := queue()
	goesOn, _ := queue()
	take(ended) // each is woken when it starts
	take(goesOn)
	end()
	for deadline := time.Now().Add(10 * time.Second); ; {
		s.mu.Lock()
		listening := len(s.wakers)
		s.mu.Unlock()
		runtime.Gosched()
		if listening == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d listen, of which one has ended", listening)
		}
	}
	s.Fire()
	take(goesOn)
	if n := ended.Len(); n != 0 {
		t.Errorf("a reconciler that has ended was woken %d times", n)
	}
}

package controllers

import (
	"context"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/internal/model"
)

// TestEndpointsReshapeNothing: endpoints that come and go wake no reconciler whose output they can't change.
func TestEndpointsReshapeNothing(t *testing.T) {
	t.Parallel()
	builder := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})
	slice := func(ready bool) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: new(int32(80))}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	service.Spec.ClusterIP, service.Spec.Ports = "10.96.0.5", []corev1.ServicePort{{Port: 80}}
	builder.Set(service)
	builder.Set(slice(true))
	var w World
	w.Set(builder.Snapshot())
	changed, reshaped := 0, 0
	countChanged, countReshaped := func() { changed++ }, func() { reshaped++ }
	w.Changed.wakers = map[*func()]struct{}{&countChanged: {}}
	w.Reshaped.wakers = map[*func()]struct{}{&countReshaped: {}}

	builder.Set(slice(false))
	w.Set(builder.Snapshot())
	if changed != 1 || reshaped != 0 {
		t.Errorf("endpoints that are not ready any more: woken %d and %d times, want 1 and 0", changed, reshaped)
	}
	service = service.DeepCopy()
	service.Spec.Ports[0].Port = 81
	builder.Set(service)
	w.Set(builder.Snapshot())
	if changed != 2 || reshaped != 1 {
		t.Errorf("another port of a Service: woken %d and %d times, want 2 and 1", changed, reshaped)
	}
}

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

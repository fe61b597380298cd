package ingest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
)

// pods is an API server with nothing but pods.
type pods struct {
	mu      sync.Mutex
	there   []corev1.Pod
	watches chan *watch.FakeWatcher
}

func (p *pods) set(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.there = nil
	for _, name := range names {
		p.there = append(p.there, *aPod(name))
	}
}

func aPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: "1", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}},
		Spec:       corev1.PodSpec{NodeName: "node-1", SchedulerName: "default-scheduler"},
	}
}

func (p *pods) listWatch() toolscache.ListerWatcher {
	// What can't stream lists is listed.
	return toolscache.ToListWatcherWithWatchListSemantics(&toolscache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: slices.Clone(p.there)}, nil
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			w := watch.NewFake()
			p.watches <- w
			return w, nil
		},
	}, listsOnly{})
}

type listsOnly struct{}

// IsWatchListSemanticsUnSupported implements what client-go asks fakes for.
func (listsOnly) IsWatchListSemanticsUnSupported() bool { return true }

// An informer that keeps nothing passes on what there is, what comes and what goes, trimmed, and says after a gap what went meanwhile.
func TestPassingInformer(t *testing.T) {
	p := &pods{watches: make(chan *watch.FakeWatcher, 1)}
	p.set("a", "b")
	informer := NewInformer(p.listWatch(), &corev1.Pod{}, 0, toolscache.Indexers{})
	if err := informer.SetTransform(trimmed(trimPod)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		informer.RunWithContext(ctx)
	}()
	defer func() { cancel(); <-ran }()

	events := make(chan string, 100)
	say := func(what string, object any) {
		pod := object.(*corev1.Pod)
		if pod.ManagedFields != nil || pod.Spec.SchedulerName != "" || what != "delete" && pod.Spec.NodeName != "node-1" {
			t.Errorf("%s %s was not trimmed as it should be: %v", what, pod.Name, pod)
		}
		events <- what + " " + pod.Namespace + "/" + pod.Name
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { say("add", o) },
		UpdateFunc: func(before, o any) {
			if same(before, o) {
				say("repeat", o)
			} else {
				say("update", o)
			}
		},
		DeleteFunc: func(o any) { say("delete", o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want ...string) {
		t.Helper()
		var got []string
		for range want {
			select {
			case e := <-events:
				got = append(got, e)
			case <-time.After(time.Minute):
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	watching := <-p.watches
	next("add shop/a", "add shop/b")
	<-registration.HasSyncedChecker().Done()
	if !registration.HasSynced() || !informer.HasSynced() || len(informer.GetStore().List()) != 0 {
		t.Errorf("synced: %v, kept: %v", informer.HasSynced(), informer.GetStore().List())
	}
	watching.Add(aPod("c"))
	next("add shop/c")
	changed := aPod("a")
	changed.ResourceVersion = "2"
	watching.Modify(changed)
	next("update shop/a")
	watching.Delete(aPod("b"))
	next("delete shop/b")

	p.set("c", "d") // and nobody says so
	watching.Error(&metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired})
	<-p.watches
	next("add shop/d", "delete shop/a", "repeat shop/c")

	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{}); err == nil {
		t.Error("a second handler was taken, which has missed all that")
	}
}

// Of all other kinds there are the informers that everybody knows.
func TestOtherInformersKeepWhatComes(t *testing.T) {
	if _, ok := NewInformer(&toolscache.ListWatch{}, &corev1.Service{}, 0, toolscache.Indexers{}).(*passing); ok {
		t.Error("Services are passed on and not kept, but controllers read them")
	}
}

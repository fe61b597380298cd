package ingest

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// change is the last known state of one object.
type change struct {
	object  client.Object
	deleted bool
}

// lane holds changes in the order in which their objects first changed; an object stands in it once.
type lane struct {
	order   []string
	changes map[string]change
}

func (l *lane) put(key string, c change) {
	if l.changes == nil {
		l.changes = map[string]change{}
	}
	if _, ok := l.changes[key]; !ok {
		l.order = append(l.order, key)
	}
	l.changes[key] = c
}

func (l *lane) take() []change {
	taken := make([]change, 0, len(l.order))
	for _, key := range l.order {
		taken = append(taken, l.changes[key])
	}
	*l = lane{}
	return taken
}

// queue takes changes from any goroutine. It grows with the number of objects that changed, not with the number of changes.
type queue struct {
	wake chan struct{}

	mu sync.Mutex
	// endpoints never wait; the rest does.
	endpoints, rest lane
	trust           []byte
	newTrust        bool
	// arrived counts the changes that may wait.
	arrived uint64
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// add takes an object from an informer's event.
func (q *queue) add(event any, deleted bool) {
	if gone, ok := event.(toolscache.DeletedFinalStateUnknown); ok {
		event, deleted = gone.Obj, true
	}
	object, ok := event.(client.Object)
	if !ok {
		return
	}
	key := objectKey(object)
	q.mu.Lock()
	if urgent(object) {
		q.endpoints.put(key, change{object, deleted})
	} else {
		q.rest.put(key, change{object, deleted})
		q.arrived++
	}
	q.mu.Unlock()
	q.signal()
}

func (q *queue) setTrust(bundle []byte) {
	q.mu.Lock()
	q.trust, q.newTrust = bundle, true
	q.arrived++
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// takeEndpoints returns and forgets the changes that must not wait.
func (q *queue) takeEndpoints() []change {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.endpoints.take()
}

// takeRest returns and forgets the other changes, and the trust bundle if it is a new one.
func (q *queue) takeRest() (rest []change, trust []byte, newTrust bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	rest, trust, newTrust = q.rest.take(), q.trust, q.newTrust
	q.trust, q.newTrust = nil, false
	return rest, trust, newTrust
}

// restArrived returns how many changes that may wait have come so far.
func (q *queue) restArrived() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.arrived
}

func urgent(object client.Object) bool {
	switch object.(type) {
	case *discoveryv1.EndpointSlice, *corev1.Pod:
		return true
	}
	return false
}

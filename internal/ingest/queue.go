package ingest

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// change is the last known state of one object.
type change struct {
	object  client.Object
	deleted bool
	// parcel is there instead of an object that is still packed.
	parcel *parcel
}

// lane holds changes in the order in which their objects first changed; an object stands in it once.
type lane struct {
	order   []string
	changes map[string]change
	// since is when the first of them arrived.
	since time.Time
}

func (l *lane) put(key string, c change, now time.Time) {
	if l.changes == nil {
		l.changes, l.since = map[string]change{}, now
	}
	if _, ok := l.changes[key]; !ok {
		l.order = append(l.order, key)
	}
	l.changes[key] = c
}

func (l *lane) take() ([]change, time.Time) {
	since := l.since
	taken := make([]change, 0, len(l.order))
	for _, key := range l.order {
		taken = append(taken, l.changes[key])
	}
	*l = lane{}
	return taken, since
}

// queue takes changes from any goroutine. It grows with the number of objects that changed, not with the number of changes.
type queue struct {
	wake chan struct{}
	now  func() time.Time

	mu sync.Mutex
	// endpoints never wait; the rest does.
	endpoints, rest lane
	trust           []byte
	newTrust        bool
	// arrived counts the changes that may wait.
	arrived uint64
}

func newQueue(now func() time.Time) *queue { return &queue{wake: make(chan struct{}, 1), now: now} }

// add takes an object from an informer's event.
func (q *queue) add(event any, deleted bool) {
	if gone, ok := event.(toolscache.DeletedFinalStateUnknown); ok {
		event, deleted = gone.Obj, true
	}
	if p, ok := event.(*parcel); ok {
		q.mu.Lock()
		q.endpoints.put(p.key(), change{parcel: p}, q.now())
		q.mu.Unlock()
		q.signal()
		return
	}
	object, ok := event.(client.Object)
	if !ok {
		return
	}
	key := objectKey(object)
	q.mu.Lock()
	if urgent(object) {
		q.endpoints.put(key, change{object: object, deleted: deleted}, q.now())
	} else {
		q.rest.put(key, change{object: object, deleted: deleted}, q.now())
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

// takeEndpoints returns and forgets the changes that must not wait, and when the first of them arrived.
func (q *queue) takeEndpoints() ([]change, time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.endpoints.take()
}

// takeRest returns and forgets the other changes, and the trust bundle if it is a new one.
func (q *queue) takeRest() (rest []change, since time.Time, trust []byte, newTrust bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	rest, since = q.rest.take()
	trust, newTrust = q.trust, q.newTrust
	q.trust, q.newTrust = nil, false
	return rest, since, trust, newTrust
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

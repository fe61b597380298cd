package ingest

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/contain"
)

// What is packed on its way to the builder goes by the same names as the object itself, and is the same when it is there.
func TestAParcelIsWhatWasPacked(t *testing.T) {
	t.Parallel()
	parcels := 0
	for _, o := range examples() {
		p, ok := wrap(o).(*parcel)
		if !passed(o) {
			if ok || wrap(o) != any(o) {
				t.Errorf("%s: packed, though its informer keeps it", objectKey(o))
			}
			continue
		}
		parcels++
		if !ok {
			t.Fatalf("%s is not packed", objectKey(o))
		}
		if p.key() != objectKey(o) {
			t.Errorf("key %q, want %q", p.key(), objectKey(o))
		}
		if name, err := toolscache.MetaNamespaceKeyFunc(p); err != nil || name != client.ObjectKeyFromObject(o).String() {
			t.Errorf("name %q, want %q; %v", name, client.ObjectKeyFromObject(o), err)
		}
		if m, err := meta.Accessor(p); err != nil || m.GetUID() != o.GetUID() || m.GetResourceVersion() != o.GetResourceVersion() {
			t.Errorf("%s: another identity, or version: %v, %v", objectKey(o), m, err)
		}
		if got := p.open(); !apiequality.Semantic.DeepEqual(got, o) {
			t.Errorf("unpacked it is\n%v\nwant\n%v", got, o)
		}
		if !same(o, p) {
			t.Errorf("%s counts as another version than its packed self", objectKey(o))
		}
	}
	if parcels != 2 {
		t.Errorf("%d kinds are packed, want pods and EndpointSlices", parcels)
	}
}

// taker is a builder that remembers what it was fed.
type taker struct {
	Builder
	set []client.Object
}

// Set implements Builder.
func (k *taker) Set(object any) { k.set = append(k.set, object.(client.Object)) }

func TestTheBuilderGetsWhatIsInAParcel(t *testing.T) {
	t.Parallel()
	q := newQueue(time.Now)
	want := map[string]client.Object{}
	for _, o := range examples() {
		switch o.(type) {
		case *corev1.Pod, *discoveryv1.EndpointSlice:
			want[objectKey(o)] = o
			q.add(wrap(o), false)
		}
	}
	panics, err := contain.New(prometheus.NewRegistry(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	b := &taker{}
	g := newGuard(Options{NewBuilder: func() Builder { return b }, Panics: panics})
	changes, _ := q.takeEndpoints()
	for _, c := range changes {
		g.take(c, time.Now())
	}
	if len(b.set) != len(want) {
		t.Fatalf("%d objects, want %d", len(b.set), len(want))
	}
	for _, o := range b.set {
		if !apiequality.Semantic.DeepEqual(o, want[objectKey(o)]) {
			t.Errorf("the builder got\n%v\nwant\n%v", o, want[objectKey(o)])
		}
		if k := g.objects[objectKey(o)]; k.object != nil || k.packed == nil {
			t.Errorf("%s is not kept packed", objectKey(o))
		}
	}
}

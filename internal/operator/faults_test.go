package operator

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/peers"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// A signature that panics is the failure of one certificate.
func TestSignatureThatPanics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	panics, err := contain.New(registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	broken := signer{nil, panics, newSigned()} // a signer that there never is
	secret, _, err := broken.Certificate(t.Context(), &resource.Proxy{Namespace: "shop", Pod: "web"})
	if secret != nil || err == nil || !strings.HasPrefix(err.Error(), "certificate of pod shop/web: a bug of Tulle") {
		t.Errorf("got %v, %v", secret, err)
	}
	if n := counted(t, registry, contain.Sign); n != 1 {
		t.Errorf("counted %v, want 1", n)
	}
}

// A snapshot that can't be published to proxies is still what webhooks and status go by, and the next one is published.
func TestPublishingThatPanics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	panics, err := contain.New(registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var published []uint64
	broken := true
	o := &operator{
		panics: panics, peers: &peers.Server{},
		materials: identity.NewMaterials(time.Now, slog.New(slog.DiscardHandler), func([]byte) {}, func(time.Duration) {}, func() {}),
		publisher: compile.NewPublisher(func(view resource.View, _ []resource.ScopedRef) {
			if broken {
				panic("a bug")
			}
			published = append(published, view.Revision())
		}, func(resource.ScopedRef, error) {}),
	}
	if o.xds, err = xds.NewServer(xds.Config{}); err != nil {
		t.Fatal(err)
	}
	builder := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})
	for _, name := range []string{"first", "second"} {
		builder.Set(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.5"}})
		snapshot := builder.Snapshot()
		o.publish(snapshot)
		if o.world.Snapshot() != snapshot {
			t.Errorf("webhooks and status do not go by the %s snapshot", name)
		}
		broken = false
	}
	if want := []uint64{o.world.Snapshot().Revision()}; !slices.Equal(published, want) {
		t.Errorf("published %d, want %d", published, want)
	}
	if n := counted(t, registry, contain.Publish); n != 1 {
		t.Errorf("counted %v, want 1", n)
	}
}

// What a publication that panics was to tell proxies of is told with the next.
func TestChangesOfAPublicationThatPanics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	panics, err := contain.New(registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{panics: panics} // without a server of xDS, so that it panics
	var told [][]resource.ScopedRef
	o.publisher = compile.NewPublisher(func(view resource.View, changed []resource.ScopedRef) {
		told = append(told, changed)
		o.send(view, changed)
	}, func(resource.ScopedRef, error) {})
	o.publisher.Publish(model.NewBuilder(model.Config{}).Snapshot())
	changed := resource.ScopedRef{Ref: resource.Ref{Type: resource.Secret, Name: "peers"}}
	o.publisher.Again(changed)
	if o.xds, err = xds.NewServer(xds.Config{}); err != nil {
		t.Fatal(err)
	}
	o.publisher.Again()
	o.publisher.Again()
	if len(told) != 3 || !slices.Equal(told[2], []resource.ScopedRef{changed}) {
		t.Errorf("told %v, want %v once more and then nothing", told, changed)
	}
	if n := counted(t, registry, contain.Publish); n != 2 {
		t.Errorf("counted %v, want 2", n)
	}
}

// counted returns how many panics of a place were counted.
func counted(t *testing.T, registry *prometheus.Registry, place contain.Place) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "tulle_panics_total" && m.GetLabel()[0].GetValue() == string(place) {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("tulle_panics_total has no series for %s", place)
	return 0
}

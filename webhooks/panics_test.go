package webhooks_test

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/webhooks"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// counted is how many panics of admission requests were counted.
func counted(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		if m.GetLabel()[0].GetValue() == string(contain.Admission) {
			return m.GetCounter().GetValue()
		}
	}
	t.Fatal("nothing counts panics")
	return 0
}

// A panic ends one request and is counted; the next one is answered.
func TestPanicsAreCounted(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	panics, err := contain.New(registry, discard())
	if err != nil {
		t.Fatal(err)
	}
	good, broken := snapshotOf(mesh("shop", "")), true
	w := world{panics: panics, snapshot: func() *model.Snapshot {
		if broken {
			panic("a bug")
		}
		return good()
	}}
	if r := w.ask(t, webhooks.InjectPath, pod("shop", plainPod)); r.Allowed || r.Result.Code != http.StatusInternalServerError {
		t.Errorf("a pod of the mesh: %+v", r.Result)
	}
	if r := w.ask(t, webhooks.InjectNewPath, pod("other", plainPod)); !r.Allowed {
		t.Errorf("another pod: %+v", r.Result)
	}
	if r := w.ask(t, webhooks.ValidatePath, meshRequest("shop", "m", "{services: [{name: reviews}]}", "")); r.Allowed {
		t.Errorf("a Mesh: %+v", r.Result)
	}
	if got := counted(t, registry); got != 3 {
		t.Errorf("%v panics were counted, want 3", got)
	}
	broken = false
	if r := w.ask(t, webhooks.InjectPath, pod("shop", plainPod)); !r.Allowed || r.Patch == nil {
		t.Errorf("the next pod: %+v", r.Result)
	}
}

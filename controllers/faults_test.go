package controllers

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/status"
)

func newPanics(t *testing.T) (*contain.Panics, func(contain.Place) float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	panics, err := contain.New(registry, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return panics, func(where contain.Place) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range families[0].GetMetric() {
			if m.GetLabel()[0].GetValue() == string(where) {
				return m.GetCounter().GetValue()
			}
		}
		return -1
	}
}

// A reconciler that panics fails, is counted, and is asked again.
func TestReconcilerThatPanics(t *testing.T) {
	t.Parallel()
	panics, counted := newPanics(t)
	turns := 0
	r := contained(panics, "test", reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) {
		if turns++; turns == 1 {
			panic("a bug")
		}
		return reconcile.Result{RequeueAfter: 7}, nil
	}))
	if _, err := r.Reconcile(t.Context(), request); err == nil || !strings.Contains(err.Error(), "reconciler test: a bug of Tulle") {
		t.Errorf("got %v", err)
	}
	if result, err := r.Reconcile(t.Context(), request); err != nil || result.RequeueAfter != 7 {
		t.Errorf("the next turn: %v, %v", result, err)
	}
	if got := counted(contain.Reconcile); got != 1 {
		t.Errorf("counted %v", got)
	}
}

// A Mesh of which the status can't be told says that; nothing of it is True.
func TestStatusThatPanics(t *testing.T) {
	t.Parallel()
	panics, counted := newPanics(t)
	s := &Status{Panics: panics}
	// An input without the namespace's settings is one that there never is.
	got := s.of(status.Input{Report: model.MeshReport{Namespace: "shop", Name: "mesh", Generation: 3}})
	if got.ObservedGeneration != 3 {
		t.Fatalf("got %+v", got)
	}
	// A condition that is left out is one that was never there.
	usual := status.Of(status.Input{Report: model.MeshReport{Namespace: "shop", Name: "mesh"}, Namespace: &model.Namespace{}})
	for _, u := range usual.Conditions {
		if meta.FindStatusCondition(got.Conditions, u.Type) == nil {
			t.Errorf("%s is missing", u.Type)
		}
	}
	for _, c := range got.Conditions {
		if c.Status != metav1.ConditionUnknown || c.Reason != "InternalError" || c.ObservedGeneration != 3 || !strings.HasPrefix(c.Message, "status of Mesh shop/mesh: a bug of Tulle") {
			t.Errorf("%+v", c)
		}
	}
	if got := counted(contain.Status); got != 1 {
		t.Errorf("counted %v", got)
	}
}

// What Tulle itself is at fault for is told first, to the Mesh, or to those of the namespace, that it concerns.
func TestFaultsAreTold(t *testing.T) {
	t.Parallel()
	faults := []Fault{
		{Namespace: "shop", Mesh: "mesh", Message: "about the Mesh"}, {Namespace: "shop", Message: "about a Service"},
		{Namespace: "shop", Mesh: "other", Message: "about another Mesh"}, {Namespace: "bank", Message: "about a bank"},
	}
	own := model.Problem{Condition: v1alpha1.ConditionAccepted, Message: "its own", Fatal: true}
	report := withFaults(model.MeshReport{Namespace: "shop", Name: "mesh", Problems: []model.Problem{own}}, faults)
	var told []string
	for _, p := range report.Problems {
		told = append(told, p.Message)
		if p.Condition != v1alpha1.ConditionAccepted || !p.Fatal {
			t.Errorf("%+v", p)
		}
	}
	if got, want := strings.Join(told, ", "), "about the Mesh, about a Service, its own"; got != want {
		t.Errorf("told %s; want %s", got, want)
	}
	var f Faults
	f.Set(faults)
	if len(f.All()) != 4 {
		t.Errorf("kept %v", f.All())
	}
}

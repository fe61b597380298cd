package controllers

import (
	"context"
	"slices"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/status"
)

// reasonInternalError says that Tulle itself is at fault.
const reasonInternalError = status.ReasonInternalError

// Fault is something that Tulle could not read or make because of an error of its own.
type Fault struct {
	// Namespace is the one whose Meshes are told; Mesh the only one of them, if not empty.
	Namespace, Mesh string
	// Message names what it is about and what counts instead.
	Message string
}

// Faults are those of what a replica read, whether it leads or not.
type Faults struct {
	// Changed fires when there are others, and when something could not be compiled.
	Changed Signal

	mu  sync.Mutex
	all []Fault
}

// Set replaces the faults.
func (f *Faults) Set(faults []Fault) {
	f.mu.Lock()
	changed := !slices.Equal(f.all, faults)
	f.all = faults
	f.mu.Unlock()
	if changed {
		f.Changed.Fire()
	}
}

// All returns the faults.
func (f *Faults) All() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

// withFaults adds to the problems of a Mesh what Tulle itself is at fault for. It comes first: nothing else may be right then.
func withFaults(report model.MeshReport, faults []Fault) model.MeshReport {
	var problems []model.Problem
	for _, f := range faults {
		if f.Namespace == report.Namespace && (f.Mesh == "" || f.Mesh == report.Name) {
			problems = append(problems, model.Problem{
				Origin:    resource.Origin{Kind: "Mesh", Namespace: report.Namespace, Name: report.Name},
				Condition: v1alpha1.ConditionAccepted, Reason: reasonInternalError, Message: f.Message, Fatal: true,
			})
		}
	}
	report.Problems = append(problems, report.Problems...)
	return report
}

// of is status.Of, of which a panic concerns one Mesh alone.
func (s *Status) of(in status.Input) (made v1alpha1.MeshStatus) {
	what := "status of Mesh " + in.Report.Namespace + "/" + in.Report.Name
	if err := s.Panics.Do(contain.Status, what, func() { made = status.Of(in) }); err != nil {
		return status.Unknown(in.Report, err)
	}
	return made
}

// contained is a reconciler whose panics are counted, and tried again as after any error.
func contained(panics *contain.Panics, name string, r reconcile.Reconciler) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, request reconcile.Request) (result reconcile.Result, err error) {
		if panicked := panics.Do(contain.Reconcile, "reconciler "+name, func() { result, err = r.Reconcile(ctx, request) }); panicked != nil {
			return reconcile.Result{}, panicked
		}
		return result, err
	})
}

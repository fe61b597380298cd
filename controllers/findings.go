package controllers

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/status"
)

// Findings are what the other reconcilers found out and the status tells.
type Findings struct {
	// Changed fires when something was found.
	Changed Signal

	mu        sync.Mutex
	issued    identity.Verdict
	webhooks  error
	conflicts map[string]error // by namespace
	newRoot   string
	splits    []SplitConflict
	carry     map[carrier]carriage
	// monitoring is by namespace; nil before monitors were looked at.
	monitoring map[string]status.Monitoring
}

// carrier is a kind of object that tells others whom to trust.
type carrier int

const (
	webhooksCarry carrier = iota
	bootstrapCarries
	definitionsCarry
)

// carriage is the PEM that all objects of a kind carry, and since when.
type carriage struct {
	ca   []byte
	from time.Time
}

// Issued returns the state of the mesh's certificates; false before they were looked at.
func (f *Findings) Issued() (identity.Verdict, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	verdict := f.issued
	if f.newRoot != "" {
		verdict.Message += "; " + f.newRoot
	}
	return verdict, f.issued != identity.Verdict{}
}

// Conflict returns why pods of a namespace can't be injected because of objects of somebody else; nil when there are none.
func (f *Findings) Conflict(namespace string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.webhooks != nil {
		return f.webhooks
	}
	return f.conflicts[namespace]
}

// SplitConflict says why a rule of a Mesh has no TrafficSplit and no Services of its versions.
type SplitConflict struct{ Namespace, Mesh, Field, Message string }

// SplitConflicts returns them.
func (f *Findings) SplitConflicts() []SplitConflict {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.splits
}

func (f *Findings) setSplitConflicts(conflicts []SplitConflict) {
	f.set(func() bool {
		changed := !slices.Equal(f.splits, conflicts)
		f.splits = conflicts
		return changed
	})
}

// WithSplitConflicts adds to the problems of a Mesh what its rules can't be made into.
func WithSplitConflicts(report model.MeshReport, conflicts []SplitConflict) model.MeshReport {
	problems := slices.Clone(report.Problems)
	for _, c := range conflicts {
		if c.Namespace == report.Namespace && c.Mesh == report.Name {
			problems = append(problems, model.Problem{
				Origin:    resource.Origin{Kind: "Mesh", Namespace: c.Namespace, Name: c.Mesh, Field: c.Field},
				Condition: v1alpha1.ConditionAccepted, Reason: model.ReasonConflicted, Fatal: true,
				Message: c.Message + "; the rule works, and has no TrafficSplit and no Services of its versions",
			})
		}
	}
	report.Problems = problems
	return report
}

func (f *Findings) setIssued(v identity.Verdict) {
	f.set(func() bool {
		changed := f.issued != v
		f.issued = v
		return changed
	})
}

// setNewRoot says what a new root waits for; empty: for nothing.
func (f *Findings) setNewRoot(waiting string) {
	f.set(func() bool {
		changed := f.newRoot != waiting
		f.newRoot = waiting
		return changed
	})
}

// setCarried notes that all objects of a kind carry a CA bundle as of now.
func (f *Findings) setCarried(by carrier, ca []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.carry == nil {
		f.carry = map[carrier]carriage{}
	}
	if !bytes.Equal(f.carry[by].ca, ca) {
		f.carry[by] = carriage{ca: ca, from: time.Now()}
	}
}

// carried says since when all objects of a kind carry these roots; false when they do not.
func (f *Findings) carried(by carrier, roots []byte) (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.carry[by]
	return c.from, ok && identity.Covers(c.ca, roots)
}

func (f *Findings) setWebhooks(err error) {
	f.set(func() bool {
		changed := text(f.webhooks) != text(err)
		f.webhooks = err
		return changed
	})
}

func (f *Findings) setConflicts(conflicts map[string]error) {
	f.set(func() bool {
		changed := len(conflicts) != len(f.conflicts)
		for namespace, err := range conflicts {
			changed = changed || text(f.conflicts[namespace]) != text(err)
		}
		f.conflicts = conflicts
		return changed
	})
}

func (f *Findings) set(update func() (changed bool)) {
	f.mu.Lock()
	changed := update()
	f.mu.Unlock()
	if changed {
		f.Changed.Fire()
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// conflictsIn returns the first conflict in what Apply returned, and what else went wrong.
func conflictsIn(err error) (conflict *ConflictError, rest error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		if errors.As(err, &conflict) {
			return conflict, nil
		}
		return nil, err
	}
	var others []error
	for _, e := range joined.Unwrap() {
		c, other := conflictsIn(e)
		if conflict == nil {
			conflict = c
		}
		if other != nil {
			others = append(others, other)
		}
	}
	return conflict, errors.Join(others...)
}

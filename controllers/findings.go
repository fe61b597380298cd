package controllers

import (
	"errors"
	"sync"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Findings are what the other reconcilers found out and the status tells.
type Findings struct {
	// Changed fires when something was found.
	Changed Signal

	mu        sync.Mutex
	issued    identity.Verdict
	webhooks  error
	conflicts map[string]error // by namespace
	faults    []Fault
}

// Issued returns the state of the mesh's certificates; false before they were looked at.
func (f *Findings) Issued() (identity.Verdict, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.issued, f.issued != identity.Verdict{}
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

func (f *Findings) setIssued(v identity.Verdict) {
	f.set(func() bool {
		changed := f.issued != v
		f.issued = v
		return changed
	})
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

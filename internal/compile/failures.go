package compile

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Failure is a resource that somebody asked for and that can't be made of the newest snapshot. It is missing.
type Failure struct {
	Ref resource.ScopedRef
	// Err is Envoy's own validation error or, of a panic, a *contain.Error.
	Err error
	// Namespaces are those of which the resource tells something, sorted.
	Namespaces []string
}

// Failures returns what can't be made of the newest snapshot, in a stable order. It may be used by any goroutine.
func (p *Publisher) Failures() []Failure { return p.compiler.failures() }

func (c *Compiler) failures() []Failure {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Failure
	for _, ref := range slices.SortedFunc(maps.Keys(c.failed), compareRefs) {
		e := c.failed[ref]
		f := Failure{Ref: ref, Err: e.err}
		for _, key := range e.keys {
			if key.Namespace != "" {
				f.Namespaces = append(f.Namespaces, key.Namespace)
			}
		}
		slices.Sort(f.Namespaces)
		f.Namespaces = slices.Compact(f.Namespaces)
		all = append(all, f)
	}
	return all
}

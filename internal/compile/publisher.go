package compile

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Publisher hands a compiler's views on, one at a time and in order.
//
// It also closes the gap between a new view and the moment at which its readers have it: who reads something of the view
// before in that moment could not be named as concerned by the change. What was read late is therefore named once
// more, with the newest view.
type Publisher struct {
	compiler *Compiler
	publish  func(resource.View, []resource.ScopedRef)

	// mu is held while something is published.
	mu sync.Mutex
	// owed is what was published and did not reach everybody.
	owed []resource.ScopedRef
	// again is true while a goroutine waits to publish what was read late.
	again atomic.Bool
}

// NewPublisher returns a publisher with a compiler of its own. Each call of publish gets the newest view and what may differ
// in it; onError is NewCompiler's.
func NewPublisher(publish func(resource.View, []resource.ScopedRef), onError func(resource.ScopedRef, error)) *Publisher {
	p := &Publisher{compiler: NewCompiler(onError), publish: publish}
	p.compiler.onLate = func() {
		if p.again.CompareAndSwap(false, true) {
			go p.Again()
		}
	}
	return p
}

// Publish publishes a new snapshot. Snapshots must come in order, and none may be left out.
func (p *Publisher) Publish(s *model.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hand(p.compiler.Advance(s))
}

// hand publishes a view with what changed in it, and what is owed.
func (p *Publisher) hand(view resource.View, changed []resource.ScopedRef) {
	owed := p.owed
	p.owed = nil
	p.publish(view, append(changed, owed...))
}

// Owe has what was given to publish named again with the next view, as it may not have reached everybody: a view names only what
// changed since the one before. It is called by publish itself.
func (p *Publisher) Owe(changed []resource.ScopedRef) {
	p.owed = slices.Clone(changed)
	slices.SortFunc(p.owed, compareRefs)
	p.owed = slices.Compact(p.owed)
}

// Again publishes the newest view again, with what was read late, what is owed and what the caller names.
func (p *Publisher) Again(refs ...resource.ScopedRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.again.Store(false)
	if view, late := p.compiler.newest(); len(late) > 0 || len(refs) > 0 || len(p.owed) > 0 {
		p.hand(view, append(late, refs...))
	}
}

// Sweep forgets what was compiled and nobody watches: proxies that ask for one thing after the other would fill the memory with it. What it
// forgets is compiled again when somebody asks for it. Nothing is published meanwhile, so that who comes to watch something just
// now hears of its changes: those are in the next view, with which everything is named that was read before.
func (p *Publisher) Sweep(watched func(resource.ScopedRef) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.compiler.sweep(watched)
}

// newest returns the newest view, and what was read late since the last call.
func (c *Compiler) newest() (resource.View, []resource.ScopedRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &view{c, c.current}, c.takeLate()
}

func (c *Compiler) takeLate() []resource.ScopedRef {
	late := slices.SortedFunc(maps.Keys(c.late), compareRefs)
	clear(c.late)
	return late
}

// Cached returns the number of resources that are held compiled.
func (p *Publisher) Cached() int { return p.compiler.cached() }

func (c *Compiler) cached() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries)
}

package compile

import (
	"maps"
	"slices"
	"sync"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Compiler compiles what is asked for, and keeps it until a snapshot changes something that it was made from.
// It may be used by several goroutines.
type Compiler struct {
	// onError is told of a resource that could not be made.
	onError func(resource.ScopedRef, error)
	// onLate, if not nil, is told that something was read from a view that is not the newest.
	onLate func()
	// translate is Compile, but in a test.
	translate func(*model.Reader, resource.Scope, resource.Ref) (*resource.Resource, error)

	mu sync.Mutex
	// current is the newest snapshot.
	current *model.Snapshot
	// entries holds what was compiled, or is being compiled, and is what current says.
	entries map[resource.ScopedRef]*entry
	// unfinished are the entries that are being compiled.
	unfinished map[resource.ScopedRef]struct{}
	// readers says which entries were made from a key.
	readers map[model.Key]*readers
	// late are resources that were read from an older snapshot than current. They were not kept, and may be different by now.
	late map[resource.ScopedRef]struct{}
	// failed are the entries that could not be made.
	failed map[resource.ScopedRef]*entry
	packer resource.Packer
	// bodies lets equal resources of different scopes share their bytes.
	bodies map[bodyKey]*body
}

// entry is one compiled resource. The fields below done are set before it is closed and never after.
type entry struct {
	ref resource.ScopedRef
	// since is the revision of the snapshot that it was made from; what it read has not changed since.
	since uint64
	done  chan struct{}

	resource *resource.Resource
	err      error
	keys     []model.Key
	body     *body
}

// body is what equal resources share, with the number of entries that do.
type body struct {
	resource *resource.Resource
	entries  int
}

type bodyKey struct {
	resource.Ref
	version string
}

// NewCompiler returns a compiler that reports to onError what it could not make. The error names the objects that the resource
// comes from; the resource is missing then, and everything else goes on.
func NewCompiler(onError func(resource.ScopedRef, error)) *Compiler {
	return &Compiler{
		onError:    onError,
		translate:  Compile,
		entries:    map[resource.ScopedRef]*entry{},
		unfinished: map[resource.ScopedRef]struct{}{},
		readers:    map[model.Key]*readers{},
		late:       map[resource.ScopedRef]struct{}{},
		failed:     map[resource.ScopedRef]*entry{},
		bodies:     map[bodyKey]*body{},
	}
}

// Advance makes s the newest snapshot. It returns its view, and what may differ in it from what was read, of any view, until
// Advance returns. Snapshots must come in order and none may be left out, since each says what changed from the one before.
func (c *Compiler) Advance(s *model.Snapshot) (resource.View, []resource.ScopedRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.takeLate()
	if s != c.current {
		changed = append(changed, c.invalidate(s.Changed())...)
		c.current = s
	}
	slices.SortFunc(changed, compareRefs)
	return &view{c, s}, slices.Compact(changed)
}

// invalidate drops what was made from one of the keys, and names it.
func (c *Compiler) invalidate(keys []model.Key) []resource.ScopedRef {
	var dropped []resource.ScopedRef
	for _, key := range keys {
		r := c.readers[key]
		if r == nil {
			continue
		}
		for _, e := range r.all() {
			dropped = append(dropped, e.ref)
			c.drop(e.ref, e)
		}
	}
	// What is being compiled has not said yet what it reads.
	for ref := range c.unfinished {
		dropped = append(dropped, ref)
		delete(c.entries, ref)
	}
	clear(c.unfinished)
	return dropped
}

// view is a snapshot as the compiler sees it.
type view struct {
	compiler *Compiler
	snapshot *model.Snapshot
}

// Revision implements resource.View.
func (v *view) Revision() uint64 { return v.snapshot.Revision() }

// Resource implements resource.View.
func (v *view) Resource(p *resource.Proxy, ref resource.Ref) (*resource.Resource, resource.ScopedRef) {
	scoped := resource.ScopedRef{Scope: resource.Scope{Minor: features.Class(p.Minor)}, Ref: ref}
	if podScoped(ref) {
		scoped.Pod = p.Namespace + "/" + p.Pod
	}
	return v.compiler.resource(v.snapshot, scoped), scoped
}

// resource returns what ref is in a snapshot, which may be older than the current one.
func (c *Compiler) resource(s *model.Snapshot, ref resource.ScopedRef) *resource.Resource {
	e, mine := c.claim(s, ref)
	switch {
	case e == nil:
		if c.onLate != nil {
			c.onLate()
		}
		r, _, _ := c.compile(s, ref)
		return r
	case mine:
		c.fill(e, s, ref)
	default:
		<-e.done
	}
	return e.resource
}

// claim returns the entry that holds for a snapshot. It is the caller's to fill when mine is true. It is nil when the snapshot is an older
// one, for which nothing is kept.
func (c *Compiler) claim(s *model.Snapshot, ref resource.ScopedRef) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e = c.entries[ref]
	if e != nil && e.since <= s.Revision() {
		return e, false
	}
	if s != c.current {
		c.late[ref] = struct{}{}
		return nil, false
	}
	e = &entry{ref: ref, since: s.Revision(), done: make(chan struct{})}
	c.entries[ref] = e
	c.unfinished[ref] = struct{}{}
	return e, true
}

// fill compiles an entry and lets others have it.
func (c *Compiler) fill(e *entry, s *model.Snapshot, ref resource.ScopedRef) {
	r, keys, err := c.compile(s, ref)
	// Others do not wait for the packing, and what was made alike before is packed already.
	if c.keep(e, ref, r, keys, err) && ref.Pod != "" {
		c.packer.Pack(r)
	}
}

// keep lets others have what an entry was compiled to. It reports whether its bytes are new.
func (c *Compiler) keep(e *entry, ref resource.ScopedRef, r *resource.Resource, keys []model.Key, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(e.done)
	e.resource = r
	if c.entries[ref] != e {
		return false // Advance was here meanwhile and has named it as changed
	}
	delete(c.unfinished, ref)
	if e.keys, e.err = keys, err; err != nil {
		c.failed[ref] = e
	}
	for _, key := range keys {
		if c.readers[key] == nil {
			c.readers[key] = &readers{}
		}
		c.readers[key].add(e)
	}
	return c.share(e)
}

// compile makes a resource. One that makes it panic is missing, like one that can't be made for another reason: others wait for it.
func (c *Compiler) compile(s *model.Snapshot, ref resource.ScopedRef) (r *resource.Resource, _ []model.Key, err error) {
	reader := s.Reader()
	if panicked := contain.Do(ref.String(), func() { r, err = c.translate(reader, ref.Scope, ref.Ref) }); panicked != nil {
		r, err = nil, panicked
	}
	if err != nil {
		c.onError(ref, err)
	}
	return r, reader.Keys(), err
}

// sweep forgets the resources that nobody watches.
func (c *Compiler) sweep(watched func(resource.ScopedRef) bool) {
	c.mu.Lock()
	all := maps.Clone(c.entries)
	for ref := range c.unfinished {
		delete(all, ref)
	}
	c.mu.Unlock()
	// Whoever watches takes a lock of its own.
	maps.DeleteFunc(all, func(ref resource.ScopedRef, _ *entry) bool { return watched(ref) })
	c.mu.Lock()
	defer c.mu.Unlock()
	for ref, e := range all {
		if c.entries[ref] == e {
			c.drop(ref, e)
		}
	}
}

// share makes an entry use the bytes of an equal resource, if there is one. It reports whether it has bytes that no other has.
func (c *Compiler) share(e *entry) bool {
	if e.resource == nil || e.resource.Body() == nil {
		return false
	}
	key := bodyKey{e.resource.Ref, e.resource.Version}
	b := c.bodies[key]
	if b == nil {
		b = &body{resource: e.resource}
		c.bodies[key] = b
	}
	b.entries++
	e.resource.ShareBody(b.resource)
	e.body = b
	return b.entries == 1
}

func (c *Compiler) drop(ref resource.ScopedRef, e *entry) {
	delete(c.entries, ref)
	delete(c.failed, ref)
	for _, key := range e.keys {
		if r := c.readers[key]; r != nil {
			if r.remove(e); r.empty() {
				delete(c.readers, key)
			}
		}
	}
	if e.body != nil {
		if e.body.entries--; e.body.entries == 0 {
			delete(c.bodies, bodyKey{e.resource.Ref, e.resource.Version})
		}
	}
}

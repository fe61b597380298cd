package ingest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
)

// barTime is how long an object that made the model panic is not read again, also when it changes: each try that fails costs a
// rebuild of the model.
const barTime = time.Minute

// Barred is an object that the model can't take in, because of a programming error.
type Barred struct {
	Object client.Object
	// Err says so, in words for its owner.
	Err error
}

// guard feeds a builder so that an object that makes it panic stops nothing but itself. What such an object leaves behind in the
// builder can't be trusted, so a new builder takes over, without it:
//
//   - a Mesh keeps what it last said that could be read or, if there was nothing, counts as one that says mode Strict: its namespace
//     stays in the mesh, and nothing opens;
//   - the root Mesh keeps what it last said; if there was nothing, there is no snapshot: no guess at the mesh's trust is safe;
//   - any other object counts as not there. The cluster IP of such a Service answers nobody, and is not passed through.
type guard struct {
	fresh  func() Builder
	panics *contain.Panics
	// told is called with all barred objects whenever they change.
	told func([]Barred)
	root client.ObjectKey

	builder Builder
	last    *model.Snapshot
	trust   []byte
	// objects are what the builder was fed and has not forgotten; unsure is what it was fed since the last snapshot.
	objects map[string]kept
	unsure  map[string]bool
	barred  map[string]*bar
	// good are the Meshes of the last snapshot.
	good map[string]*v1alpha1.Mesh
	// broken is true while the builder must not be used.
	broken bool
}

type bar struct {
	Barred
	until time.Time
	// changed is true when the object is another than the one that was barred.
	changed bool
}

func newGuard(o Options) *guard {
	g := &guard{
		fresh: o.NewBuilder, panics: o.Panics, told: o.Barred, root: o.Root,
		objects: map[string]kept{}, unsure: map[string]bool{}, barred: map[string]*bar{}, good: map[string]*v1alpha1.Mesh{},
	}
	g.builder = g.fresh()
	return g
}

// take feeds a change.
func (g *guard) take(c change, now time.Time) {
	if c.parcel != nil {
		c.object = c.parcel.open()
	}
	key := objectKey(c.object)
	switch {
	case c.deleted:
		delete(g.objects, key)
		delete(g.good, key)
	case c.parcel != nil:
		g.objects[key] = c.parcel.kept
	default:
		g.objects[key] = keep(c.object)
	}
	if b := g.barred[key]; b != nil {
		if !c.deleted && now.Before(b.until) {
			b.Object, b.changed = c.object, true
			g.feed(g.standIn(b), now)
			return
		}
		delete(g.barred, key)
		g.tell()
	}
	g.unsure[key] = true
	g.feed(c, now)
}

// feed hands a change to the builder, and bars its object if that panics.
func (g *guard) feed(c change, now time.Time) {
	if g.broken || c.object == nil {
		return
	}
	err := g.panics.Do(contain.Ingest, describe(c.object), func() { apply(g.builder, c) })
	if err != nil {
		g.bar(c.object, err, now)
		g.broken = true
	}
}

func apply(b Builder, c change) {
	if c.deleted {
		b.Delete(c.object)
	} else {
		b.Set(c.object)
	}
}

// setTrust takes a new trust bundle.
func (g *guard) setTrust(bundle []byte) {
	g.trust = bundle
	if !g.broken {
		g.builder.SetTrust(bundle)
	}
}

// retry lets barred objects that have changed be read again, and reports whether there was one. next is when another may be.
func (g *guard) retry(now time.Time) (tried bool, next time.Time, waits bool) {
	for _, key := range slices.Sorted(maps.Keys(g.barred)) {
		b := g.barred[key]
		switch {
		case b.changed && !now.Before(b.until):
			g.take(change{object: b.Object}, now)
			tried = true
		case b.changed && (!waits || b.until.Before(next)):
			next, waits = b.until, true
		}
	}
	return tried, next, waits
}

// snapshot returns the newest snapshot; the last one when nothing newer can be made, nil when there never was one.
func (g *guard) snapshot(now time.Time) *model.Snapshot {
	if !g.broken {
		if s := g.try(g.builder); s != nil {
			return g.keep(g.builder, s)
		}
		g.broken = true
	}
	// Each round bars at least one object or is the last.
	for range len(g.objects) + 1 {
		builder, found := g.rebuild(now)
		if builder != nil {
			if s := g.try(builder); s != nil {
				return g.keep(builder, s)
			}
			found = g.search(slices.Sorted(maps.Keys(g.objects)), now)
		}
		if !found {
			break
		}
	}
	return g.last
}

func (g *guard) try(b Builder) (s *model.Snapshot) {
	_ = g.panics.Do(contain.Ingest, "snapshot of the mesh", func() { s = b.Snapshot() }) // it is told, and s is nil
	return s
}

func (g *guard) keep(b Builder, s *model.Snapshot) *model.Snapshot {
	g.builder, g.last, g.broken = b, s, false
	for key := range g.unsure {
		if m, ok := g.objects[key].object.(*v1alpha1.Mesh); ok && g.barred[key] == nil {
			g.good[key] = m
		}
	}
	clear(g.unsure)
	return s
}

// rebuild returns a new builder of all objects but those that are barred; nil when there can be none now. found is true when it
// barred another.
func (g *guard) rebuild(now time.Time) (b Builder, found bool) {
	if len(g.unsure) > 0 && g.search(slices.Sorted(maps.Keys(g.unsure)), now) {
		found = true
	}
	b = g.heir()
	for _, key := range slices.Sorted(maps.Keys(g.objects)) {
		c := change{object: g.objects[key].get()}
		if barred := g.barred[key]; barred != nil {
			if c = g.standIn(barred); c.object == nil && client.ObjectKeyFromObject(barred.Object) == g.root && isMesh(barred.Object) {
				return nil, found
			}
		}
		if c.object == nil {
			continue
		}
		if err := g.panics.Do(contain.Ingest, describe(c.object), func() { apply(b, c) }); err != nil {
			g.bar(g.objects[key].get(), err, now)
			return nil, true
		}
	}
	return b, found
}

func (g *guard) heir() Builder {
	b := g.fresh()
	b.Succeed(g.last)
	if g.trust != nil {
		b.SetTrust(g.trust)
	}
	return b
}

// search bars the first of the suspects that makes a builder of all the others panic, and reports whether there is one.
func (g *guard) search(suspects []string, now time.Time) bool {
	b := g.heir()
	suspected := map[string]bool{}
	for _, key := range suspects {
		suspected[key] = true
	}
	for key, k := range g.objects {
		if !suspected[key] && g.barred[key] == nil {
			object := k.get()
			if err := contain.Do(describe(object), func() { apply(b, change{object: object}) }); err != nil {
				return false // it was fine before: rebuild finds it
			}
		}
	}
	for _, key := range suspects {
		object := g.objects[key].get()
		if object == nil || g.barred[key] != nil {
			continue
		}
		// Told once already, when it panicked in earnest.
		if err := contain.Do(describe(object), func() {
			apply(b, change{object: object})
			b.Snapshot()
		}); err != nil {
			g.bar(object, err, now)
			return true
		}
	}
	return false
}

func (g *guard) bar(object client.Object, err error, now time.Time) {
	key := objectKey(object)
	if _, ok := g.objects[key]; !ok {
		return // it was deleted, and is gone
	}
	g.barred[key] = &bar{Barred: Barred{object, err}, until: now.Add(barTime)}
	g.tell()
}

func (g *guard) tell() {
	if g.told == nil {
		return
	}
	all := make([]Barred, 0, len(g.barred))
	for _, key := range slices.Sorted(maps.Keys(g.barred)) {
		all = append(all, g.barred[key].Barred)
	}
	g.told(all)
}

// standIn is what counts in place of a barred object; without an object when that is nothing.
func (g *guard) standIn(b *bar) change {
	m, ok := b.Object.(*v1alpha1.Mesh)
	if !ok {
		return change{}
	}
	spec := v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSStrict}}
	switch last := g.good[objectKey(m)]; {
	case last != nil && last.UID == m.UID:
		spec = last.Spec
	case client.ObjectKeyFromObject(m) == g.root:
		return change{}
	}
	return change{object: &v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Namespace, Name: m.Name, UID: m.UID, Generation: m.Generation,
			CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		},
		Spec: spec,
	}}
}

func isMesh(o client.Object) bool {
	_, ok := o.(*v1alpha1.Mesh)
	return ok
}

func objectKey(o client.Object) string {
	return keyOf(reflect.TypeOf(o).String(), o.GetNamespace(), o.GetName())
}

func keyOf(kind, namespace, name string) string { return kind + " " + namespace + "/" + name }

// describe names an object for people.
func describe(o client.Object) string {
	kind := o.GetObjectKind().GroupVersionKind().Kind
	if kind == "" { // typed objects come without
		kind = fmt.Sprintf("%T", o)
		kind = kind[strings.LastIndexByte(kind, '.')+1:]
	}
	if o.GetNamespace() == "" {
		return kind + " " + o.GetName()
	}
	return fmt.Sprintf("%s %s/%s", kind, o.GetNamespace(), o.GetName())
}

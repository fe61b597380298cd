package envoy

import (
	"fmt"
	"strings"
)

// Forget makes the control plane not know of an object that is there, as one whose informer is late, such as
// Forget("Pod", "shop/web"). It returns when every Envoy has acknowledged what follows.
func (w *World) Forget(kind, name string) {
	w.t.Helper()
	namespace, short, _ := strings.Cut(name, "/")
	o := w.objects[ref{kind, namespace, short}]
	if o == nil {
		w.t.Fatalf("no %s %s in this world: it has %v", kind, name, w.refs(kind))
	}
	w.replica.delete(o)
	w.publish()
	w.check(w.waitSynced())
}

// Remember ends Forget.
func (w *World) Remember(kind, name string) {
	w.t.Helper()
	namespace, short, _ := strings.Cut(name, "/")
	w.replica.set(w.objects[ref{kind, namespace, short}])
	w.publish()
	w.check(w.waitSynced())
}

// Claim tells the control plane of objects for which nothing is started, such as a pod that reports the address of another.
// It returns a function that takes them back.
func (w *World) Claim(yaml string) (withdraw func()) {
	w.t.Helper()
	objects, err := w.decoder.manifests([]byte(yaml))
	w.check(err)
	for _, o := range objects {
		w.stamp(o, nil)
		w.check(w.admit(o))
		w.replica.set(o)
	}
	w.publish()
	w.check(w.waitSynced())
	return func() {
		for _, o := range objects {
			w.replica.delete(o)
		}
		w.publish()
		w.check(w.waitSynced())
	}
}

// Problems returns what the control plane has to say to a Mesh, such as "evil/evil".
func (w *World) Problems(mesh string) []string {
	w.t.Helper()
	for _, r := range w.replica.snapshot.Load().Meshes() {
		if r.Namespace+"/"+r.Name != mesh {
			continue
		}
		var found []string
		for _, p := range r.Problems {
			found = append(found, fmt.Sprintf("%s %s %s: %s", p.Condition, p.Reason, p.Origin.Field, p.Message))
		}
		return found
	}
	w.t.Fatalf("no Mesh %s", mesh)
	return nil
}

// Asked returns how many names the proxies that are connected have asked the control plane for.
func (w *World) Asked() int { return int(w.Metric("tulle_xds_asked_names")) }

// Answered returns how many asks the control plane has answered.
func (w *World) Answered() int { return int(w.Metric("tulle_xds_resolve_seconds")) }

// Annotation returns an annotation of the pod, as injection left it.
func (p *Pod) Annotation(name string) string { return p.object.Annotations[name] }

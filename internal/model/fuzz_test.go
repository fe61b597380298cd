package model

import (
	"encoding/json"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// kinds returns an empty object of each kind that the model reads, and one that it doesn't.
func kinds() []metav1.Object {
	return []metav1.Object{
		&v1alpha1.Mesh{}, &corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Pod{}, &corev1.Node{},
		&networkingv1.ServiceCIDR{}, &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "ReplicaSet"}}, &corev1.ConfigMap{},
		&splitv1alpha4.TrafficSplit{}, &specsv1alpha4.HTTPRouteGroup{},
	}
}

// TestArbitraryObjects fills objects with anything, between objects that make sense.
func TestArbitraryObjects(t *testing.T) {
	t.Parallel()
	const rounds = 60
	w := newWorld(1)
	b := NewBuilder(testConfig())
	for seed := range int64(rounds) {
		filler := randfill.NewWithSeed(seed).NilChance(0.3).NumElements(0, 4).MaxDepth(12)
		for _, object := range kinds() {
			filler.Fill(object)
			if w.chance(70) { // where objects meet, more can go wrong
				object.SetNamespace(w.namespace())
				object.SetName(pick(w, "x", "y", "mesh", "p1"))
			}
			if w.chance(50) {
				object.SetDeletionTimestamp(nil)
			}
			b.Set(object)
			b.Set(w.object())
			b.Set(w.smi())
			use(b)
			if w.chance(30) {
				b.Delete(object)
			}
		}
	}
	b.Set(nil)
	b.Delete("no object")
	use(b)
}

// FuzzObjects reads objects from JSON, as the API server's come.
func FuzzObjects(f *testing.F) {
	w := newWorld(2)
	for range 50 {
		for _, object := range []metav1.Object{w.object(), w.smi()} {
			raw, err := json.Marshal(object)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
		}
	}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		b := NewBuilder(testConfig())
		for range 20 {
			b.Set(newWorld(3).object())
		}
		for _, object := range kinds() {
			if json.Unmarshal(raw, object) == nil {
				b.Set(object)
				use(b)
			}
		}
		for _, object := range kinds() {
			if json.Unmarshal(raw, object) == nil {
				b.Delete(object)
				use(b)
			}
		}
	})
}

// use reads a snapshot in all the ways there are.
func use(b *Builder) {
	s := b.Snapshot()
	s.Meshes()
	for _, split := range s.Splits() {
		s.RulingSplit(ServiceKey{Namespace: split.Namespace, Name: split.Name})
	}
	r := s.Reader()
	for _, name := range s.Namespaces() {
		s.Services(name)
		r.Namespace(name)
		for _, w := range s.Workloads(name) {
			for _, a := range w.Addresses {
				r.Address(netip.AddrPortFrom(a, 80))
			}
		}
	}
	r.Keys()
}

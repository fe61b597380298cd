package controllers

import (
	"errors"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
)

// twoShops is a mesh with a weighted rule in each of two namespaces.
type twoShops struct{ builder *model.Builder }

func newTwoShops() twoShops {
	s := twoShops{model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})}
	for _, namespace := range []string{"a", "b"} {
		s.weigh(namespace, 10)
		s.builder.Set(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"},
			Spec: corev1.ServiceSpec{ClusterIP: "10.96.0." + map[string]string{"a": "1", "b": "2"}[namespace], Selector: map[string]string{"app": "web"},
				Ports: []corev1.ServicePort{{Port: 80}}},
		})
	}
	return s
}

func (s twoShops) weigh(namespace string, weight int32) {
	s.builder.Set(&v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mesh", UID: types.UID("uid of " + namespace)},
		Spec: v1alpha1.MeshSpec{Services: []v1alpha1.ServiceSpec{{
			Name:     "web",
			Versions: []v1alpha1.VersionSpec{{Name: "v1", Labels: map[string]string{"v": "1"}}, {Name: "v2", Labels: map[string]string{"v": "2"}}},
			Routes: []v1alpha1.RouteSpec{{Name: "canary", To: []v1alpha1.RouteTarget{
				{Version: "v1", Weight: new(100 - weight)}, {Version: "v2", Weight: new(weight)}}}},
		}}},
	})
}

// looked are the namespaces that a look is at, of those that there may be.
func looked(look *splitLook) []string {
	var at []string
	for _, namespace := range []string{"a", "b", "gone"} {
		if look.at(namespace) {
			at = append(at, namespace)
		}
	}
	return at
}

// The writer of splits looks at everything once, and then at the namespaces of which something is new and at no others.
func TestSplitsAreLookedAtWhereSomethingIsNew(t *testing.T) {
	shops := newTwoShops()
	split := func(namespace, revision string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		u.SetNamespace(namespace)
		u.SetName("web")
		u.SetResourceVersion(revision)
		return u
	}
	live := map[string]*unstructured.Unstructured{"a": split("a", "1"), "b": split("b", "1")}
	var looks splitLooks
	next := func(what string, want ...string) *splitLook {
		t.Helper()
		look := looks.next(shops.builder.Snapshot(), "v1alpha4", slices.Collect(maps.Values(live)))
		if got := looked(look); !slices.Equal(got, want) {
			t.Errorf("%s: looks at %v, want %v", what, got, want)
		}
		return look
	}
	conflict := SplitConflict{Namespace: "b", Mesh: "mesh", Field: "spec", Message: "taken"}

	looks.done(next("at the start", "a", "b", "gone"), nil, errors.New("the API server is gone"))
	looks.done(next("after a first look that failed", "a", "b", "gone"), []SplitConflict{conflict}, nil)
	looks.done(next("nothing is new"), nil, nil)

	shops.weigh("a", 20)
	got := looks.done(next("another weight", "a"), nil, nil)
	if !slices.Equal(got, []SplitConflict{conflict}) {
		t.Errorf("conflicts %v, want that of the namespace that was not looked at", got)
	}
	live["b"] = split("b", "2")
	if got := looks.done(next("somebody wrote a TrafficSplit", "b"), nil, nil); len(got) != 0 {
		t.Errorf("conflicts %v, want none any more", got)
	}
	shops.builder.Set(&splitv1alpha4.TrafficSplit{
		ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "web"},
		Spec:       splitv1alpha4.TrafficSplitSpec{Service: "web", Backends: []splitv1alpha4.TrafficSplitBackend{{Service: "web", Weight: 1}}},
	})
	looks.done(next("the snapshot has it a moment later, and it rules", "b"), nil, nil)
	looks.touch("a")
	looks.done(next("a Service changed", "a"), nil, errors.New("refused"))
	looks.done(next("what went wrong", "a"), nil, nil)

	shops.builder.Delete(&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "mesh"}})
	delete(live, "a")
	looks.done(next("a Mesh and its split went", "a"), nil, nil)
	looks.done(next("nothing is new, again"), nil, nil)
}

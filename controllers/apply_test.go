package controllers

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func widget(spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.org/v1", "kind": "Widget", "metadata": map[string]any{"namespace": "shop", "name": "tulle"}, "spec": spec,
	}}
}

// exact returns an Applier of unstructured objects, with its events.
func exact() (*Applier, *events.FakeRecorder) {
	c := fake.NewClientBuilder().WithScheme(newScheme()).WithReturnManagedFields().Build()
	recorder := events.NewFakeRecorder(10)
	return &Applier{
		Reader: c, Direct: c, Client: c, Events: recorder, Exact: true,
		Origin: func(o client.Object) string { return "Mesh " + o.GetNamespace() + "/shop" },
	}, recorder
}

func drain(recorder *events.FakeRecorder) []string {
	close(recorder.Events)
	var got []string
	for e := range recorder.Events {
		got = append(got, e)
	}
	return got
}

// What somebody edits, adds or deletes is put right, and told of with where to change it.
func TestApplyPutsRightWhatPeopleDo(t *testing.T) {
	t.Parallel()
	a, recorder := exact()
	ctx := context.Background()
	want := map[string]any{"port": "metrics"}
	apply := func() *unstructured.Unstructured {
		t.Helper()
		if err := a.Apply(ctx, widget(want)); err != nil {
			t.Fatal(err)
		}
		live := widget(nil)
		if err := a.Client.Get(ctx, client.ObjectKeyFromObject(live), live); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, live.Object["spec"]); diff != "" {
			t.Errorf("spec (-want +got):\n%s", diff)
		}
		return live
	}
	for _, edit := range []map[string]any{{"port": "other"}, {"port": "metrics", "limit": int64(5)}} {
		live := apply()
		live.Object["spec"] = edit
		if err := a.Client.Update(ctx, live, client.FieldOwner("kubectl-edit")); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Client.Delete(ctx, apply()); err != nil {
		t.Fatal(err)
	}
	apply()
	apply()
	got := drain(recorder)
	reverted := "Normal Reverted what somebody changed is again as the mesh needs it; change Mesh shop/shop instead"
	if diff := cmp.Diff([]string{
		"Normal Created created for the mesh", reverted, reverted,
		"Normal Recreated it was deleted, and is needed for the mesh; change Mesh shop/shop instead",
	}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Two kinds of one name are two objects.
func TestApplyTellsKindsApart(t *testing.T) {
	t.Parallel()
	a, recorder := exact()
	gadget := widget(map[string]any{"port": "metrics"})
	gadget.SetKind("Gadget")
	if err := a.Apply(context.Background(), widget(map[string]any{"port": "metrics"}), gadget); err != nil {
		t.Fatal(err)
	}
	if got := drain(recorder); !slices.Equal(got, []string{"Normal Created created for the mesh", "Normal Created created for the mesh"}) {
		t.Errorf("events %q", got)
	}
}

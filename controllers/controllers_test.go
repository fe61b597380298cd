package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/bootstrap"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// newScheme returns a scheme of a test's own: the fake client adds to its scheme what it meets.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(s))
	return s
}

// applierFor returns an Applier of a cluster that holds objects, with the number of its writes and its events.
func applierFor(objects ...client.Object) (a *Applier, writes *int, recorder *events.FakeRecorder) {
	writes = new(int)
	c := fake.NewClientBuilder().WithScheme(newScheme()).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, options ...client.ApplyOption) error {
			*writes++
			return c.Apply(ctx, o, options...)
		},
	}).Build()
	recorder = events.NewFakeRecorder(10)
	return &Applier{Reader: c, Direct: c, Client: c, Events: recorder}, writes, recorder
}

func configMap(value string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bookinfo", Name: "tulle-bootstrap", Labels: labels},
		Data:       map[string]string{"k": value},
	}
}

func TestApplyWritesOnlyWhatChanges(t *testing.T) {
	t.Parallel()
	a, writes, recorder := applierFor()
	ctx := context.Background()
	for _, step := range []struct {
		value string
		want  int
	}{{"a", 1}, {"a", 1}, {"b", 2}, {"b", 2}} {
		if err := a.Apply(ctx, configMap(step.value, nil)); err != nil {
			t.Fatal(err)
		}
		if *writes != step.want {
			t.Errorf("after %q: %d writes, want %d", step.value, *writes, step.want)
		}
	}
	live := &corev1.ConfigMap{}
	if err := a.Client.Get(ctx, client.ObjectKey{Namespace: "bookinfo", Name: "tulle-bootstrap"}, live); err != nil {
		t.Fatal(err)
	}
	live.Data["k"] = "edited"
	if err := a.Client.Update(ctx, live); err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(ctx, configMap("b", nil)); err != nil || *writes != 3 {
		t.Errorf("an edited object is not put right: %d writes (%v)", *writes, err)
	}
	close(recorder.Events)
	var got []string
	for e := range recorder.Events {
		got = append(got, e)
	}
	want := []string{
		"Normal Created created for the mesh", "Normal Updated changed to what the mesh needs",
		"Normal Reverted what somebody changed is again as the mesh needs it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestApplyLeavesWhatOthersMade(t *testing.T) {
	t.Parallel()
	for name, labels := range map[string]map[string]string{"none": nil, "helm": {managedByLabel: "Helm"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, writes, _ := applierFor(configMap("theirs", labels))
			err := a.Apply(context.Background(), configMap("ours", nil))
			conflict, rest := conflictsIn(err)
			if conflict == nil || rest != nil || *writes != 0 {
				t.Fatalf("error %v, %d writes", err, *writes)
			}
			want := "ConfigMap bookinfo/tulle-bootstrap exists and was not made by Tulle, which needs one of that name: rename or delete it"
			if conflict.Error() != want {
				t.Errorf("got %s", conflict)
			}
			if err := a.Delete(context.Background(), configMap("", nil)); err != nil {
				t.Fatal(err)
			}
			if err := a.Client.Get(context.Background(), client.ObjectKeyFromObject(configMap("", nil)), &corev1.ConfigMap{}); err != nil {
				t.Errorf("it was deleted: %v", err)
			}
		})
	}
}

func TestConflictsIn(t *testing.T) {
	t.Parallel()
	conflict := &ConflictError{Kind: "ConfigMap", Namespace: "a", Name: "b"}
	other := errors.New("connection refused")
	got, rest := conflictsIn(errors.Join(other, fmt.Errorf("apply: %w", conflict)))
	if got != conflict || rest == nil || rest.Error() != other.Error() {
		t.Errorf("got %v and %v", got, rest)
	}
	if got, rest := conflictsIn(nil); got != nil || rest != nil {
		t.Errorf("of nothing: %v and %v", got, rest)
	}
}

// TestNamespaces: webhooks follow Meshes; what pods mount stays until their last proxy is gone.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	b := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})
	b.Set(&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "meshed", Name: "m"}})
	b.Set(&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: "mesh"}})
	always := corev1.ContainerRestartPolicyAlways
	b.Set(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "left", Name: "p", UID: "u", Annotations: map[string]string{sidecar.VersionAnnotation: "v"}},
		Spec:       corev1.PodSpec{InitContainers: []corev1.Container{{Name: sidecar.ProxyContainer, RestartPolicy: &always}}},
	})
	b.Set(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "plain", Name: "p", UID: "v"}})
	s := b.Snapshot()
	if got := enrolled(s); !slices.Equal(got, []string{"meshed"}) {
		t.Errorf("enrolled: %v", got)
	}
	if got := bootstrapNamespaces(s); !slices.Equal(got, []string{"left", "meshed"}) {
		t.Errorf("with the ConfigMap: %v", got)
	}
}

func TestBootstrapConfigMaps(t *testing.T) {
	t.Parallel()
	desired, err := bootstrapConfigMaps([]string{"a", "b"}, identity.ServerName(identity.ControlPlaneService, "tulle-system"), []byte("CA"))
	if err != nil || len(desired) != 2 {
		t.Fatalf("%d objects (%v)", len(desired), err)
	}
	m, ok := desired[1].(*corev1.ConfigMap)
	if !ok || m.Namespace != "b" || m.Name != sidecar.BootstrapConfigMap || len(m.OwnerReferences) > 0 {
		t.Errorf("got %+v", desired[1])
	}
	for _, key := range []string{bootstrap.CAFile, bootstrap.TokenSDSFile, bootstrap.CASDSFile} {
		if m.Data[key] == "" {
			t.Errorf("%s is empty", key)
		}
	}
}

// The API server refuses an event whose note is longer than 1,024 bytes.
func TestNote(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"short", strings.Repeat("a", maxNote), strings.Repeat("a", maxNote+1), strings.Repeat("é", maxNote), strings.Repeat("a", 1021) + "ééé"} {
		got := note(s)
		if len(got) > maxNote || !utf8.ValidString(got) || len(s) <= maxNote && got != s || len(s) > maxNote && len(got) < maxNote-4 {
			t.Errorf("a note of %d bytes becomes one of %d: …%q", len(s), len(got), got[max(0, len(got)-8):])
		}
	}
}

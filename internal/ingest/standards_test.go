package ingest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// TestSplitsAreKnownBeforeTheFirstSnapshot: a replica that served before it knew them would move traffic, so it waits for the list.
func TestSplitsAreKnownBeforeTheFirstSnapshot(t *testing.T) {
	t.Parallel()
	kind := smi.TrafficSplits()
	definition := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: kind.CRD()},
		Spec:       apiextensionsv1.CustomResourceDefinitionSpec{Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1alpha2", Served: true}}},
		Status: apiextensionsv1.CustomResourceDefinitionStatus{Conditions: []apiextensionsv1.CustomResourceDefinitionCondition{
			{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue},
		}},
	}
	scheme := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	split := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "split.smi-spec.io/v1alpha2", "kind": "TrafficSplit", "metadata": map[string]any{"namespace": "shop", "name": "a"},
		"spec": map[string]any{"service": "a", "backends": []any{map[string]any{"service": "b", "weight": int64(3)}}},
	}}
	splits := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{kind.Resource("v1alpha2"): "TrafficSplitList"}, split)
	asked, answer := make(chan struct{}), make(chan struct{})
	splits.PrependReactor("list", "trafficsplits", func(clienttesting.Action) (bool, runtime.Object, error) {
		close(asked)
		<-answer
		return false, nil, nil
	})

	i := New(Options{
		NewBuilder: func() Builder { return &recorder{} }, Log: testr.New(t),
		Standards: &Standards{Reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(definition).Build(), Client: splits},
	})
	ctx, cancel := context.WithCancel(context.Background())
	s, begun := newStandards(i.options, i.queue, &i.splits), make(chan struct{})
	go func() {
		s.begin(ctx)
		close(begun)
	}()
	<-asked
	select {
	case <-begun:
		t.Error("it goes on although the list has not come")
	default:
	}
	if version, known := i.TrafficSplits(); version != "" || known != nil {
		t.Errorf("%d are known in version %q before the list has come", len(known), version)
	}
	close(answer)
	select {
	case <-begun:
	case <-time.After(standardsWait / 2):
		t.Fatal("it does not go on although the list has come")
	}
	rest, _, _, _ := i.queue.takeRest()
	if len(rest) != 1 || rest[0].object.(*splitv1alpha4.TrafficSplit).Spec.Backends[0].Weight != 3 {
		t.Errorf("the model is given %+v", rest)
	}
	if version, known := i.TrafficSplits(); version != "v1alpha2" || len(known) != 1 {
		t.Errorf("%d are known in version %q", len(known), version)
	}
	cancel()
	s.run(ctx) // ends the informers
}

// TestRefusal: only what the API server has decided lets a replica go on without objects. One that is slow, overloaded or away is waited for.
func TestRefusal(t *testing.T) {
	t.Parallel()
	splits := schema.GroupResource{Group: "split.smi-spec.io", Resource: "trafficsplits"}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{&apierrors.StatusError{ErrStatus: metav1.Status{Code: 500, Message: "conversion webhook for split.smi-spec.io/v1alpha2 failed"}}, true},
		{fmt.Errorf("failed to list: %w", apierrors.NewForbidden(splits, "", nil)), true},
		{apierrors.NewNotFound(splits, ""), true},
		{apierrors.NewTooManyRequests("later", 1), false},
		{apierrors.NewServiceUnavailable("etcd is away"), false},
		{apierrors.NewServerTimeout(splits, "list", 1), false},
		{apierrors.NewTimeoutError("it takes too long", 1), false},
		{apierrors.NewUnauthorized("token expired"), false},
		{apierrors.NewGenericServerResponse(502, "get", splits, "", "", 0, true), false},
		{context.DeadlineExceeded, false},
		{errors.New("connection refused"), false},
		{nil, false},
	} {
		if got := refusal(test.err); got != test.want {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
}

// TestSame: what is only listed again is no change; an object that was deleted and made anew under its name is one.
func TestSame(t *testing.T) {
	t.Parallel()
	object := func(uid types.UID, version string) any {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: uid, ResourceVersion: version}}
	}
	for _, test := range []struct {
		before, now any
		want        bool
	}{
		{object("1", "7"), object("1", "7"), true},
		{object("1", "7"), object("1", "8"), false},
		{object("1", "7"), object("2", "7"), false},
		{object("1", ""), object("1", ""), false},
		{"no object", object("1", "7"), false},
	} {
		if got := same(test.before, test.now); got != test.want {
			t.Errorf("%v and %v: %v", test.before, test.now, got)
		}
	}
}

package ingest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/go-logr/logr/testr"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// lacking is a cache of a Kubernetes without ServiceCIDR objects, or that fails otherwise.
type lacking struct {
	*informertest.FakeInformers
	err error
}

func (l *lacking) GetInformer(ctx context.Context, object client.Object, o ...cache.InformerGetOption) (cache.Informer, error) {
	if _, ok := object.(*networkingv1.ServiceCIDR); ok && l.err != nil {
		return nil, l.err
	}
	return l.FakeInformers.GetInformer(ctx, object, o...)
}

// Before Kubernetes 1.33 there are no ServiceCIDR objects. Everything else is watched; what is not a lack of them is an error.
func TestKubernetesWithoutServiceCIDRs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want int
	}{
		"with them":    {nil, len(watched())},
		"without them": {&meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "networking.k8s.io", Kind: "ServiceCIDR"}, SearchedVersions: []string{"v1"}}, len(watched()) - 1},
		"out of reach": {errors.New("the API server is out of reach"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			types := runtime.NewScheme()
			if err := errors.Join(scheme.AddToScheme(types), v1alpha1.AddToScheme(types), metav1.AddMetaToScheme(types)); err != nil {
				t.Fatal(err)
			}
			fake := &informertest.FakeInformers{Scheme: types}
			i := New(Options{Cache: &lacking{fake, test.err}, NewBuilder: func() Builder { return nil }, Log: testr.New(t)})
			synced, err := i.watch(t.Context())
			if len(synced) != test.want {
				t.Errorf("%d informers, want %d", len(synced), test.want)
			}
			if (err != nil) != (test.want == 0) || err != nil && !strings.Contains(err.Error(), "ServiceCIDR") {
				t.Errorf("error %v", err)
			}
		})
	}
}

package compile_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// TestReplicasAgree has one replica live through a random history, and others start with what is left of it, in orders of their own. All
// have equal bytes and versions for every name, so that a proxy that changes replicas is sent nothing.
//
// The range of Services is known, as it is with ServiceCIDR objects or a root Mesh that has it: without, a replica remembers the addresses of
// Services that went while it ran.
func TestReplicasAgree(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := world{rand.New(rand.NewPCG(seed, 2))} //nolint:gosec // a test's randomness
			objects := map[string]metav1.Object{}
			old := newTwin(t)
			for range 60 {
				o := w.object()
				if pod, ok := o.(*corev1.Pod); ok { // several of what a resource has in an order
					pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 8081}, {ContainerPort: 8080}, {ContainerPort: 9000}}}}
				}
				id := fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())
				if w.IntN(4) == 0 {
					old.builder.Delete(o)
					delete(objects, id)
				} else {
					old.builder.Set(o)
					objects[id] = o
				}
				if w.IntN(3) == 0 {
					old.read() // what is cached now has to change with what comes
				}
			}
			services := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "services"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}
			old.builder.Set(services)
			objects["services"] = services
			want := old.read()
			for range 3 {
				young := newTwin(t)
				ids := slices.Sorted(maps.Keys(objects))
				w.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
				for _, id := range ids {
					young.builder.Set(objects[id])
					if w.IntN(5) == 0 {
						young.read()
					}
				}
				got := young.read()
				equal(t, "from another replica", got, want)
				sameBytes(t, got, want)
			}
		})
	}
}

// twin is what compiles in one replica.
type twin struct {
	builder  *model.Builder
	compiler *compile.Compiler
}

func newTwin(t *testing.T) *twin {
	return &twin{compiletest.Builder(t, nil), compile.NewCompiler(func(ref resource.ScopedRef, err error) { t.Error(ref, err) })}
}

func (w *twin) read() held {
	view, _ := w.compiler.Advance(w.builder.Snapshot())
	return readAll(view)
}

func sameBytes(t *testing.T, got, want held) {
	t.Helper()
	compared := 0
	for ref := range want {
		if want[ref] == nil || want[ref].Body() == nil {
			continue
		}
		compared++
		if !bytes.Equal(got[ref].Body().GetValue(), want[ref].Body().GetValue()) {
			t.Errorf("%v: equal versions, other bytes", ref)
		}
	}
	if compared < 20 {
		t.Errorf("only %d resources were compared", compared)
	}
}

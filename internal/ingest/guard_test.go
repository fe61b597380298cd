package ingest

import (
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
)

// faulty is the model's builder with bugs: it panics on objects that carry the label bug.
type faulty struct {
	*model.Builder
	// lurking are the objects that make the next snapshots panic.
	lurking map[string]bool
}

func (f *faulty) Set(object any) {
	o := object.(client.Object)
	switch key := objectKey(o); o.GetLabels()["bug"] {
	case "set":
		panic("a bug in Set")
	case "snapshot":
		f.lurking[key] = true
	default:
		delete(f.lurking, key)
	}
	f.Builder.Set(object)
}

func (f *faulty) Delete(object any) {
	if object.(client.Object).GetLabels()["bug"] == "delete" {
		panic("a bug in Delete")
	}
	f.Builder.Delete(object)
}

func (f *faulty) Snapshot() *model.Snapshot {
	s := f.Builder.Snapshot() // the bug strikes with half of the work done
	if len(f.lurking) > 0 {
		panic("a bug in Snapshot")
	}
	return s
}

// trial is an ingester over a faulty builder, and what comes of it.
type trial struct {
	*Ingester
	registry *prometheus.Registry
	last     *model.Snapshot
	barred   []string
	why      []error
}

func newTrial(t *testing.T) *trial {
	t.Helper()
	tr := &trial{registry: prometheus.NewRegistry()}
	panics, err := contain.New(tr.registry, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	tr.Ingester = New(Options{
		NewBuilder: func() Builder {
			return &faulty{Builder: model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"}), lurking: map[string]bool{}}
		},
		Publish: func(s *model.Snapshot) {
			if tr.last != nil && s.Revision() <= tr.last.Revision() {
				t.Errorf("revision %d comes after %d", s.Revision(), tr.last.Revision())
			}
			tr.last = s
		},
		Panics: panics,
		Barred: func(all []Barred) {
			tr.barred, tr.why = nil, nil
			for _, b := range all {
				tr.barred, tr.why = append(tr.barred, describe(b.Object)), append(tr.why, b.Err)
			}
		},
		Root: client.ObjectKey{Namespace: "tulle-system", Name: v1alpha1.RootName},
		Log:  testr.New(t),
	})
	return tr
}

// set feeds objects at once and publishes.
func (tr *trial) set(ms int, objects ...client.Object) {
	for _, o := range objects {
		tr.queue.add(o, false)
	}
	tr.step(at(ms))
}

func (tr *trial) panics(t *testing.T, want float64) {
	t.Helper()
	n, err := testutil.GatherAndCount(tr.registry, "tulle_panics_total")
	if err != nil || n == 0 {
		t.Fatalf("%d series (%v)", n, err)
	}
	families, err := tr.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		if m.GetLabel()[0].GetValue() == string(contain.Ingest) && m.GetCounter().GetValue() != want {
			t.Errorf("%v panics were counted, want %v", m.GetCounter().GetValue(), want)
		}
	}
}

func (tr *trial) wantBarred(t *testing.T, names ...string) {
	t.Helper()
	if !slices.Equal(tr.barred, names) {
		t.Errorf("barred: %q, want %q", tr.barred, names)
	}
	for _, err := range tr.why {
		if !strings.Contains(err.Error(), "a bug of Tulle") {
			t.Errorf("it says %v", err)
		}
	}
}

func (tr *trial) service(name string) *model.Service {
	return tr.last.Reader().Service(model.ServiceKey{Namespace: "default", Name: name})
}

func bug[T client.Object](o T, where string) T {
	o.SetLabels(map[string]string{"bug": where})
	return o
}

func mesh(namespace string, generation int64, mode v1alpha1.MTLSMode) *v1alpha1.Mesh {
	return &v1alpha1.Mesh{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: v1alpha1.RootName, UID: "1", Generation: generation},
		Spec:       v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: mode}},
	}
}

// Wherever an object makes the model panic, it alone is left out, once, and the rest goes on.
func TestObjectThatPanics(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"set", "snapshot"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t)
			tr.set(0, service("a", "10.96.0.1"), service("b", "10.96.0.2"))
			tr.set(5000, service("c", "10.96.0.3"), bug(service("b", "10.96.0.2"), where), service("d", "10.96.0.4"))
			if tr.service("a") == nil || tr.service("c") == nil || tr.service("d") == nil || tr.service("b") != nil {
				t.Error("not all of a, c and d are there, or b is")
			}
			tr.wantBarred(t, "Service default/b")
			tr.panics(t, 1)
			// Where b was nobody is: its clients are not passed through.
			if d := tr.last.Reader().Address(netip.MustParseAddrPort("10.96.0.2:80")); d.Kind != model.UnknownService {
				t.Errorf("its address is %+v", d)
			}
			tr.set(10000, service("e", "10.96.0.5"))
			if tr.service("e") == nil {
				t.Error("the next change is not there")
			}
			tr.panics(t, 1)
		})
	}
}

// A barred object that changes is read again, not more than once a minute: each try may cost a rebuild.
func TestBarredObjectIsTriedAgain(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	tr.set(0, bug(service("b", "10.96.0.2"), "snapshot"), service("a", "10.96.0.1"))
	tr.wantBarred(t, "Service default/b")
	tr.set(1000, service("b", "10.96.0.2"))
	tr.wantBarred(t, "Service default/b")
	due, waits := tr.due()
	if want := at(0).Add(barTime); !waits || !due.Equal(want) {
		t.Fatalf("due at %v (%v), want %v", due, waits, want)
	}
	tr.step(due)
	tr.wantBarred(t)
	if tr.service("b") == nil {
		t.Error("it is corrected, and not there")
	}
	tr.panics(t, 1)
}

func TestBarredObjectThatGoes(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	b := bug(service("b", "10.96.0.2"), "set")
	tr.set(0, b, service("a", "10.96.0.1"))
	tr.wantBarred(t, "Service default/b")
	tr.queue.add(b, true)
	tr.step(at(5000))
	tr.wantBarred(t)
}

func TestDeletionThatPanics(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	b := bug(service("b", "10.96.0.2"), "delete")
	tr.set(0, b, service("a", "10.96.0.1"))
	tr.queue.add(b, true)
	tr.step(at(5000))
	if tr.service("b") != nil || tr.service("a") == nil {
		t.Error("b is there, or a is not")
	}
	tr.wantBarred(t)
	tr.panics(t, 1)
}

// A Mesh that can't be read keeps its namespace in the mesh: as it was, or else Strict. It is known by its new generation.
func TestMeshThatPanics(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	tr.set(0, mesh("old", 1, v1alpha1.MTLSPermissive))
	tr.set(5000, bug(mesh("old", 2, v1alpha1.MTLSDisabled), "snapshot"), bug(mesh("new", 1, v1alpha1.MTLSDisabled), "set"), service("a", "10.96.0.1"))
	reader := tr.last.Reader()
	for namespace, mode := range map[string]v1alpha1.MTLSMode{"old": v1alpha1.MTLSPermissive, "new": v1alpha1.MTLSStrict} {
		if n := reader.Namespace(namespace); !n.Meshed || n.Mode != mode {
			t.Errorf("namespace %s: meshed %v, mode %s; want mode %s", namespace, n.Meshed, n.Mode, mode)
		}
	}
	if r := tr.last.Meshes()[1]; r.Namespace != "old" || r.Generation != 2 {
		t.Errorf("reported: %+v", r)
	}
	if tr.service("a") == nil {
		t.Error("a is not there")
	}
	tr.wantBarred(t, "Mesh new/mesh", "Mesh old/mesh")
	tr.set(6000, mesh("old", 3, v1alpha1.MTLSStrict))
	if n := tr.last.Reader().Namespace("old"); n.Mode != v1alpha1.MTLSPermissive {
		t.Errorf("within the minute: mode %s", n.Mode)
	}
	tr.step(at(5000).Add(barTime))
	if n := tr.last.Reader().Namespace("old"); n.Mode != v1alpha1.MTLSStrict {
		t.Errorf("corrected: mode %s", n.Mode)
	}
	tr.wantBarred(t, "Mesh new/mesh")
}

// Without a root that was ever read nothing is published: the mesh's trust can't be guessed. One that was read before holds.
func TestRootThatPanics(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	tr.set(0, bug(mesh("tulle-system", 1, v1alpha1.MTLSStrict), "set"), service("a", "10.96.0.1"))
	if tr.last != nil {
		t.Fatal("a snapshot was published without the root")
	}
	tr.wantBarred(t, "Mesh tulle-system/mesh")
	tr.set(1000, mesh("tulle-system", 2, v1alpha1.MTLSStrict))
	tr.step(at(0).Add(barTime))
	if tr.last == nil || tr.service("a") == nil {
		t.Fatal("the root is corrected, and nothing is published")
	}
	tr.set(int(2*barTime/time.Millisecond), bug(mesh("tulle-system", 3, v1alpha1.MTLSDisabled), "snapshot"), mesh("shop", 1, ""))
	if n := tr.last.Reader().Namespace("shop"); n.Mode != v1alpha1.MTLSStrict {
		t.Errorf("the mode comes from the root: %s", n.Mode)
	}
	tr.wantBarred(t, "Mesh tulle-system/mesh")
}

// Objects of many kinds that panic at once, among many that don't.
func TestManyThatPanic(t *testing.T) {
	t.Parallel()
	tr := newTrial(t)
	var all []client.Object
	for n := range 200 {
		s := service("s"+string(rune('a'+n%26))+string(rune('a'+n/26)), netip.AddrFrom4([4]byte{10, 96, 1, byte(n)}).String())
		if n%50 == 0 {
			s = bug(s, []string{"set", "snapshot"}[n/50%2])
		}
		all = append(all, s)
	}
	all = append(all, bug(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, "snapshot"))
	tr.set(0, all...)
	tr.wantBarred(t, "Node n", "Service default/saa", "Service default/suf", "Service default/swd", "Service default/syb")
	if got := tr.last.Services("default"); got != 196 {
		t.Errorf("%d Services, want 196", got)
	}
}

// Package envoy runs the product's own control plane and real Envoys, and tests traffic through them.
//
// A world is a file of Kubernetes manifests. Its pods are network namespaces with the pods' addresses, behind the
// product's own redirection, each with an Envoy of its own when a Mesh wants one; the manifests go through the product's
// model, compiler and xDS server in this process. Only the API server and the kubelet are played by the harness (see
// objects.go and cluster.go), and authentication is faked (see package fakeauth). README.md says how to write a test.
package envoy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/test/netns"
)

// World is a cluster with a mesh. Its methods fail the test on errors; they are not for concurrent use.
type World struct {
	t       testing.TB
	options options
	dir     string
	decoder decoder

	fabric *netns.Fabric
	// meshCA signs workloads' certificates, serverCA the control plane's.
	meshCA, serverCA *authority
	replica          *replica // nil while the control plane is stopped

	objects  map[ref]client.Object // what the API server holds
	pods     map[ref]*Pod
	writes   int64
	services int
	podIPs   int
	// owners are the workloads, by namespace/pod, of pods that forgot which one they are of.
	owners sync.Map
}

type options struct {
	version             Version
	moreStats           []string
	statsEviction       time.Duration
	view                ViewWrapper
	certificateLifetime time.Duration
	limits              func(*xds.Config)
	age                 time.Duration
	signers             *Signers
}

// Option changes how a world starts.
type Option func(*options)

// On makes all Envoys of the world be of a version; the pinned one is the default.
func On(v Version) Option { return func(o *options) { o.version = v } }

// MoreStats makes Envoys keep statistics with these prefixes besides those of the product.
func MoreStats(prefixes ...string) Option {
	return func(o *options) { o.moreStats = append(o.moreStats, prefixes...) }
}

// StatsEviction is how often Envoys look for idle series: a multiple of 5 s.
func StatsEviction(interval time.Duration) Option {
	return func(o *options) { o.statsEviction = interval }
}

// WithLimits changes how much, and for how long, the control plane lets proxies do what they do.
func WithLimits(change func(*xds.Config)) Option { return func(o *options) { o.limits = change } }

// ConnectionAge makes the control plane send proxies off to connect again after that time; see xds.Config.
func ConnectionAge(age time.Duration) Option { return func(o *options) { o.age = age } }

// Start makes the world of a file of manifests and returns when every Envoy in it is ready.
// It ends with the test, and so does everything in it.
func Start(t testing.TB, file string, opts ...Option) *World {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, opts...)
	objects, err := w.decoder.manifests(text)
	w.check(err)
	w.ApplyObjects(append(clusterObjects(), objects...)...)
	return w
}

func newWorld(t testing.TB, opts ...Option) *World {
	t.Helper()
	w := &World{t: t, options: options{version: Pinned, certificateLifetime: certificateLifetime}, objects: map[ref]client.Object{}, pods: map[ref]*Pod{}}
	for _, set := range opts {
		set(&w.options)
	}
	var err error
	w.decoder, err = newDecoder()
	w.check(err)
	// Short, since a unix socket's path has at most 107 bytes.
	w.dir, err = os.MkdirTemp("", "tulle-world-")
	w.check(err)
	t.Cleanup(func() { w.check(os.RemoveAll(w.dir)) })
	w.check(os.Chmod(w.dir, 0o755))
	w.fabric, err = netns.NewFabric()
	w.check(err)
	t.Cleanup(w.close)
	w.check(w.fabric.AddAddress(controlPlane4))
	w.check(w.fabric.AddAddress(controlPlane6))
	w.meshCA, err = newAuthority("mesh", w.options.certificateLifetime)
	w.check(err)
	w.serverCA, err = newAuthority("control plane", certificateLifetime)
	w.check(err)
	w.StartControlPlane()
	return w
}

// Run runs a subtest in the world: what fails in it fails the subtest.
func (w *World) Run(name string, test func(t *testing.T)) {
	outer, ok := w.t.(*testing.T)
	if !ok {
		w.t.Fatal("only tests have subtests")
	}
	outer.Run(name, func(t *testing.T) {
		w.t = t
		defer func() { w.t = outer }()
		test(t)
	})
}

func (w *World) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// close ends all processes and namespaces, and shows the Envoys' logs when the test failed.
func (w *World) close() {
	if w.t.Failed() {
		w.explain()
	}
	var errs error
	// Streams end well as long as both of their ends are there.
	if w.replica != nil {
		errs = w.replica.close()
	}
	for _, p := range w.pods {
		errs = errors.Join(errs, p.close())
	}
	if err := errors.Join(errs, w.fabric.Close()); err != nil {
		w.t.Errorf("close the world: %v", err)
	}
}

// explain shows what there is to know about a failed test.
func (w *World) explain() {
	if w.replica != nil {
		w.t.Logf("proxies that do not hold the last revision: %v", w.unsynced())
	}
	w.t.Logf("log of the control plane:\n%s", tail(w.logFile()))
	for _, p := range w.pods {
		if p.proxy != nil {
			w.t.Logf("log of %s:\n%s", p.name(), p.proxy.log())
		}
	}
}

func (w *World) logFile() string { return filepath.Join(w.dir, "control-plane.log") }

// tail returns the end of a file.
func tail(file string) string {
	const kept = 8 << 10
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-kept):])
}

// Apply creates or replaces the objects of a YAML text. It returns when new Envoys are ready and every connected one has
// acknowledged what changed.
func (w *World) Apply(yaml string) {
	w.t.Helper()
	objects, err := w.decoder.manifests([]byte(yaml))
	w.check(err)
	w.ApplyObjects(objects...)
}

// ApplyObjects is Apply for objects made by a test. Their kind must be set.
func (w *World) ApplyObjects(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		w.check(w.write(o))
	}
	w.check(w.settle())
}

// ApplyUnsynced is Apply that does not wait for Envoys to acknowledge.
func (w *World) ApplyUnsynced(yaml string) {
	w.t.Helper()
	objects, err := w.decoder.manifests([]byte(yaml))
	w.check(err)
	for _, o := range objects {
		w.check(w.write(o))
	}
	w.writeSlices()
	w.publish()
}

// Delete removes an object, such as Delete("Mesh", "shop/mesh"), as Apply does.
func (w *World) Delete(kind, name string) {
	w.t.Helper()
	namespace, short, ok := strings.Cut(name, "/")
	if !ok {
		namespace, short = "", name
	}
	r := ref{kind, namespace, short}
	if w.objects[r] == nil {
		w.t.Fatalf("no %s in this world: it has %v", r, w.refs(kind))
	}
	w.remove(r)
	w.check(w.settle())
}

// write stores one object and feeds it to the control plane.
func (w *World) write(o client.Object) error {
	if o.GetNamespace() == "" && namespaced(o) {
		o.SetNamespace("default")
	}
	r := refOf(o)
	w.stamp(o, w.objects[r])
	if err := w.admit(o); err != nil {
		return err
	}
	if r.namespace != "" && w.objects[ref{"Namespace", "", r.namespace}] == nil {
		if err := w.write(namespaceObject(r.namespace)); err != nil {
			return err
		}
	}
	w.objects[r] = o
	if w.replica != nil {
		w.replica.set(o)
	}
	return nil
}

func (w *World) remove(r ref) {
	o := w.objects[r]
	delete(w.objects, r)
	if w.replica != nil {
		w.replica.delete(o)
	}
}

// settle does what a cluster does after a write: sidecars are injected, slices follow, pods start, proxies are told.
func (w *World) settle() error {
	if err := w.inject(); err != nil {
		return err
	}
	w.writeSlices()
	w.publish()
	if err := w.syncPods(); err != nil {
		return err
	}
	return w.waitSynced()
}

// writeSlices brings the EndpointSlices of Services that select pods up to date.
func (w *World) writeSlices() {
	want := w.endpointSlices()
	for _, r := range w.refs("EndpointSlice") {
		if w.objects[r].GetLabels()[generatedLabel] != "" && want[r] == nil {
			w.remove(r)
		}
	}
	for _, r := range sortedRefs(want) {
		if !sameEndpoints(w.objects[r], want[r]) {
			w.check(w.write(want[r]))
		}
	}
}

// refs returns the objects of a kind in a stable order.
func (w *World) refs(kind string) []ref {
	return slices.DeleteFunc(sortedRefs(w.objects), func(r ref) bool { return r.kind != kind })
}

func sortedRefs(m map[ref]client.Object) []ref {
	var list []ref
	for r := range m {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b ref) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	})
	return list
}

// syncPods starts the pods that are new, at the same time, and ends those that are gone.
func (w *World) syncPods() error {
	for r, p := range w.pods {
		if w.objects[r] == nil {
			delete(w.pods, r)
			if err := errors.Join(p.close(), w.fabric.RemoveRoutes(p.addresses...)); err != nil {
				return err
			}
		}
	}
	var started []*Pod
	for _, r := range w.refs("Pod") {
		if w.pods[r] != nil {
			continue
		}
		p, err := w.startPod(w.objects[r].(*corev1.Pod))
		if err != nil {
			return err
		}
		w.pods[r] = p
		started = append(started, p)
	}
	return inParallel(started, func(p *Pod) error { return p.waitReady() })
}

func inParallel[T any](items []T, do func(T) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for i, item := range items {
		wg.Go(func() { errs[i] = do(item) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Pod returns a pod by name, or by namespace/name where several have it.
func (w *World) Pod(name string) *Pod {
	w.t.Helper()
	var found []*Pod
	for r, p := range w.pods {
		if r.name == name || r.namespace+"/"+r.name == name {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("%d pods are called %q: this world has %v", len(found), name, w.refs("Pod"))
	}
	return found[0]
}

// podDir makes the directory of one run of a pod's proxy.
func (w *World) podDir(r ref) (string, error) {
	w.writes++
	dir := filepath.Join(w.dir, fmt.Sprintf("%s-%d", r.name, w.writes))
	return dir, os.Mkdir(dir, 0o700)
}

func addressesOf(p *corev1.Pod) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, ip := range p.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, fmt.Errorf("Pod %s/%s: status.podIPs: %w", p.Namespace, p.Name, err)
		}
		list = append(list, a)
	}
	return list, nil
}

package plan

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// trusted stands for the roots that the mesh trusts: nothing that is planned depends on which they are, and it is never shown.
const trusted = "the mesh's roots\n"

// world is the mesh at one moment, as the operator would see it.
type world struct {
	state    state
	snapshot *model.Snapshot
	view     resource.View
	// standIns are the pods that were made up, by what they stand for.
	standIns map[key]standIn
	// pods are all that could be read, made up or not.
	pods map[model.WorkloadKey]*corev1.Pod
	// desired are the objects that Tulle keeps, and foreign those of their names that somebody else made.
	desired map[key]client.Object
	foreign map[key]error
	// splitConflicts are the rules that are not made into TrafficSplits, since somebody else has their names.
	splitConflicts []controllers.SplitConflict
	notes          []PodNote
}

// standIn are the pods that stand for a workload, or for the manifest of a pod.
type standIn struct {
	source any // what they were made from
	pods   []*corev1.Pod
}

// worlds makes one world after the other, with one model and one compiler, which go from one to the next as the operator's do.
type worlds struct {
	in        Input
	builder   *model.Builder
	compiler  *compile.Compiler
	fed       state // what the builder holds
	addresses *addresses
	ipv6      bool
	failed    []error // what could not be compiled
}

func newWorlds(in Input, states ...state) *worlds {
	w := &worlds{in: in, builder: model.NewBuilder(in.Model), fed: state{}, addresses: newAddresses()}
	w.builder.SetTrust([]byte(trusted))
	w.compiler = compile.NewCompiler(func(_ resource.ScopedRef, err error) { w.failed = append(w.failed, err) })
	for _, s := range states {
		objects := s.sorted()
		for _, o := range objects {
			w.addresses.reserve(o)
		}
		w.ipv6 = w.ipv6 || anyIPv6(objects)
	}
	return w
}

// next is the world of a state. Pods of the world before it go on as they are; others are made anew, and injected as they would be.
func (w *worlds) next(s state, before *world) (*world, error) {
	out := &world{state: s, standIns: map[key]standIn{}, pods: map[model.WorkloadKey]*corev1.Pod{}}
	feed := state{}
	for _, o := range s.sorted() {
		k := keyOf(o)
		switch o := o.(type) {
		case *corev1.Service:
			service := o.DeepCopy()
			w.addresses.service(service)
			feed[k] = service
		case *corev1.Pod:
			if live(o) {
				feed[k] = o
				out.pods[podKey(o)] = o
			}
		case *appsv1.ReplicaSet:
			// It leads from its pods to its Deployment.
			feed[k] = &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "ReplicaSet"}, ObjectMeta: o.ObjectMeta}
		default:
			feed[k] = o
		}
	}
	// The settings of new pods depend on everything else.
	for k, o := range w.fed {
		if madeUp(o) {
			feed[k] = o
		}
	}
	out.snapshot = w.feed(feed)
	if err := w.standIns(out, before); err != nil {
		return nil, err
	}
	maps.DeleteFunc(feed, func(_ key, o client.Object) bool { return madeUp(o) })
	for _, made := range out.standIns {
		for _, p := range made.pods {
			feed[keyOf(p)], out.pods[podKey(p)] = p, p
		}
	}
	w.addSlices(feed)
	out.snapshot = w.feed(feed)
	out.view, _ = w.compiler.Advance(out.snapshot)
	return out, w.desire(out)
}

// feed makes the model hold exactly the given objects.
func (w *worlds) feed(objects state) *model.Snapshot {
	for k, o := range w.fed {
		if objects[k] == nil {
			w.builder.Delete(o)
		}
	}
	for k, o := range objects {
		if w.fed[k] != o {
			w.builder.Set(o)
		}
	}
	w.fed = maps.Clone(objects)
	snapshot := w.builder.Snapshot()
	w.compiler.Advance(snapshot)
	return snapshot
}

// standIns makes the pods of workloads of which no pod is known, and of manifests of pods.
func (w *worlds) standIns(out, before *world) error {
	known := map[key]bool{}
	for _, namespace := range out.snapshot.Namespaces() {
		for _, p := range out.snapshot.Workloads(namespace) {
			if kind, name, ok := strings.Cut(p.Owner, "/"); ok && !strings.HasPrefix(p.UID, madeUpPrefix) {
				known[key{kind, types.NamespacedName{Namespace: namespace, Name: name}}] = true
			}
		}
	}
	for _, o := range out.state.sorted() {
		k := keyOf(o)
		made := standIn{}
		if p, ok := o.(*corev1.Pod); ok && !live(p) {
			made.source, made.pods = p.Spec, []*corev1.Pod{p.DeepCopy()}
		} else if work, ok := workloadOf(o); ok && !known[k] && metav1.GetControllerOf(o) == nil {
			made.source = work.template
			for i := range work.replicas {
				made.pods = append(made.pods, work.pod(i+1))
			}
		} else {
			continue
		}
		var old standIn
		if before != nil {
			old = before.standIns[k]
		}
		if err := w.admit(out, &made, old, k, before == nil); err != nil {
			return err
		}
		out.standIns[k] = made
	}
	return nil
}

// admit lets the made-up pods come to be. Those of the world before stay as they are, unless they are made from something else.
func (w *worlds) admit(out *world, made *standIn, old standIn, k key, running bool) error {
	reader := out.snapshot.Reader()
	namespace := reader.Namespace(k.Namespace)
	settings := inject.For(w.in.Installation, namespace, reader.MeshWide())
	same := old.source != nil && reflect.DeepEqual(old.source, made.source)
	var admitted []*corev1.Pod
	for i, p := range made.pods {
		if same && i < len(old.pods) {
			admitted = append(admitted, old.pods[i])
			continue
		}
		complete(p)
		if namespace.Meshed && w.in.Unsupported == nil {
			injected, refused, warnings, err := injectPod(p, settings)
			if err != nil {
				return err
			}
			if i == 0 {
				out.note(k.Namespace, owner(p), refused, warnings)
			}
			if refused != "" && !running {
				continue
			}
			p = injected
		}
		w.addresses.pod(p, w.ipv6)
		admitted = append(admitted, p)
	}
	made.pods = admitted
	return nil
}

func (w *world) note(namespace, owner, refused string, warnings []string) {
	if refused != "" {
		w.notes = append(w.notes, PodNote{Namespace: namespace, Owner: owner, Refused: true, Message: refused})
	}
	for _, warning := range warnings {
		w.notes = append(w.notes, PodNote{Namespace: namespace, Owner: owner, Message: warning})
	}
}

// owner is who controls a made-up pod, as model.Workload.Owner has it.
func owner(p *corev1.Pod) string {
	if c := metav1.GetControllerOf(p); c != nil {
		return c.Kind + "/" + c.Name
	}
	return "Pod/" + p.Name
}

// addSlices lists pods behind the Services that select them, as far as no slice of a cluster does. Where slices were read, those of a
// Service that a cluster has lack only the pods that are made up.
func (w *worlds) addSlices(feed state) {
	read := false
	var pods, made []*corev1.Pod
	for _, o := range feed {
		switch o := o.(type) {
		case *discoveryv1.EndpointSlice:
			read = true
		case *corev1.Pod:
			if pods = append(pods, o); madeUp(o) {
				made = append(made, o)
			}
		}
	}
	byName := func(a, b *corev1.Pod) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	}
	slices.SortFunc(pods, byName)
	slices.SortFunc(made, byName)
	for _, o := range maps.Clone(feed) {
		s, ok := o.(*corev1.Service)
		if !ok {
			continue
		}
		from := pods
		if read && live(s) {
			from = made
		}
		for _, slice := range slicesFor(s, from) {
			slice.UID = madeUpPrefix
			feed[keyOf(slice)] = slice
		}
	}
}

// desire finds the objects that Tulle keeps, and those that are in its way.
func (w *worlds) desire(out *world) error {
	objects, conflicts, err := controllers.Desired(w.in.Model.OperatorNamespace, out.snapshot, controllers.Surroundings{
		Service: out.service, Live: func(o client.Object) client.Object { return out.state[desiredKey(o)] }, Monitoring: w.in.Monitoring,
	})
	if err != nil {
		return err
	}
	out.splitConflicts = conflicts
	out.desired, out.foreign = map[key]client.Object{}, map[key]error{}
	for _, o := range objects {
		k := desiredKey(o)
		out.desired[k] = o
		if live := out.state[k]; live != nil {
			if err := controllers.Foreign(k.kind, live); err != nil {
				out.foreign[k] = err
			}
		}
	}
	return nil
}

// service returns a Service; nil when there is none.
func (w *world) service(name client.ObjectKey) *corev1.Service {
	s, _ := w.state[key{"Service", name}].(*corev1.Service)
	return s
}

// desiredKey is the key of an object that Tulle keeps, which may be of a kind that plans are not made of.
func desiredKey(o client.Object) key {
	k := key{o.GetObjectKind().GroupVersionKind().Kind, client.ObjectKeyFromObject(o)}
	if k.kind == "" {
		k.kind = KindOf(o)
	}
	return k
}

// conflict says which object of somebody else keeps the pods of a namespace from being injected; nil when none does.
func (w *world) conflict(namespace string) error {
	for k, err := range w.foreign {
		if k.Namespace == "" {
			return err
		}
	}
	return w.foreign[key{"ConfigMap", types.NamespacedName{Namespace: namespace, Name: sidecar.BootstrapConfigMap}}]
}

// statuses are what the operator would say of each Mesh, with every proxy connected and up to date.
func (w *worlds) statuses(out *world, issued identity.Verdict) map[key]*v1alpha1.MeshStatus {
	statuses := map[key]*v1alpha1.MeshStatus{}
	for _, report := range out.snapshot.Meshes() {
		in := w.statusInput(out, report.Namespace)
		in.Report, in.Issued = controllers.WithSplitConflicts(report, out.splitConflicts), issued
		if report.Root {
			in.Proxies = out.proxyStates(out.snapshot.Namespaces()...)
		}
		s := status.Of(in)
		notObserved(&s)
		statuses[key{"Mesh", types.NamespacedName{Namespace: report.Namespace, Name: report.Name}}] = &s
	}
	return statuses
}

// notObserved says that a plan observes nobody: who connects without mTLS is known to the operator alone.
func notObserved(s *v1alpha1.MeshStatus) {
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Type == v1alpha1.ConditionEncrypted && c.Reason == status.ReasonObserving {
			c.Reason, c.Message = ReasonNotKnown, "the operator observes who connects without mTLS; a plan does not"
		}
	}
}

// statusInput is what status asks of a namespace.
func (w *worlds) statusInput(out *world, namespace string) status.Input {
	reader := out.snapshot.Reader()
	in := status.Input{
		Namespace:   reader.Namespace(namespace),
		Workloads:   out.snapshot.Workloads(namespace),
		Services:    out.snapshot.Services(namespace),
		Proxies:     out.proxyStates(namespace),
		Unsupported: w.in.Unsupported,
		Conflict:    out.conflict(namespace),
		Now:         w.in.Now,
	}
	for i := range in.Proxies {
		in.Proxies[i].Encryption = xds.Encryption{CertificateExpires: w.in.Now.Add(24 * time.Hour), Listening: true}
	}
	// Settings that no proxy can start with are a Problem already; the current version is then not known.
	in.Sidecar, _ = inject.Version(inject.For(w.in.Installation, in.Namespace, reader.MeshWide()))
	return in
}

func (w *world) proxyStates(namespaces ...string) []xds.ProxyState {
	var states []xds.ProxyState
	for _, namespace := range namespaces {
		for _, p := range w.snapshot.Workloads(namespace) {
			if p.Meshed {
				states = append(states, xds.ProxyState{
					Proxy:          resource.Proxy{Namespace: namespace, Pod: p.Key.Name, UID: p.UID, ServiceAccount: p.ServiceAccount},
					SyncedRevision: w.snapshot.Revision(),
				})
			}
		}
	}
	return states
}

// What no cluster has given a UID gets one that begins with one of these.
const (
	madeUpPrefix  = "made-up/" // made up here
	plannedPrefix = "planned/" // of a manifest
)

// live reports whether an object was read from a cluster.
func live(o client.Object) bool {
	return o.GetUID() != "" && !madeUp(o) && !strings.HasPrefix(string(o.GetUID()), plannedPrefix)
}

func madeUp(o client.Object) bool { return strings.HasPrefix(string(o.GetUID()), madeUpPrefix) }

func podKey(p *corev1.Pod) model.WorkloadKey {
	return model.WorkloadKey{Namespace: p.Namespace, Name: p.Name}
}

// failures say what could not be compiled: the operator would report the same, and serve everything else.
func (w *worlds) failures() []string {
	var texts []string
	for _, err := range w.failed {
		texts = append(texts, "what could not be configured is left out: "+err.Error())
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

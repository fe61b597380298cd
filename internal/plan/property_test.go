package plan_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/plan"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// TestPredictions: what a plan predicts for random changes of random clusters is what a control plane says that starts once
// the change is made: the conditions of every Mesh, and the objects that it keeps.
func TestPredictions(t *testing.T) {
	for seed := range uint64(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := &cluster{Rand: rand.New(rand.NewPCG(seed, 7)), objects: map[string]client.Object{}} //nolint:gosec // repeatable
			c.populate()
			before := c.list()
			apply, deleted := c.change()
			p, err := plan.Make(plan.Input{
				Settings: settings(), World: before, Apply: apply, Delete: deleted, Now: c.now(), Issued: issued(),
			})
			if err != nil {
				t.Fatal(err)
			}
			kept := keptObjects(t, snapshotOf(before), before)
			c.apply(apply, p.Refused)
			for _, o := range deleted {
				delete(c.objects, id(o))
			}
			snapshot := snapshotOf(c.list())
			truth := statuses(snapshot)
			for _, m := range p.Meshes {
				key := m.Namespace + "/" + m.Name
				if diff := cmp.Diff(truth[key], m.After); diff != "" {
					t.Errorf("Mesh %s (%s): -truth +plan:\n%s", key, m.Action, diff)
				}
				delete(truth, key)
			}
			// A Mesh that the plan does not name is as it was.
			old := statuses(snapshotOf(before))
			for key, s := range truth {
				if diff := cmp.Diff(s, old[key]); diff != "" {
					t.Errorf("the plan does not name Mesh %s, which changes:\n%s", key, diff)
				}
			}
			for _, o := range p.Objects {
				name := o.Kind + " " + o.Namespace + "/" + o.Name
				switch o.Action {
				case plan.Create:
					kept = append(kept, name)
				case plan.Delete:
					kept = slices.DeleteFunc(kept, func(k string) bool { return k == name })
				}
			}
			slices.Sort(kept)
			if diff := cmp.Diff(keptObjects(t, snapshot, c.list()), kept); diff != "" {
				t.Errorf("objects: -truth +plan:\n%s", diff)
			}
		})
	}
}

func issued() identity.Verdict {
	return identity.Verdict{Status: metav1.ConditionTrue, Reason: "Issued", Message: "someone signs"}
}

// snapshotOf is the model of a control plane that starts now.
func snapshotOf(objects []client.Object) *model.Snapshot {
	b := model.NewBuilder(settings().Model)
	for _, o := range objects {
		b.Set(o)
	}
	return b.Snapshot()
}

// statuses are what it says of each Mesh, once every proxy is connected and up to date.
func statuses(s *model.Snapshot) map[string]*v1alpha1.MeshStatus {
	out := map[string]*v1alpha1.MeshStatus{}
	reader := s.Reader()
	for _, report := range s.Meshes() {
		in := status.Input{
			Report: report, Namespace: reader.Namespace(report.Namespace), Workloads: s.Workloads(report.Namespace),
			Services: s.Services(report.Namespace), Issued: issued(),
		}
		for _, namespace := range s.Namespaces() {
			for _, w := range s.Workloads(namespace) {
				if w.Meshed && (report.Root || namespace == report.Namespace) {
					in.Proxies = append(in.Proxies, xds.ProxyState{Proxy: resource.Proxy{Namespace: namespace, Pod: w.Key.Name, UID: w.UID}, SyncedRevision: s.Revision()})
				}
			}
		}
		in.Now = time.Unix(1_700_000_000, 0)
		for i := range in.Proxies {
			in.Proxies[i].Encryption = xds.Encryption{CertificateExpires: in.Now.Add(time.Hour), Listening: true}
		}
		in.Sidecar, _ = inject.Version(inject.For(settings().Installation, in.Namespace, reader.MeshWide()))
		st := status.Of(in)
		for i := range st.Conditions { // nobody observes here
			if c := &st.Conditions[i]; c.Reason == status.ReasonObserving {
				c.Reason, c.Message = plan.ReasonNotKnown, "the operator observes who connects without mTLS; a plan does not"
			}
		}
		out[report.Namespace+"/"+report.Name] = &st
	}
	return out
}

func keptObjects(t *testing.T, s *model.Snapshot, world []client.Object) []string {
	t.Helper()
	service := func(name client.ObjectKey) *corev1.Service {
		for _, o := range world {
			if s, ok := o.(*corev1.Service); ok && client.ObjectKeyFromObject(s) == name {
				return s
			}
		}
		return nil
	}
	objects, _, err := controllers.Desired("tulle-system", s, controllers.Surroundings{
		Service: service, Live: func(client.Object) client.Object { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range objects {
		kind := o.GetObjectKind().GroupVersionKind().Kind
		if kind == "" {
			kind = plan.KindOf(o)
		}
		names = append(names, kind+" "+o.GetNamespace()+"/"+o.GetName())
	}
	slices.Sort(names)
	return names
}

// cluster is what an API server holds.
type cluster struct {
	*rand.Rand
	objects map[string]client.Object
	clock   int
}

func id(o client.Object) string {
	return fmt.Sprintf("%s %s/%s", plan.KindOf(o), o.GetNamespace(), o.GetName())
}

func (c *cluster) now() time.Time { return time.Unix(1_700_000_000+int64(c.clock), 0) }

func (c *cluster) list() []client.Object {
	var objects []client.Object
	for _, o := range c.objects {
		objects = append(objects, o.DeepCopyObject().(client.Object))
	}
	return objects
}

// store is what an API server does with an object that is applied.
func (c *cluster) store(o client.Object) {
	o = o.DeepCopyObject().(client.Object)
	old := c.objects[id(o)]
	if old == nil {
		o.SetUID(types.UID(id(o)))
		o.SetCreationTimestamp(metav1.NewTime(c.now()))
		o.SetGeneration(1)
	} else {
		o.SetUID(old.GetUID())
		o.SetCreationTimestamp(old.GetCreationTimestamp())
		o.SetGeneration(old.GetGeneration())
		if a, ok := o.(*v1alpha1.Mesh); ok && !cmp.Equal(a.Spec, old.(*v1alpha1.Mesh).Spec) {
			o.SetGeneration(old.GetGeneration() + 1)
		}
	}
	c.objects[id(o)] = o
}

func (c *cluster) apply(objects []client.Object, refused []plan.Refusal) {
	for _, o := range objects {
		if !slices.ContainsFunc(refused, func(r plan.Refusal) bool {
			return r.Namespace == o.GetNamespace() && r.Name == o.GetName() && r.Kind == plan.KindOf(o)
		}) {
			c.store(o)
		}
	}
}

var namespaces = []string{"blue", "green"}

// populate makes Services with pods, some of which have proxies of some age, and Meshes.
func (c *cluster) populate() {
	for i, namespace := range namespaces {
		for j, name := range []string{"a", "b"} {
			if c.IntN(4) == 0 {
				continue
			}
			service := c.service(namespace, name)
			service.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", i, j+1)
			c.store(service)
			slice := &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
				AddressType: discoveryv1.AddressTypeIPv4,
				Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
			}
			for k := range c.IntN(3) {
				p := c.pod(namespace, fmt.Sprintf("%s-%d", name, k), name, fmt.Sprintf("10.0.%d.%d", i*16+j, k+1))
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.Status.PodIP}})
				c.store(p)
			}
			c.store(slice)
		}
	}
	for range c.IntN(5) {
		c.clock++
		c.store(c.mesh())
	}
	c.clock++
}

func (c *cluster) service(namespace, name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
		},
	}
}

func (c *cluster) pod(namespace, name, app, address string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app, "version": []string{"v1", "v2"}[c.IntN(2)]}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}},
		Status:     corev1.PodStatus{PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}},
	}
	if c.IntN(2) == 0 {
		s := settings()
		builtin := snapshotOf(nil).Reader()
		current, _ := inject.Version(inject.For(s.Installation, builtin.Namespace(namespace), builtin.MeshWide()))
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []corev1.Container{{Name: sidecar.ProxyContainer, RestartPolicy: &always}}
		p.Annotations = map[string]string{sidecar.VersionAnnotation: []string{current, "older"}[c.IntN(2)]}
	}
	return p
}

// mesh is a random Mesh: some claim what others do, name what is not there, or make no sense.
func (c *cluster) mesh() *v1alpha1.Mesh {
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[c.IntN(2)], Name: []string{"one", "two"}[c.IntN(2)]}}
	root := c.IntN(5) == 0
	if root {
		m.Namespace, m.Name = "tulle-system", v1alpha1.RootName
	}
	if c.IntN(2) == 0 {
		m.Spec.MTLS = &v1alpha1.MTLSSpec{Mode: []v1alpha1.MTLSMode{"Strict", "Permissive", "Disabled"}[c.IntN(3)]}
	}
	if c.IntN(3) == 0 {
		m.Spec.Proxy = &v1alpha1.ProxySpec{Concurrency: new(int32(c.IntN(3) + 1))}
	}
	if c.IntN(4) == 0 {
		m.Spec.Proxy = &v1alpha1.ProxySpec{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": []string{"a", "none"}[c.IntN(2)]}}}
	}
	if root || c.IntN(8) == 0 {
		m.Spec.MeshWide = &v1alpha1.MeshWideSpec{Envoy: &v1alpha1.EnvoySpec{Image: fmt.Sprintf("envoy:v1.%d.0", 39+c.IntN(2))}}
	}
	if !root && c.IntN(2) == 0 {
		m.Spec.Services = []v1alpha1.ServiceSpec{{
			Name:     []string{"a", "b"}[c.IntN(2)],
			Versions: []v1alpha1.VersionSpec{{Name: "v1", Labels: map[string]string{"version": "v1"}}},
			Routes:   []v1alpha1.RouteSpec{{Name: "r", To: []v1alpha1.RouteTarget{{Version: []string{"v1", "", "v9"}[c.IntN(3)], Weight: new(int32(1))}}}},
		}}
	}
	return m
}

// change is what would be applied and deleted.
func (c *cluster) change() (apply, deleted []client.Object) {
	seen := map[string]bool{}
	for range 1 + c.IntN(3) {
		if m := c.mesh(); !seen[id(m)] {
			apply, seen[id(m)] = append(apply, m), true
		}
	}
	if c.IntN(3) == 0 {
		s := c.service(namespaces[c.IntN(2)], "b")
		s.Spec.ClusterIP = "10.96.9.9"
		if c.objects[id(s)] != nil {
			s.Spec.ClusterIP = "" // it keeps the one that it has
			c.objects[id(s)].(*corev1.Service).DeepCopyInto(s)
			s.Spec.Ports[0].Name = "tcp"
		}
		apply = append(apply, s)
	}
	for _, o := range c.list() {
		if m, ok := o.(*v1alpha1.Mesh); ok && !seen[id(m)] && c.IntN(3) == 0 {
			deleted = append(deleted, m)
		}
	}
	return apply, deleted
}

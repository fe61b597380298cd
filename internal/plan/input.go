package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Settings are what the operator was started with.
type Settings struct {
	Model        model.Config
	Installation inject.Installation
	// Unsupported says why this Kubernetes can have no sidecars; nil when it can.
	Unsupported error
}

// Input is what a plan is made of. Objects are of the kinds that Kinds names; others are ignored. They are not changed.
type Input struct {
	Settings
	// World is what there is. An object with a UID was read from a cluster and is taken as it is; workloads stand for their pods
	// where none of them is known.
	World []client.Object
	// Apply is what would be applied, each as the whole object; Delete what would be deleted, of which only kind, namespace and
	// name count.
	Apply, Delete []client.Object
	// Refused are those of Apply that somebody has refused already.
	Refused []Refusal
	// Monitoring are the kinds of the Prometheus Operator that there are, such as PodMonitor: monitors of no others are planned.
	Monitoring []string
	// Issued is what is known of certificates; zero when nothing is.
	Issued identity.Verdict
	// Now is when it would be applied: the age of what is created.
	Now time.Time
	// Envoy asks for the differences in Envoy's configuration.
	Envoy bool
}

// key identifies an object.
type key struct {
	kind string
	types.NamespacedName
}

func (k key) String() string {
	if k.Namespace == "" {
		return k.kind + " " + k.Name
	}
	return k.kind + " " + k.Namespace + "/" + k.Name
}

// KindOf returns the kind of an object that plans are made of; empty for all others.
func KindOf(o client.Object) string {
	switch o := o.(type) {
	case *v1alpha1.Mesh:
		return "Mesh"
	case *corev1.Namespace:
		return "Namespace"
	case *corev1.Service:
		return "Service"
	case *corev1.Pod:
		return "Pod"
	case *corev1.Node:
		return "Node"
	case *corev1.ConfigMap:
		return "ConfigMap"
	case *discoveryv1.EndpointSlice:
		return "EndpointSlice"
	case *networkingv1.ServiceCIDR:
		return "ServiceCIDR"
	case *splitv1alpha4.TrafficSplit:
		return "TrafficSplit"
	case *specsv1alpha4.HTTPRouteGroup:
		return "HTTPRouteGroup"
	case *metav1.PartialObjectMetadata:
		return o.Kind
	case *appsv1.Deployment:
		return "Deployment"
	case *appsv1.StatefulSet:
		return "StatefulSet"
	case *appsv1.DaemonSet:
		return "DaemonSet"
	case *appsv1.ReplicaSet:
		return "ReplicaSet"
	case *batchv1.Job:
		return "Job"
	case *admissionregistrationv1.MutatingWebhookConfiguration:
		return "MutatingWebhookConfiguration"
	case *admissionregistrationv1.ValidatingWebhookConfiguration:
		return "ValidatingWebhookConfiguration"
	}
	return ""
}

func keyOf(o client.Object) key { return key{KindOf(o), client.ObjectKeyFromObject(o)} }

// state are the objects at one moment.
type state map[key]client.Object

// sorted returns the objects in an order that is always the same.
func (s state) sorted() []client.Object {
	objects := make([]client.Object, 0, len(s))
	for _, o := range s {
		objects = append(objects, o)
	}
	slices.SortFunc(objects, func(a, b client.Object) int { return strings.Compare(keyOf(a).String(), keyOf(b).String()) })
	return objects
}

// before is the state of the world, with what the API server would have added.
func (in Input) before() (state, error) {
	s := state{}
	for _, o := range in.World {
		k := keyOf(o)
		if k.kind == "" {
			continue
		}
		if s[k] != nil {
			return nil, fmt.Errorf("%s is there twice: keep one", k)
		}
		o = copyOf(o)
		if m, ok := o.(*v1alpha1.Mesh); ok && m.UID == "" {
			m.UID, m.Generation = types.UID(plannedPrefix+k.String()), 1
		}
		s[k] = o
	}
	return s, nil
}

// after is the state once everything was applied that is not refused, with what became of each object.
func (in Input) after(before state) (state, map[key]Action, []Refusal, error) {
	after := state{}
	for k, o := range before {
		after[k] = o
	}
	in.Now = youngest(in.Now, before)
	actions := map[key]Action{}
	refused := map[key]Refusal{}
	for _, r := range in.Refused {
		refused[key{r.Kind, types.NamespacedName{Namespace: r.Namespace, Name: r.Name}}] = r
	}
	for _, o := range in.Apply {
		k := keyOf(o)
		if k.kind == "" {
			continue
		}
		if _, is := refused[k]; is {
			continue
		}
		if r, ok := in.homeless(k, before); ok {
			refused[k] = r
			continue
		}
		merged, action := in.merge(after[k], copyOf(o))
		if r, ok := in.refuse(merged, action); ok {
			refused[k] = r
			continue
		}
		after[k], actions[k] = merged, action
	}
	for _, o := range in.Delete {
		k := keyOf(o)
		switch {
		case after[k] != nil:
			delete(after, k)
			actions[k] = Delete
		case k.kind == "Mesh" && before[k] == nil:
			return nil, nil, nil, fmt.Errorf("%s does not exist, so it can't be deleted: name another with --delete, or another namespace with -n", k)
		}
		if k.kind == "Namespace" { // with all that is in it
			for inside := range after {
				if inside.Namespace == k.Name {
					delete(after, inside)
					actions[inside] = Delete
				}
			}
		}
	}
	list := make([]Refusal, 0, len(refused))
	for _, r := range refused {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b Refusal) int {
		return strings.Compare(a.Kind+a.Namespace+"/"+a.Name, b.Kind+b.Namespace+"/"+b.Name)
	})
	return after, actions, list, nil
}

// homeless says that an object can't be stored because its namespace neither exists nor is applied with it. Manifests may leave
// out the namespaces that there are; a cluster has all.
func (in Input) homeless(k key, before state) (Refusal, bool) {
	home := key{"Namespace", types.NamespacedName{Name: k.Namespace}}
	if k.Namespace == "" || before[home] != nil || slices.ContainsFunc(in.Apply, func(o client.Object) bool { return keyOf(o) == home }) {
		return Refusal{}, false
	}
	for other, o := range before {
		if other.kind == "Namespace" && live(o) {
			reason := fmt.Sprintf("namespace %s does not exist: create it, or apply it too", k.Namespace)
			return Refusal{Kind: k.kind, Namespace: k.Namespace, Name: k.Name, By: "the API server", Reasons: []string{reason}}, true
		}
	}
	return Refusal{}, false
}

// youngest is when something is created that is younger than all Meshes: the older wins, and clocks differ.
func youngest(now time.Time, before state) time.Time {
	for k, o := range before {
		if k.kind != "Mesh" {
			continue
		}
		if after := o.GetCreationTimestamp().Add(time.Second); now.Before(after) {
			now = after
		}
	}
	return now
}

// merge is an applied object as the API server would store it: with what it keeps, or adds, of its own.
func (in Input) merge(stored, applied client.Object) (client.Object, Action) {
	if stored == nil {
		if applied.GetUID() == "" {
			applied.SetUID(types.UID(plannedPrefix + keyOf(applied).String()))
		}
		applied.SetCreationTimestamp(metav1.NewTime(in.Now.Truncate(time.Second)))
		applied.SetGeneration(1)
		return applied, Create
	}
	applied.SetUID(stored.GetUID())
	applied.SetCreationTimestamp(stored.GetCreationTimestamp())
	applied.SetGeneration(stored.GetGeneration())
	action := Update
	switch a := applied.(type) {
	case *v1alpha1.Mesh:
		l := stored.(*v1alpha1.Mesh)
		a.Status = l.Status
		if equality.Semantic.DeepEqual(l.Spec, a.Spec) {
			action = Unchanged
		} else {
			a.Generation++
		}
	case *corev1.Service:
		l := stored.(*corev1.Service)
		if a.Spec.ClusterIP == "" && len(a.Spec.ClusterIPs) == 0 {
			a.Spec.ClusterIP, a.Spec.ClusterIPs = l.Spec.ClusterIP, l.Spec.ClusterIPs
		}
		if len(a.Spec.IPFamilies) == 0 {
			a.Spec.IPFamilies = l.Spec.IPFamilies
		}
	case *corev1.Pod:
		return stored, Unchanged // a pod is made anew, not changed
	}
	return applied, action
}

// refuse says why the operator's webhook would refuse a Mesh: what is wrong with it by itself.
func (in Input) refuse(o client.Object, action Action) (Refusal, bool) {
	mesh, ok := o.(*v1alpha1.Mesh)
	if !ok || action == Unchanged {
		return Refusal{}, false
	}
	root := mesh.Namespace == in.Model.OperatorNamespace && mesh.Name == v1alpha1.RootName
	var reasons []string
	for _, p := range model.Validate(mesh, root) {
		if p.Fatal {
			reasons = append(reasons, p.Origin.Field+": "+p.Message)
		}
	}
	return Refusal{Kind: "Mesh", Namespace: mesh.Namespace, Name: mesh.Name, By: "Tulle's webhook", Reasons: reasons}, len(reasons) > 0
}

func copyOf(o client.Object) client.Object { return o.DeepCopyObject().(client.Object) }

package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	kjson "sigs.k8s.io/json"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/manifest"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// Loaded are the objects of manifests that a plan is made of.
type Loaded struct {
	Objects []client.Object
	// Refused are Meshes that the API server would not store.
	Refused []Refusal
	// Ignored counts the objects of other kinds, by kind.
	Ignored map[string]int
}

// Admission does with a Mesh what happens to it before it is stored: it sets the defaults, in place, and says who refuses it, and
// why; nobody does when there are no reasons.
type Admission interface {
	Admit(mesh map[string]any) (by string, reasons []error)
}

// newObject returns an empty object of a kind that plans are made of, and whether it belongs to a namespace; nil for other kinds.
func newObject(gvk schema.GroupVersionKind) (o client.Object, namespaced bool) {
	switch gvk {
	case v1alpha1.GroupVersion.WithKind("Mesh"):
		return &v1alpha1.Mesh{}, true
	case corev1.SchemeGroupVersion.WithKind("Namespace"):
		return &corev1.Namespace{}, false
	case corev1.SchemeGroupVersion.WithKind("Node"):
		return &corev1.Node{}, false
	case corev1.SchemeGroupVersion.WithKind("Service"):
		return &corev1.Service{}, true
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		return &corev1.Pod{}, true
	case corev1.SchemeGroupVersion.WithKind("ConfigMap"):
		return &corev1.ConfigMap{}, true
	case discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"):
		return &discoveryv1.EndpointSlice{}, true
	case networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"):
		return &networkingv1.ServiceCIDR{}, false
	case appsv1.SchemeGroupVersion.WithKind("Deployment"):
		return &appsv1.Deployment{}, true
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet"):
		return &appsv1.StatefulSet{}, true
	case appsv1.SchemeGroupVersion.WithKind("DaemonSet"):
		return &appsv1.DaemonSet{}, true
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet"):
		return &appsv1.ReplicaSet{}, true
	case batchv1.SchemeGroupVersion.WithKind("Job"):
		return &batchv1.Job{}, true
	case admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"):
		return &admissionregistrationv1.MutatingWebhookConfiguration{}, false
	case admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"):
		return &admissionregistrationv1.ValidatingWebhookConfiguration{}, false
	}
	for _, kind := range standards() {
		if slices.Contains(kind.Versions, gvk.Version) && gvk == kind.Resource(gvk.Version).GroupVersion().WithKind(kind.Kind) {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(gvk)
			return smi.Nothing(u), true
		}
	}
	return nil, false
}

// standards are the kinds of SMI that the mesh reads.
func standards() []smi.Kind { return []smi.Kind{smi.TrafficSplits(), smi.HTTPRouteGroups()} }

// Load reads manifests. Objects without a namespace are of the given one. Its error joins what can't be read, each with its file and document.
func Load(manifests []manifest.Object, namespace string, admission Admission) (Loaded, error) {
	out := Loaded{Ignored: map[string]int{}}
	first := map[key]manifest.Object{}
	var errs []error
	for _, m := range manifests {
		o, refused, err := load(m, namespace, admission)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", m.Where(), err))
			continue
		case o == nil:
			out.Ignored[m.Kind]++
			continue
		}
		k := keyOf(o)
		if other, twice := first[k]; twice {
			errs = append(errs, fmt.Errorf("%s: %s is also in %s: keep one; render overlays and charts first", m.Where(), k, other.Where()))
			continue
		}
		first[k] = m
		if refused != nil {
			out.Refused = append(out.Refused, *refused)
		}
		out.Objects = append(out.Objects, o)
	}
	return out, errors.Join(errs...)
}

func load(m manifest.Object, namespace string, admission Admission) (client.Object, *Refusal, error) {
	gvk := schema.FromAPIVersionAndKind(m.APIVersion, m.Kind)
	if gvk.Group == v1alpha1.GroupVersion.Group && (gvk.Version != v1alpha1.GroupVersion.Version || gvk.Kind != "Mesh") {
		return nil, nil, fmt.Errorf("there is no kind %s in %s: this tulle knows Mesh in %s", m.Kind, m.APIVersion, v1alpha1.GroupVersion)
	}
	o, namespaced := newObject(gvk)
	if o == nil {
		return nil, nil, nil
	}
	metadata, _ := m.Fields["metadata"].(map[string]any)
	for _, field := range []string{"name", "namespace"} {
		if value := metadata[field]; value != nil {
			if _, text := value.(string); !text {
				return nil, nil, fmt.Errorf("%s: metadata.%s is %v, and no text: YAML reads n, y, on, off and numbers as something else, so quote it", m.Kind, field, value)
			}
		}
	}
	if m.Name() == "" {
		return nil, nil, fmt.Errorf("%s: metadata.name is missing", m.Kind)
	}
	if namespaced && m.Namespace() == "" {
		metadata["namespace"] = namespace
	}
	var by string
	var reasons []string
	if _, ok := o.(*v1alpha1.Mesh); ok {
		for _, text := range validation.NameIsDNSSubdomain(m.Name(), false) {
			by, reasons = "the API server", append(reasons, "metadata.name: "+text)
		}
		if len(reasons) == 0 {
			var errs []error
			by, errs = admission.Admit(m.Fields)
			for _, err := range errs {
				reasons = append(reasons, err.Error())
			}
		}
	}
	if len(reasons) > 0 {
		o.SetName(m.Name())
		o.SetNamespace(m.Namespace())
		return o, &Refusal{Kind: m.Kind, Namespace: m.Namespace(), Name: m.Name(), By: by, Reasons: reasons}, nil
	}
	raw, err := json.Marshal(m.Fields)
	if err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(standards(), func(k smi.Kind) bool { return k.Group == gvk.Group }) {
		read, err := loadStandard(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("%s %s: %w", m.Kind, m.Name(), err)
		}
		return read, nil, nil
	}
	// Fields that this version does not know are the API server's to judge.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, o); err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", m.Kind, m.Name(), err)
	}
	return o, nil, nil
}

// loadStandard reads an object of SMI in the version that it is written in.
func loadStandard(raw []byte) (client.Object, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		return nil, err
	}
	return smi.Read(u)
}

// IgnoredText names what was ignored, such as "3 Ingress, 1 Role"; empty when nothing was.
func (l Loaded) IgnoredText() string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(l.Ignored)) {
		parts = append(parts, fmt.Sprintf("%d %s", l.Ignored[kind], kind))
	}
	return strings.Join(parts, ", ")
}

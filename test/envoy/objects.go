package envoy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// The cluster that a world is: address ranges, as its ServiceCIDR and Node objects say.
const (
	serviceRange4, serviceRange6 = "10.96.0.0/16", "fd00:96::/108"
	podRange4, podRange6         = "10.244.0.0/16", "fd00:244::/64"
	nodeName                     = "node"
)

// decoder reads manifests as strictly as an API server that validates fields.
type decoder struct{ runtime.Decoder }

func newDecoder() (decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, v1alpha1.AddToScheme,
		splitv1alpha4.AddToScheme, specsv1alpha4.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return decoder{}, err
		}
	}
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	return decoder{codecs.UniversalDeserializer()}, nil
}

// manifests decodes YAML documents.
func (d decoder) manifests(text []byte) ([]client.Object, error) {
	var objects []client.Object
	for docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(stripComments(doc))) == 0 {
			continue
		}
		decoded, _, err := d.Decode(doc, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		object, ok := decoded.(client.Object)
		if !ok {
			return nil, fmt.Errorf("%T is not an object with a name", decoded)
		}
		objects = append(objects, object)
	}
}

// stripComments drops the lines that are only a comment, so that a document of comments counts as empty.
func stripComments(doc []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(doc) {
		if !bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// ref names an object of a world.
type ref struct{ kind, namespace, name string }

func (r ref) String() string { return r.kind + " " + r.namespace + "/" + r.name }

// refOf needs an object that was decoded, or made with its kind.
func refOf(o client.Object) ref {
	return ref{o.GetObjectKind().GroupVersionKind().Kind, o.GetNamespace(), o.GetName()}
}

// clusterObjects are what every cluster has.
func clusterObjects() []client.Object {
	return []client.Object{
		&networkingv1.ServiceCIDR{
			TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{serviceRange4, serviceRange6}},
		},
		&corev1.Node{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
			ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{corev1.LabelTopologyZone: "zone-a"}},
			Spec:       corev1.NodeSpec{PodCIDR: podRange4, PodCIDRs: []string{podRange4, podRange6}},
		},
	}
}

// stamp sets what an API server sets on a write. The clock of a world ticks once for each, so that objects have an order.
func (w *World) stamp(o, old client.Object) {
	w.writes++
	if old == nil {
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", w.writes)))
		o.SetCreationTimestamp(metav1.NewTime(time.Unix(1_700_000_000+w.writes, 0)))
		o.SetGeneration(1)
	} else {
		o.SetUID(old.GetUID())
		o.SetCreationTimestamp(old.GetCreationTimestamp())
		o.SetGeneration(old.GetGeneration() + 1)
	}
	o.SetResourceVersion(fmt.Sprint(w.writes))
	if o.GetNamespace() == "" && namespaced(o) {
		o.SetNamespace(metav1.NamespaceDefault)
	}
}

func namespaced(o client.Object) bool {
	switch o.(type) {
	case *corev1.Namespace, *corev1.Node, *networkingv1.ServiceCIDR:
		return false
	}
	return true
}

// admit fills in what an API server, the scheduler and a kubelet would, so that manifests can be as short as a user's.
func (w *World) admit(o client.Object) error {
	switch o := o.(type) {
	case *corev1.Service:
		return w.admitService(o)
	case *corev1.Pod:
		return w.admitPod(o)
	case *v1alpha1.Mesh:
		admitMesh(o)
	}
	return nil
}

// admitMesh sets the defaults of the CRD's schema.
func admitMesh(m *v1alpha1.Mesh) {
	one := int32(1)
	for i := range m.Spec.Services {
		for j := range m.Spec.Services[i].Routes {
			r := &m.Spec.Services[i].Routes[j]
			for k := range r.To {
				if r.To[k].Weight == nil {
					r.To[k].Weight = &one
				}
			}
			for k := range r.Match {
				for l := range r.Match[k].Headers {
					if h := &r.Match[k].Headers[l]; h.Type == "" {
						h.Type = v1alpha1.HeaderMatchExact
					}
				}
			}
		}
	}
}

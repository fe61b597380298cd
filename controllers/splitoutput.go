package controllers

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// Labels of the Service of a version: whose it is of.
const (
	serviceLabel = "mesh.tulle.dev/service"
	versionLabel = "mesh.tulle.dev/version"
)

// maxServiceName is the length of a DNS label.
const maxServiceName = 63

// splitOutput is what a weighted rule of a Mesh is made into.
type splitOutput struct {
	namespace, mesh string
	field           string // of the rule
	root            string // the Service
	services        []client.Object
	backends        []any
	owner           metav1.OwnerReference
	// outranked is true when a TrafficSplit of somebody else rules the Service.
	outranked bool
	// clash is not nil when another Service's version has the name that one of these needs.
	clash error
}

// splitOutputs returns them for all Meshes of some namespaces, nil being all, ordered. root returns a Service; nil when there is none.
func splitOutputs(s *model.Snapshot, in func(namespace string) bool, root func(client.ObjectKey) *corev1.Service) []splitOutput {
	var outputs []splitOutput
	reader := s.Reader()
	for _, report := range s.Meshes() {
		if in != nil && !in(report.Namespace) {
			continue
		}
		for _, name := range report.Services {
			node := reader.Service(model.ServiceKey{Namespace: report.Namespace, Name: name})
			if node == nil || node.Mesh.Name != report.Name || len(node.Addresses) == 0 {
				continue // there is none, or it is headless: its rules can't be followed
			}
			rule, ok := weightedRule(node)
			if !ok {
				continue
			}
			service := root(client.ObjectKey{Namespace: report.Namespace, Name: name})
			if service == nil || len(service.Spec.Selector) == 0 {
				continue
			}
			out := splitOutput{namespace: report.Namespace, mesh: report.Name, field: rule.Origin.Field, root: name, owner: ownerOf(report)}
			_, out.outranked = s.RulingSplit(node.Key)
			out.addVersions(service, node, rule)
			outputs = append(outputs, out)
		}
	}
	slices.SortStableFunc(outputs, func(a, b splitOutput) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.root, b.root))
	})
	claimed := map[string]string{}
	for i := range outputs {
		outputs[i].claim(claimed)
	}
	return outputs
}

// weightedRule returns the rule that divides all requests that no rule before it took among versions.
func weightedRule(s *model.Service) (model.Route, bool) {
	for _, rule := range s.Routes {
		if len(rule.Match) > 0 {
			continue
		}
		versions := map[string]bool{}
		for _, to := range rule.To {
			versions[to.Version] = true
		}
		return rule, rule.Invalid == "" && len(versions) > 1 && !versions[""]
	}
	return model.Route{}, false
}

func ownerOf(report model.MeshReport) metav1.OwnerReference {
	controller := true
	return metav1.OwnerReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "Mesh", Name: report.Name, UID: types.UID(report.UID), Controller: &controller,
	}
}

func (o *splitOutput) addVersions(root *corev1.Service, node *model.Service, rule model.Route) {
	weights := map[string]int64{}
	for _, to := range rule.To {
		weights[to.Version] += int64(to.Weight)
	}
	for _, version := range node.Versions {
		weight, used := weights[version.Name]
		if !used {
			continue
		}
		service := versionService(root, node, version)
		service.OwnerReferences = []metav1.OwnerReference{o.owner}
		o.services = append(o.services, service)
		o.backends = append(o.backends, map[string]any{"service": service.Name, "weight": weight})
	}
}

// versionService selects the pods of one version. Its ports are those of the Service, and speak what those speak.
func versionService(root *corev1.Service, node *model.Service, version model.Version) *corev1.Service {
	selector := maps.Clone(root.Spec.Selector)
	maps.Copy(selector, version.Labels)
	var ports []corev1.ServicePort
	for _, p := range root.Spec.Ports {
		port := corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, AppProtocol: p.AppProtocol, Port: p.Port, TargetPort: p.TargetPort}
		if i := slices.IndexFunc(node.Ports, func(n model.Port) bool { return int32(n.Number) == p.Port }); i >= 0 && p.Protocol != corev1.ProtocolUDP {
			port.AppProtocol = spoken(p.AppProtocol, node.Ports[i].Protocol)
		}
		ports = append(ports, port)
	}
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: root.Namespace, Name: VersionServiceName(root.Name, version.Name),
			Labels: map[string]string{serviceLabel: root.Name, versionLabel: version.Name},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: selector, Ports: ports, PublishNotReadyAddresses: root.Spec.PublishNotReadyAddresses,
			IPFamilyPolicy: root.Spec.IPFamilyPolicy, IPFamilies: root.Spec.IPFamilies,
		},
	}
}

// spoken is the appProtocol of a port: what a Mesh says of it is said here, as the Mesh does not name this Service.
func spoken(given *string, speaks model.Protocol) *string {
	said := ""
	switch {
	case given != nil && *given != "":
		return given
	case speaks == model.HTTP:
		said = "http"
	case speaks == model.TCP:
		said = "tcp"
	default:
		return nil
	}
	return &said
}

// VersionServiceName is the name of the Service of a version: that of the Service, a hyphen and that of the version. One that would be too long ends in a hash.
func VersionServiceName(service, version string) string {
	name := service + "-" + version
	if len(name) <= maxServiceName {
		return name
	}
	sum := sha256.Sum256([]byte(service + "/" + version))
	const digits = 8
	return strings.TrimRight(name[:maxServiceName-digits-1], "-") + "-" + hex.EncodeToString(sum[:])[:digits]
}

// claim notes the names that are needed, and which of them another output has claimed.
func (o *splitOutput) claim(claimed map[string]string) {
	for _, s := range o.services {
		key := s.GetNamespace() + "/" + s.GetName()
		if of, ok := claimed[key]; ok {
			o.clash = &ConflictError{Kind: "Service", Namespace: s.GetNamespace(), Name: s.GetName(), Of: "a version of Service " + of}
			return
		}
	}
	for _, s := range o.services {
		claimed[s.GetNamespace()+"/"+s.GetName()] = o.root
	}
}

// wanted are the Services, and the TrafficSplit in a version unless somebody else splits the Service.
func (o *splitOutput) wanted(version string) ([]client.Object, error) {
	if o.outranked {
		return o.services, nil
	}
	kind := smi.TrafficSplits()
	hub := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"namespace": o.namespace, "name": o.root},
		"spec":     map[string]any{"service": o.root, "backends": o.backends},
	}}
	hub.SetGroupVersionKind(kind.Resource(kind.Hub()).GroupVersion().WithKind(kind.Kind))
	hub.SetOwnerReferences([]metav1.OwnerReference{o.owner})
	split, err := smi.Convert(hub, version)
	if err != nil {
		return nil, fmt.Errorf("TrafficSplit %s/%s: %w", o.namespace, o.root, err)
	}
	return append(slices.Clone(o.services), split), nil
}

// decidedSplit says what becomes of an output.
type decidedSplit struct {
	splitOutput
	// objects are to be there.
	objects []client.Object
	// conflict is not nil when somebody else made one of them: then there are none. A TrafficSplit of which some Services are somebody
	// else's would not say what the rule says.
	conflict error
	// err is not nil when that could not be found out: what is there of them stays as it is.
	err error
}

// decideSplits says it of the outputs of all Meshes of some namespaces, nil being all, for TrafficSplits in a version; empty: while they are not served, when nobody can have objects
// of the kind. root returns a Service, nil when there is none; live returns an object of that kind and name as it is, nil when there is none.
func decideSplits(s *model.Snapshot, in func(namespace string) bool, version string, root func(client.ObjectKey) *corev1.Service, live func(client.Object) (client.Object, error)) []decidedSplit {
	var decided []decidedSplit
	for _, out := range splitOutputs(s, in, root) {
		d := decidedSplit{splitOutput: out, conflict: out.clash}
		if version == "" && out.clash == nil {
			continue
		}
		if out.clash == nil {
			d.objects, d.err = out.wanted(version)
		}
		for _, o := range d.objects {
			existing, err := live(o)
			if err != nil {
				d.err = err
				break
			}
			if existing == nil {
				continue
			}
			if err := Foreign(o.GetObjectKind().GroupVersionKind().Kind, existing); err != nil {
				d.objects, d.conflict = nil, err
				break
			}
		}
		decided = append(decided, d)
	}
	return decided
}

// conflictsOf are those of what was decided.
func conflictsOf(decided []decidedSplit) []SplitConflict {
	var conflicts []SplitConflict
	for _, d := range decided {
		if d.conflict != nil {
			conflicts = append(conflicts, SplitConflict{d.namespace, d.mesh, d.field, d.conflict.Error()})
		}
	}
	return conflicts
}

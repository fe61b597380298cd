package model

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// mesh is a Mesh.
type mesh struct {
	namespace, name, uid string
	generation           int64
	created              time.Time
	spec                 *v1alpha1.MeshSpec
	since                uint64 // the first revision that has this generation; 0 until there is one
}

func (b *Builder) setMesh(o *v1alpha1.Mesh) {
	if o.DeletionTimestamp != nil {
		// What Tulle made goes before the Mesh does: it must not be made again meanwhile.
		b.deleteMesh(o)
		return
	}
	ns := b.namespace(o.Namespace)
	m := readMesh(o)
	if old := ns.meshes[m.name]; old != nil {
		same := *old
		same.since = 0
		if reflect.DeepEqual(&same, m) {
			return
		}
	}
	ns.meshes[m.name] = m
	b.touchMesh(m.namespace, m.name)
}

func (b *Builder) deleteMesh(o *v1alpha1.Mesh) {
	ns := b.namespaces[o.Namespace]
	if ns == nil || ns.meshes[o.Name] == nil {
		return
	}
	delete(ns.meshes, o.Name)
	b.touchMesh(o.Namespace, o.Name)
}

func (b *Builder) touchMesh(namespace, name string) {
	b.dirty.namespaces[namespace] = true
	if namespace != b.config.OperatorNamespace || name != v1alpha1.RootName {
		return
	}
	b.dirty.meshWide = true
	for ns := range b.namespaces {
		b.dirty.namespaces[ns] = true
	}
}

func readMesh(o *v1alpha1.Mesh) *mesh {
	return &mesh{
		namespace:  o.Namespace,
		name:       o.Name,
		uid:        string(o.UID),
		generation: o.Generation,
		created:    o.CreationTimestamp.Time,
		spec:       o.Spec.DeepCopy(),
	}
}

func (m *mesh) origin(field string) resource.Origin {
	return resource.Origin{Kind: "Mesh", Namespace: m.namespace, Name: m.name, Field: field}
}

func (m *mesh) older(other *mesh) int {
	return cmp.Or(m.created.Compare(other.created), strings.Compare(m.name, other.name))
}

// enrols reports whether Meshes in a namespace put it in the mesh.
func (c Config) enrols(namespace string) bool { return !slices.Contains(c.NeverMeshed(), namespace) }

// NeverMeshed returns the namespaces that are never part of the mesh: Kubernetes' own, the operator's, and those that were excluded.
func (c Config) NeverMeshed() []string {
	return append([]string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, c.OperatorNamespace}, c.Excluded...)
}

func (c Config) isRoot(m *mesh) bool {
	return m.namespace == c.OperatorNamespace && m.name == v1alpha1.RootName
}

// settings are what the Meshes of a namespace say, together with the root.
type settings struct {
	node    *Namespace
	modes   map[uint16]v1alpha1.MTLSMode
	claims  map[string]*claim // by Service
	reports []MeshReport
}

// Resolve returns the settings of a namespace that has the given Meshes. It is for callers that know of a Mesh before a
// snapshot does; root is nil when there is none.
func Resolve(config Config, namespace string, root *v1alpha1.Mesh, meshes []*v1alpha1.Mesh) *Namespace {
	var r *mesh
	if root != nil {
		r = readMesh(root)
	}
	all := make([]*mesh, 0, len(meshes))
	for _, o := range meshes {
		if o.DeletionTimestamp == nil {
			all = append(all, readMesh(o))
		}
	}
	return config.resolve(namespace, r, all).node
}

func (c Config) resolve(namespace string, root *mesh, meshes []*mesh) *settings {
	slices.SortFunc(meshes, (*mesh).older)
	s := &settings{claims: map[string]*claim{}, modes: map[uint16]v1alpha1.MTLSMode{}}
	effective := &values{}
	if root != nil {
		for _, f := range namespaceFields() {
			f.take(effective, valuesOf(root.spec))
		}
	}
	winners := map[string]*mesh{}
	for _, m := range meshes {
		report := MeshReport{Namespace: m.namespace, Name: m.name, UID: m.uid, Generation: m.generation, Root: c.isRoot(m), Since: m.since}
		report.Problems = validate(m, report.Root)
		switch {
		case report.Root:
		case !c.enrols(namespace):
			report.Problems = append(report.Problems, Problem{m.origin(""), v1alpha1.ConditionAccepted, ReasonSystemNamespace,
				fmt.Sprintf("namespace %s is never part of the mesh; move this Mesh to the namespace of your workloads", namespace), true})
		default:
			s.claim(&report, m, winners, effective)
		}
		s.reports = append(s.reports, report)
	}
	slices.SortFunc(s.reports, func(a, b MeshReport) int { return strings.Compare(a.Name, b.Name) })
	s.node = effective.namespace(namespace, c.enrols(namespace) && len(meshes) > 0)
	for _, p := range s.node.Ports {
		s.modes[p.Number] = p.Mode
	}
	return s
}

// claim gives a Mesh what it claims and no older one has.
func (s *settings) claim(report *MeshReport, m *mesh, winners map[string]*mesh, effective *values) {
	wanted := valuesOf(m.spec)
	for _, f := range namespaceFields() {
		if !f.isSet(wanted) {
			continue
		}
		if winner := winners[f.path]; winner != nil {
			report.Problems = append(report.Problems, conflict(m, winner, f.path, f.path))
			continue
		}
		winners[f.path] = m
		report.Fields = append(report.Fields, f.path)
		f.take(effective, wanted)
	}
	for i := range m.spec.Services {
		spec := &m.spec.Services[i]
		c := newClaim(m, i, spec)
		switch winner := winners["service "+spec.Name]; winner {
		case nil:
			winners["service "+spec.Name] = m
			report.Services = append(report.Services, spec.Name)
			s.claims[spec.Name] = c
		case m: // validate has said so
		default:
			report.Problems = append(report.Problems, conflict(m, winner, fmt.Sprintf("spec.services[%d]", i), "service "+spec.Name))
		}
	}
}

func conflict(m, winner *mesh, field, what string) Problem {
	return Problem{m.origin(field), v1alpha1.ConditionAccepted, ReasonConflicted,
		fmt.Sprintf("the older Mesh %s already claims %s and wins; remove it here or there", winner.name, what), true}
}

// mode returns the mTLS mode of a port of the namespace's pods.
func (s *settings) mode(port uint16) v1alpha1.MTLSMode {
	if m, ok := s.modes[port]; ok {
		return m
	}
	return s.node.Mode
}

// lenientMode returns the most lenient mode of all ports.
func (s *settings) lenientMode() v1alpha1.MTLSMode {
	lenient := s.node.Mode
	for m := range maps.Values(s.modes) {
		if leniency(m) > leniency(lenient) {
			lenient = m
		}
	}
	return lenient
}

func leniency(m v1alpha1.MTLSMode) int {
	switch m {
	case v1alpha1.MTLSDisabled:
		return 2
	case v1alpha1.MTLSPermissive:
		return 1
	}
	return 0
}

// Selects reports whether the pod is to have a sidecar. The error is not nil when the pod selector is invalid: nobody can
// tell then, and the pod must not be admitted.
func (n *Namespace) Selects(p *corev1.Pod) (bool, error) {
	facts := readPod(p)
	if facts == nil {
		return false, nil
	}
	if n.InvalidSelector != "" && n.injectable(facts) {
		return false, fmt.Errorf("namespace %s: %s", n.Name, n.InvalidSelector)
	}
	return n.selects(facts), nil
}

func (n *Namespace) selects(p *pod) bool {
	return n.injectable(p) && n.Proxy.PodSelector != nil && n.Proxy.PodSelector.Matches(labels.Set(p.labels))
}

// injectable reports whether a pod may have a sidecar at all.
func (n *Namespace) injectable(p *pod) bool {
	return n.Meshed && !p.hostNetwork && !p.windows && p.labels[sidecar.InjectLabel] != "false"
}

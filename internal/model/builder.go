package model

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/tidwall/btree"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// Config is what the model can't read from API objects.
type Config struct {
	// OperatorNamespace holds the root Mesh and is never part of the mesh.
	OperatorNamespace string
	// Excluded are namespaces that are never part of the mesh, besides the operator's and Kubernetes' own: what Tulle needs to start.
	Excluded []string
	// EnvoyImage is the proxy's image unless the root Mesh names one.
	EnvoyImage string
}

// Builder makes Snapshots of the API objects that it was given. One goroutine at a time may use it.
//
// It never fails: what is wrong in an object becomes a Problem, and the rest of the object still counts. What an object
// says is reduced to facts when it comes in, and a change of facts marks the nodes that depend on them. Snapshot makes
// only those again, in the order in which they depend on each other:
//
//	Meshes → namespaces → workloads → services, their endpoints and their problems → splits → addresses → what is mesh-wide
type Builder struct {
	config Config

	// Facts, by object.
	namespaces   map[string]*namespace
	services     map[ServiceKey]*service
	slices       map[types.NamespacedName]*endpointSlice
	pods         map[WorkloadKey]*pod
	templates    templates
	replicaSets  map[types.NamespacedName]string
	nodes        map[string]machine
	serviceCIDRs map[string][]netip.Prefix
	trust        []byte

	// Indexes of the facts.
	slicesOf   map[ServiceKey]map[types.NamespacedName]*endpointSlice
	servicesAt map[netip.Addr]map[ServiceKey]*service
	podsAt     map[netip.Addr]few[WorkloadKey, *pod]
	nodesAt    map[netip.Addr]map[string]bool
	listedAt   map[netip.Addr]few[ServiceKey, int] // Services whose slices list the address, and how many slices do
	inhabited  map[netip.Prefix]int                // neighbourhoods, and how many cluster IPs and pods' addresses are there

	// Derived from the facts, besides the nodes.
	wide      meshWide
	conflicts map[WorkloadKey]map[uint16]bool // ports of a pod of which its Services say different things
	// ranged are the Services and pods whose nodes depend on the address ranges.
	rangedServices  map[ServiceKey]bool
	rangedWorkloads map[WorkloadKey]bool
	vanished        vanished

	dirty   dirty
	tree    *btree.BTreeG[entry]
	changed map[Key]bool // since the last snapshot
	last    *Snapshot
}

// dirty names what depends on facts that changed since the last snapshot.
type dirty struct {
	meshWide   bool
	namespaces map[string]bool
	workloads  map[WorkloadKey]bool
	services   map[ServiceKey]bool // with their endpoints and problems
	addresses  map[netip.Addr]bool
	spans      map[netip.Prefix]bool
	// selectors are those of Services that came, changed or went: the pods that they select have to be found.
	selectors map[string][]map[string]string
	machines  map[string]bool
	roots     map[ServiceKey]bool // of TrafficSplits
	// splitReports are those of TrafficSplits that came, changed or went.
	splitReports map[types.NamespacedName]bool
	summaries    map[string]bool // of namespaces
	internal     bool            // an entry changed that is no node
}

// NewBuilder returns a Builder of an empty mesh.
func NewBuilder(config Config) *Builder {
	return &Builder{
		config:          config,
		namespaces:      map[string]*namespace{},
		services:        map[ServiceKey]*service{},
		slices:          map[types.NamespacedName]*endpointSlice{},
		pods:            map[WorkloadKey]*pod{},
		templates:       templates{},
		replicaSets:     map[types.NamespacedName]string{},
		nodes:           map[string]machine{},
		serviceCIDRs:    map[string][]netip.Prefix{},
		slicesOf:        map[ServiceKey]map[types.NamespacedName]*endpointSlice{},
		servicesAt:      map[netip.Addr]map[ServiceKey]*service{},
		podsAt:          map[netip.Addr]few[WorkloadKey, *pod]{},
		nodesAt:         map[netip.Addr]map[string]bool{},
		listedAt:        map[netip.Addr]few[ServiceKey, int]{},
		inhabited:       map[netip.Prefix]int{},
		conflicts:       map[WorkloadKey]map[uint16]bool{},
		rangedServices:  map[ServiceKey]bool{},
		rangedWorkloads: map[WorkloadKey]bool{},
		vanished:        vanished{known: map[netip.Addr]bool{}},
		dirty: dirty{
			meshWide:   true,
			namespaces: map[string]bool{},
			workloads:  map[WorkloadKey]bool{},
			services:   map[ServiceKey]bool{},
			addresses:  map[netip.Addr]bool{},
			spans:      map[netip.Prefix]bool{},
			selectors:  map[string][]map[string]string{},
			machines:   map[string]bool{},
			roots:      map[ServiceKey]bool{},
			summaries:  map[string]bool{},

			splitReports: map[types.NamespacedName]bool{},
		},
		tree:    newTree(),
		changed: map[Key]bool{},
	}
}

// Set adds an object or replaces the one of its name. The object is not kept and must not change meanwhile.
// Objects of a kind that the model does not read are ignored.
func (b *Builder) Set(obj any) {
	switch o := obj.(type) {
	case *v1alpha1.Mesh:
		b.setMesh(o)
	case *corev1.Service:
		b.setService(serviceKey(o), readService(o))
	case *discoveryv1.EndpointSlice:
		b.setSlice(objectName(o), readSlice(o))
	case *corev1.Pod:
		b.setPod(WorkloadKey{Namespace: o.Namespace, Name: o.Name}, readPod(o))
	case *corev1.Node:
		b.setMachine(o.Name, readMachine(o))
	case *networkingv1.ServiceCIDR:
		b.setServiceCIDR(o.Name, parsePrefixes(o.Spec.CIDRs))
	case *splitv1alpha4.TrafficSplit:
		b.setSplit(objectName(o), readSplit(o))
	case *specsv1alpha4.HTTPRouteGroup:
		b.setRouteGroup(objectName(o), readRouteGroup(o))
	case *metav1.PartialObjectMetadata:
		if o.Kind == "ReplicaSet" {
			b.setReplicaSet(objectName(o), controllerOf(o))
		}
	}
}

// Delete removes an object; only its kind, namespace and name count.
func (b *Builder) Delete(obj any) {
	switch o := obj.(type) {
	case *v1alpha1.Mesh:
		b.deleteMesh(o)
	case *corev1.Service:
		b.setService(serviceKey(o), nil)
	case *discoveryv1.EndpointSlice:
		b.setSlice(objectName(o), nil)
	case *corev1.Pod:
		b.setPod(WorkloadKey{Namespace: o.Namespace, Name: o.Name}, nil)
	case *corev1.Node:
		b.setMachine(o.Name, machine{})
	case *networkingv1.ServiceCIDR:
		b.setServiceCIDR(o.Name, nil)
	case *splitv1alpha4.TrafficSplit:
		b.setSplit(objectName(o), nil)
	case *specsv1alpha4.HTTPRouteGroup:
		b.setRouteGroup(objectName(o), nil)
	case *metav1.PartialObjectMetadata:
		if o.Kind == "ReplicaSet" {
			b.setReplicaSet(objectName(o), "")
		}
	}
}

// SetTrust replaces the trusted roots (PEM).
func (b *Builder) SetTrust(bundle []byte) {
	if !slices.Equal(b.trust, bundle) {
		b.trust = slices.Clone(bundle)
		b.dirty.meshWide = true
	}
}

// Snapshot returns the mesh as it is now: the same snapshot as before when nothing changed in it.
func (b *Builder) Snapshot() *Snapshot {
	b.resolveRoot()
	b.resolveNamespaces()
	b.resolveWorkloads()
	b.resolveServices()
	b.resolveSplits()
	b.resolveAddresses()
	b.resolveSpans()
	b.resolveSummaries()
	b.resolveMeshWide()
	if b.last != nil && len(b.changed) == 0 && !b.dirty.internal {
		return b.last
	}
	b.last = &Snapshot{revision: b.nextRevision(), tree: b.tree.Copy(), changed: sortedKeys(b.changed), reported: b.dirty.internal}
	b.changed, b.dirty.internal = map[Key]bool{}, false
	return b.last
}

func (b *Builder) nextRevision() uint64 {
	if b.last == nil {
		return 1
	}
	return b.last.revision + 1
}

// put makes value the node of the key, unless the node says the same already, and reports whether it did.
// A nil value removes the node.
func (b *Builder) put(key Key, value any) bool {
	old, exists := b.tree.Get(entry{key: key})
	switch {
	case value == nil && !exists, exists && value != nil && reflect.DeepEqual(old.value, value):
		return false
	case value == nil:
		b.tree.Delete(entry{key: key})
	default:
		b.tree.Set(entry{key: key, value: value})
	}
	if key.Kind.internal() {
		b.dirty.internal = true
	} else {
		b.changed[key] = true
	}
	return true
}

// namespace returns what is known of a namespace, which Set may be about to add to.
func (b *Builder) namespace(name string) *namespace {
	ns := b.namespaces[name]
	if ns == nil {
		ns = newNamespace(name)
		b.namespaces[name] = ns
		b.dirty.namespaces[name] = true
	}
	return ns
}

// touchNamespace marks a namespace of whose contents something came or went.
func (b *Builder) touchNamespace(ns *namespace) {
	b.dirty.summaries[ns.name] = true
	if ns.empty() {
		b.dirty.namespaces[ns.name] = true
	}
}

func (b *Builder) setService(key ServiceKey, s *service) {
	old := b.services[key]
	if reflect.DeepEqual(old, s) {
		return
	}
	ns := b.namespace(key.Namespace)
	if old != nil {
		b.inhabit(old.addresses, -1)
		for _, a := range old.addresses {
			remove(b.servicesAt, a, key)
			b.touchAddress(a)
			if s != nil && slices.Contains(s.addresses, a) {
				continue
			}
			if forgotten, ok := b.vanished.add(a); ok {
				b.touchAddress(forgotten)
			}
		}
		ns.removeService(old)
		delete(b.services, key)
		b.touchSelected(key.Namespace, old.selector)
	}
	if s != nil {
		b.inhabit(s.addresses, 1)
		for _, a := range s.addresses {
			add(b.servicesAt, a, key, s)
			b.touchAddress(a)
		}
		ns.addService(s)
		b.services[key] = s
		b.touchSelected(key.Namespace, s.selector)
	}
	b.dirty.services[key] = true
	if old == nil || s == nil || !slices.Equal(old.ports, s.ports) {
		b.dirty.namespaces[key.Namespace] = true // which ports are declared there
	}
	b.touchNamespace(ns)
}

func (b *Builder) setPod(key WorkloadKey, p *pod) {
	old := b.pods[key]
	if old.equal(p) {
		return
	}
	ns := b.namespace(key.Namespace)
	if p != nil {
		b.templates.share(p)
	}
	if old != nil {
		b.templates.release(old)
		if !old.hostNetwork {
			b.inhabit(old.addresses, -1)
		}
		for _, a := range old.addresses {
			removeFew(b.podsAt, a, key)
			b.touchAddress(a)
		}
		delete(ns.pods, key)
		delete(b.pods, key)
	}
	if p != nil {
		if !p.hostNetwork {
			b.inhabit(p.addresses, 1)
		}
		for _, a := range p.addresses {
			addFew(b.podsAt, a, key, p)
			b.touchAddress(a)
		}
		ns.pods[key] = p
		b.pods[key] = p
	}
	b.dirty.workloads[key] = true
	b.touchNamespace(ns)
}

func (b *Builder) setSlice(name types.NamespacedName, s *endpointSlice) {
	old := b.slices[name]
	if reflect.DeepEqual(old, s) {
		return
	}
	if old != nil {
		delete(b.slices, name)
		remove(b.slicesOf, old.service, name)
		for a := range old.addresses() {
			if n := b.listedAt[a].get(old.service) - 1; n > 0 {
				addFew(b.listedAt, a, old.service, n)
			} else {
				removeFew(b.listedAt, a, old.service)
			}
		}
		b.dirty.services[old.service] = true
	}
	if s != nil {
		b.slices[name] = s
		add(b.slicesOf, s.service, name, s)
		for a := range s.addresses() {
			addFew(b.listedAt, a, s.service, b.listedAt[a].get(s.service)+1)
		}
		b.dirty.services[s.service] = true
	}
}

func (b *Builder) setMachine(name string, m machine) {
	old := b.nodes[name]
	if old.zone != m.zone {
		b.dirty.machines[name] = true
	}
	if !slices.Equal(old.podRanges, m.podRanges) {
		b.dirty.meshWide = true
	}
	if !slices.Equal(old.addresses, m.addresses) {
		for _, a := range old.addresses {
			remove(b.nodesAt, a, name)
			b.touchAddress(a)
		}
		for _, a := range m.addresses {
			add(b.nodesAt, a, name, true)
			b.touchAddress(a)
		}
	}
	if m.empty() {
		delete(b.nodes, name)
	} else {
		b.nodes[name] = m
	}
}

func (b *Builder) setServiceCIDR(name string, ranges []netip.Prefix) {
	if slices.Equal(b.serviceCIDRs[name], ranges) {
		return
	}
	b.dirty.meshWide = true
	if len(ranges) == 0 {
		delete(b.serviceCIDRs, name)
	} else {
		b.serviceCIDRs[name] = ranges
	}
}

// setReplicaSet keeps the owner of a ReplicaSet; empty when the ReplicaSet is gone.
func (b *Builder) setReplicaSet(name types.NamespacedName, owner string) {
	if b.replicaSets[name] == owner {
		return
	}
	if owner == "" {
		// Its pods are about to go too, and keep the name that they derive from their own labels.
		delete(b.replicaSets, name)
	} else {
		b.replicaSets[name] = owner
	}
	if ns := b.namespaces[name.Namespace]; ns != nil {
		for key, p := range ns.pods {
			if p.controllerKind == "ReplicaSet" && p.controllerName == name.Name {
				b.dirty.workloads[key] = true
			}
		}
	}
}

// touchAddress marks what depends on who owns an address.
func (b *Builder) touchAddress(a netip.Addr) {
	b.dirty.addresses[a] = true
	b.touchListed(a)
}

// touchListed marks the Services that have an endpoint with the address.
func (b *Builder) touchListed(a netip.Addr) {
	for key := range b.listedAt[a].all() {
		b.dirty.services[key] = true
	}
}

// touchSelected marks the pods that a Service selects.
func (b *Builder) touchSelected(ns string, selector map[string]string) {
	if len(selector) > 0 {
		b.dirty.selectors[ns] = append(b.dirty.selectors[ns], selector)
	}
}

func add[K, L comparable, V any](index map[K]map[L]V, key K, member L, value V) {
	if index[key] == nil {
		index[key] = map[L]V{}
	}
	index[key][member] = value
}

func remove[K, L comparable, V any](index map[K]map[L]V, key K, member L) {
	delete(index[key], member)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

func sortedKeys(keys map[Key]bool) []Key {
	sorted := slices.AppendSeq(make([]Key, 0, len(keys)), maps.Keys(keys)) // some are kept for long, and growing leaves room
	slices.SortFunc(sorted, compareKeys)
	return sorted
}

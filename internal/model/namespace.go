package model

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// namespace is what is known of a namespace, and what was derived from it.
type namespace struct {
	name     string
	meshes   map[string]*mesh
	pods     map[WorkloadKey]*pod
	services map[ServiceKey]*service
	// bySelector finds Services by one label of their selectors, so that a pod is compared with few of them.
	bySelector map[label]map[ServiceKey]*service
	indexed    map[ServiceKey]label
	// splits are the TrafficSplits of others and groups the HTTPRouteGroups, by name. The indexes are by the name of the root, of a backend
	// and of a group.
	splits                              map[string]*split
	groups                              map[string]*routeGroup
	splitsOf, splitsTo, splitsWithGroup map[string]map[string]*split

	settings  *settings
	selected  map[WorkloadKey]bool
	uncovered map[WorkloadKey]bool
	taken     map[WorkloadKey]bool // pods that report an address that somebody else has
}

type label struct{ key, value string }

func newNamespace(name string) *namespace {
	return &namespace{
		name:       name,
		meshes:     map[string]*mesh{},
		pods:       map[WorkloadKey]*pod{},
		services:   map[ServiceKey]*service{},
		bySelector: map[label]map[ServiceKey]*service{},
		indexed:    map[ServiceKey]label{},
		splits:     map[string]*split{},
		groups:     map[string]*routeGroup{},
		splitsOf:   map[string]map[string]*split{},
		splitsTo:   map[string]map[string]*split{},
		selected:   map[WorkloadKey]bool{},
		uncovered:  map[WorkloadKey]bool{},
		taken:      map[WorkloadKey]bool{},

		splitsWithGroup: map[string]map[string]*split{},
	}
}

func (n *namespace) empty() bool {
	return len(n.meshes) == 0 && len(n.pods) == 0 && len(n.services) == 0 && len(n.splits) == 0 && len(n.groups) == 0
}

func (n *namespace) addService(s *service) {
	n.services[s.key] = s
	if len(s.selector) == 0 {
		return
	}
	// The label that the fewest other Services have: many share one such as app.kubernetes.io/part-of.
	var best label
	for i, key := range slices.Sorted(maps.Keys(s.selector)) {
		if l := (label{key, s.selector[key]}); i == 0 || len(n.bySelector[l]) < len(n.bySelector[best]) {
			best = l
		}
	}
	add(n.bySelector, best, s.key, s)
	n.indexed[s.key] = best
}

func (n *namespace) removeService(s *service) {
	delete(n.services, s.key)
	if l, ok := n.indexed[s.key]; ok {
		remove(n.bySelector, l, s.key)
		delete(n.indexed, s.key)
	}
}

// selecting returns the Services, by name, that select a pod.
func (n *namespace) selecting(p *pod) []*service {
	var found []*service
	for key, value := range p.labels {
		for _, s := range n.bySelector[label{key, value}] {
			if includes(p.labels, s.selector) {
				found = append(found, s)
			}
		}
	}
	slices.SortFunc(found, func(a, b *service) int { return a.key.compare(b.key) })
	return found
}

// includes reports whether set has all labels of subset.
func includes(set, subset map[string]string) bool {
	for key, value := range subset {
		if got, ok := set[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// resolveNamespaces makes the settings of dirty namespaces, and marks what is in them if they changed.
func (b *Builder) resolveNamespaces() {
	for name := range b.dirty.namespaces {
		b.dirty.summaries[name] = true
		ns := b.namespaces[name]
		key := Key{Kind: KindNamespace, Namespace: name}
		if ns == nil || ns.empty() {
			b.forgetNamespace(ns, name)
			b.put(key, nil)
			continue
		}
		for _, m := range ns.meshes {
			if m.since == 0 {
				m.since = b.nextRevision()
			}
		}
		old := ns.settings
		ns.settings = b.config.resolve(name, b.root(), slices.Collect(maps.Values(ns.meshes)))
		ns.settings.node.TCPPorts = ns.tcpPorts()
		b.put(key, ns.settings.node)
		b.touchClaims(ns, old)
		b.touchSplitsOfAll(ns)
		if old == nil || !old.node.sameForContents(ns.settings.node) {
			b.touchContents(ns)
		}
	}
	b.dirty.namespaces = map[string]bool{}
}

// sameForContents reports whether two settings of a namespace mean the same to what is in it already.
func (n *Namespace) sameForContents(o *Namespace) bool {
	a, b := *n, *o
	a.TCPPorts, b.TCPPorts = nil, nil
	return reflect.DeepEqual(a, b)
}

func (b *Builder) forgetNamespace(ns *namespace, name string) {
	if ns == nil {
		return
	}
	if ns.settings != nil {
		b.touchClaims(ns, nil)
	}
	delete(b.namespaces, name)
}

// touchClaims marks the Services of which a Mesh says something else than before, and the pods that they select.
func (b *Builder) touchClaims(ns *namespace, old *settings) {
	var before map[string]*claim
	if old != nil {
		before = old.claims
	}
	touch := func(name string) {
		key := ServiceKey{Namespace: ns.name, Name: name}
		b.dirty.services[key] = true
		if s := ns.services[key]; s != nil {
			b.touchSelected(ns.name, s.selector)
		}
	}
	for name, c := range before {
		if now := ns.settings.claims[name]; now == nil || !now.same(c) {
			touch(name)
		}
	}
	for name := range ns.settings.claims {
		if before[name] == nil {
			touch(name)
		}
	}
}

func (b *Builder) touchContents(ns *namespace) {
	for key := range ns.services {
		b.dirty.services[key] = true
	}
	for key := range ns.pods {
		b.dirty.workloads[key] = true
	}
}

// users is the number of Services that Tulle did not make.
func (n *namespace) users() int {
	users := 0
	for _, s := range n.services {
		if !s.made {
			users++
		}
	}
	return users
}

// resolveSummaries says for each namespace in which something changed what status asks of it.
func (b *Builder) resolveSummaries() {
	for name := range b.dirty.summaries {
		key := Key{Kind: kindSummary, Namespace: name}
		ns := b.namespaces[name]
		if ns == nil {
			b.put(key, nil)
			continue
		}
		sum := &summary{
			reports:    ns.settings.reports,
			services:   ns.users(),
			unselected: len(ns.selected) == 0 && ns.settings.node.InvalidSelector == "",
		}
		if len(ns.meshes) > 0 {
			sum.oldest = slices.MinFunc(slices.Collect(maps.Values(ns.meshes)), (*mesh).older).origin("")
		}
		if ns.settings.node.Meshed && len(ns.uncovered) > 0 {
			first := ns.pods[slices.MinFunc(slices.Collect(maps.Keys(ns.uncovered)), WorkloadKey.compare)]
			a, _ := uncovered(first.addresses, b.wide.ranges)
			sum.uncovered = fmt.Sprintf("pod %s has the public address %s", first.key.Name, a)
		}
		if ns.settings.node.Meshed && len(ns.taken) > 0 {
			first := ns.pods[slices.MinFunc(slices.Collect(maps.Keys(ns.taken)), WorkloadKey.compare)]
			a, whose, _ := b.taken(first)
			sum.taken = fmt.Sprintf("pod %s reports %s, which is %s; nothing is sent to the pod there", first.key.Name, a, whose)
		}
		b.put(key, sum)
	}
	b.dirty.summaries = map[string]bool{}
}

// uncovered returns the first address that proxies take for one outside of the cluster, and so never ask about.
func uncovered(addresses []netip.Addr, ranges []netip.Prefix) (netip.Addr, bool) {
	for _, a := range addresses {
		if !isPrivate(a) && !contains(ranges, a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// problems returns those of a Mesh that depend on the pods of its namespace as a whole.
func (s *summary) problems(r *MeshReport) []Problem {
	const selector = "spec.proxy.podSelector"
	var problems []Problem
	m := &mesh{namespace: r.Namespace, name: r.Name}
	if s.unselected && slices.Contains(r.Fields, selector) {
		problems = append(problems, Problem{m.origin(selector), v1alpha1.ConditionAccepted, ReasonNoPodsSelected,
			"no pod of the namespace that could have a sidecar fits; compare with kubectl get pods --show-labels", false})
	}
	if s.uncovered != "" && s.oldest.Name == r.Name {
		problems = append(problems, outsideRanges(m.origin(""), s.uncovered, "podRanges"))
	}
	if s.taken != "" && s.oldest.Name == r.Name {
		problems = append(problems, Problem{m.origin(""), v1alpha1.ConditionResolvedRefs, ReasonAddressTaken,
			s.taken + ", restart it if that does not pass", false})
	}
	return problems
}

func outsideRanges(origin resource.Origin, what, list string) Problem {
	return Problem{origin, v1alpha1.ConditionAccepted, ReasonAddressOutsideRanges,
		fmt.Sprintf("%s, which proxies take for one outside of the cluster and call in plaintext; add its range to "+
			"spec.meshWide.network.%s of the root Mesh", what, list), true}
}

package model

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// manySelectors is the number of changed selectors from which on all pods of a namespace are made again, instead of
// comparing each pod with each selector.
const manySelectors = 16

func (b *Builder) resolveWorkloads() {
	b.touchPods()
	for key := range b.dirty.workloads {
		b.resolveWorkload(key)
	}
	b.dirty.workloads = map[WorkloadKey]bool{}
}

// touchPods marks the pods that changed Services select, or that run on changed Nodes.
func (b *Builder) touchPods() {
	for name, selectors := range b.dirty.selectors {
		ns := b.namespaces[name]
		if ns == nil {
			continue
		}
		for key, p := range ns.pods {
			if !b.dirty.workloads[key] && (len(selectors) >= manySelectors || fitsAny(p, selectors)) {
				b.dirty.workloads[key] = true
			}
		}
	}
	b.dirty.selectors = map[string][]map[string]string{}
	if len(b.dirty.machines) == 0 {
		return
	}
	for key, p := range b.pods {
		if b.dirty.machines[p.node] {
			b.dirty.workloads[key] = true
		}
	}
	b.dirty.machines = map[string]bool{}
}

func fitsAny(p *pod, selectors []map[string]string) bool {
	return slices.ContainsFunc(selectors, func(s map[string]string) bool { return includes(p.labels, s) })
}

func (b *Builder) resolveWorkload(key WorkloadKey) {
	p, ns := b.pods[key], b.namespaces[key.Namespace]
	if p == nil {
		delete(b.conflicts, key)
		delete(b.rangedWorkloads, key)
		if ns != nil {
			b.note(ns, ns.selected, key, false)
			b.note(ns, ns.uncovered, key, false)
			b.note(ns, ns.taken, key, false)
		}
		b.put(key.Key(), nil)
		return
	}
	w, conflicts := b.workload(p, ns)
	_, public := uncovered(p.addresses, nil)
	_, out := uncovered(p.addresses, b.wide.ranges)
	mark(b.rangedWorkloads, key, public)
	b.note(ns, ns.uncovered, key, out && !p.hostNetwork)
	b.note(ns, ns.selected, key, w.Selected)
	b.noteTaken(ns, p)
	changed := b.put(key.Key(), w)
	if !maps.Equal(conflicts, b.conflicts[key]) {
		changed = true
		b.conflicts[key] = conflicts
		if len(conflicts) == 0 {
			delete(b.conflicts, key)
		}
	}
	if changed && !p.hostNetwork {
		for _, a := range p.addresses {
			b.touchListed(a)
		}
	}
}

// note keeps a set of a namespace, of which its summary depends.
func (b *Builder) note(ns *namespace, set map[WorkloadKey]bool, key WorkloadKey, member bool) {
	if set[key] != member {
		mark(set, key, member)
		b.dirty.summaries[ns.name] = true
	}
}

func mark[K comparable](set map[K]bool, key K, member bool) {
	if member {
		set[key] = true
	} else {
		delete(set, key)
	}
}

func (b *Builder) workload(p *pod, ns *namespace) (*Workload, map[uint16]bool) {
	node := ns.settings.node
	w := &Workload{
		Key:            p.key,
		UID:            p.uid,
		Addresses:      p.addresses,
		ServiceAccount: p.account,
		Owner:          b.owner(p),
		Labels:         p.labels,
		Zone:           b.nodes[p.node].zone,
		Selected:       !p.terminating && node.selects(p),
		Meshed:         p.injected.proxy,
		Sidecar:        p.injected.version,
		SkipDetection:  p.injected.skipDetection,
		Mode:           node.Mode,
		Probes:         p.injected.probes,
	}
	w.Member = ns.member(p, ns.selecting(p))
	uses := ns.portUses(p)
	conflicts := map[uint16]bool{}
	for number, use := range uses {
		protocol, conflict := use.protocol()
		if conflict {
			conflicts[number] = true
		}
		member := w.Member
		if len(use.services) > 0 {
			member = ns.member(p, use.services)
		}
		w.Ports = append(w.Ports, WorkloadPort{number, protocol, ns.settings.mode(number), member})
	}
	w.Metrics = ns.metricsOf(p)
	slices.SortFunc(w.Ports, func(a, b WorkloadPort) int { return cmp.Compare(a.Number, b.Number) })
	p.shareMade(w)
	return w, conflicts
}

// mode returns the mTLS mode of a port of the pod.
func (w *Workload) mode(port uint16) v1alpha1.MTLSMode {
	if i, ok := slices.BinarySearchFunc(w.Ports, port, func(p WorkloadPort, n uint16) int { return cmp.Compare(p.Number, n) }); ok {
		return w.Ports[i].Mode
	}
	return w.Mode
}

// portUse is what the Services that select a pod say of one of its ports.
type portUse struct {
	http, tcp bool
	services  []*service
}

// protocol returns what the port speaks; where Services say different things nobody knows, which is a conflict.
func (u portUse) protocol() (p Protocol, conflict bool) {
	switch {
	case u.http && u.tcp:
		return Unknown, true
	case u.http:
		return HTTP, false
	case u.tcp:
		return TCP, false
	}
	return Unknown, false
}

// portUses returns the ports of a pod that something names: its containers, its Services and the Mesh.
func (n *namespace) portUses(p *pod) map[uint16]portUse {
	uses := map[uint16]portUse{}
	for _, c := range p.ports {
		uses[c.number] = portUse{}
	}
	for _, m := range n.settings.node.Ports {
		uses[m.Number] = portUse{}
	}
	for _, s := range n.selecting(p) {
		for _, port := range s.ports {
			number, ok := p.target(port)
			if !ok {
				continue
			}
			use := uses[number]
			use.services = append(use.services, s)
			switch portProtocol(port, n.settings.claims[s.key.Name]) {
			case HTTP:
				use.http = true
			case TCP:
				use.tcp = true
			case Unknown:
			}
			uses[number] = use
		}
	}
	return uses
}

// owner returns what pods of one workload share.
func (b *Builder) owner(p *pod) string {
	switch {
	case p.controllerName == "":
		return "Pod/" + p.key.Name
	case p.controllerKind != "ReplicaSet":
		return p.controllerKind + "/" + p.controllerName
	}
	if owner, ok := b.replicaSets[types.NamespacedName{Namespace: p.key.Namespace, Name: p.controllerName}]; ok {
		return owner
	}
	// The ReplicaSet is not known yet, or gone. A Deployment names its ReplicaSets after itself and the hash of their pods.
	if hash := p.labels[appsv1.DefaultDeploymentUniqueLabelKey]; hash != "" {
		if name, ok := strings.CutSuffix(p.controllerName, "-"+hash); ok && name != "" {
			return "Deployment/" + name
		}
	}
	return "ReplicaSet/" + p.controllerName
}

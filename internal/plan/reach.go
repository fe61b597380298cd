package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
)

// lostEndpoints are those that clients with a proxy could no longer call, because they have none themselves and their port becomes
// Strict.
func lostEndpoints(old, next *world) []EndpointLoss {
	before, after := old.snapshot.Reader(), next.snapshot.Reader()
	var list []EndpointLoss
	for _, o := range next.state.sorted() {
		s, ok := o.(*corev1.Service)
		if !ok {
			continue
		}
		key := model.ServiceKey{Namespace: s.Namespace, Name: s.Name}
		was, is := before.Endpoints(key), after.Endpoints(key)
		node := after.Service(key)
		if was == nil || is == nil || node == nil {
			continue
		}
		for _, port := range node.Ports {
			lost := 0
			for _, e := range was.Ports[port.Number] {
				if holds(is.Ports[port.Number], e) {
					continue
				}
				if d := after.Address(e.Address); d.Kind != model.PodAddress || !d.Workload.Meshed {
					lost++
				}
			}
			if lost > 0 && port.Mode == v1alpha1.MTLSStrict {
				list = append(list, EndpointLoss{Namespace: s.Namespace, Service: s.Name, Port: port.Number,
					Lost: lost, Left: len(is.Ports[port.Number])})
			}
		}
	}
	return list
}

func holds(list []model.Endpoint, e model.Endpoint) bool {
	return slices.ContainsFunc(list, func(o model.Endpoint) bool { return o.Address == e.Address })
}

// refusedPlaintext are the namespaces of which proxies would begin to refuse plaintext, on some port or on all.
func refusedPlaintext(old, next *world) []PlaintextRefusal {
	var list []PlaintextRefusal
	before, after := old.snapshot.Reader(), next.snapshot.Reader()
	without := map[string]int{}
	total := 0
	for _, namespace := range next.snapshot.Namespaces() {
		for _, p := range next.snapshot.Workloads(namespace) {
			if !p.Meshed {
				without[namespace]++
				total++
			}
		}
	}
	for _, namespace := range next.snapshot.Namespaces() {
		r := PlaintextRefusal{Namespace: namespace, Pods: total, OwnPods: without[namespace]}
		for _, p := range next.snapshot.Workloads(namespace) {
			if was := before.Workload(p.Key); was != nil && was.Meshed && p.Meshed && closes(was, p) {
				r.Proxies++
			}
		}
		if r.Proxies > 0 && r.Pods > 0 && after.Namespace(namespace).Meshed {
			list = append(list, r)
		}
	}
	return list
}

// closes reports whether a port that took plaintext takes none any more.
func closes(was, is *model.Workload) bool {
	if is.Mode == v1alpha1.MTLSStrict && was.Mode != v1alpha1.MTLSStrict {
		return true
	}
	for _, p := range is.Ports {
		mode := was.Mode
		if i := slices.IndexFunc(was.Ports, func(o model.WorkloadPort) bool { return o.Number == p.Number }); i >= 0 {
			mode = was.Ports[i].Mode
		}
		if p.Mode == v1alpha1.MTLSStrict && mode != v1alpha1.MTLSStrict {
			return true
		}
	}
	return false
}

package controllers

import (
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// observe looks at the plaintext of every namespace that has a Mesh, and returns what is known of each now. proxies are by namespace.
func observe(before map[string]status.Observation, snapshot *model.Snapshot, reports []model.MeshReport,
	proxies map[string][]xds.ProxyState, plaintext []xds.PlaintextReport, quiet time.Duration, now time.Time,
) map[string]status.Observation {
	sights := map[string]*status.Sight{}
	reader := snapshot.Reader()
	for _, r := range reports {
		if sights[r.Namespace] == nil && !r.Root {
			sights[r.Namespace] = &status.Sight{
				Namespace: reader.Namespace(r.Namespace), Complete: status.Connected(snapshot.Workloads(r.Namespace), proxies[r.Namespace]),
			}
		}
	}
	for _, r := range plaintext {
		s := sights[r.Proxy.Namespace]
		if s == nil {
			continue
		}
		for _, p := range r.Peers {
			s.Sightings = append(s.Sightings, status.Sighting{Peer: status.Peer{Name: nameOf(snapshot, reader, p.Address), Port: p.Port}, At: p.LastSeen})
		}
		s.More = s.More || r.Count > len(r.Peers)
	}
	after := make(map[string]status.Observation, len(sights))
	for namespace, s := range sights {
		after[namespace] = before[namespace].Look(*s, now, quiet)
	}
	return after
}

// nameOf says in words whose address a is, as far as the model knows.
func nameOf(snapshot *model.Snapshot, reader *model.Reader, a netip.Addr) string {
	if d := reader.Address(netip.AddrPortFrom(a, 0)); d.Kind == model.PodAddress {
		return "pod " + d.Workload.Key.Namespace + "/" + d.Workload.Key.Name
	}
	if node, ok := snapshot.NodeAt(a); ok {
		return "node " + node
	}
	return "address " + a.String()
}

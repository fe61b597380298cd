package controllers

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Gauges are the statuses of all Meshes as metrics. Only the leader has them. Labels don't say "namespace", which a Prometheus has
// as the name of the operator's.
type Gauges struct {
	mu     sync.Mutex
	meshes []MeshGauges
}

// MeshGauges are those of one Mesh.
type MeshGauges struct {
	namespace, name string
	status          v1alpha1.MeshStatus
	// expires is when the first certificate of a connected proxy does; zero when there is none. The root Mesh, which is not about proxies
	// of its own, has none.
	expires time.Time
}

func meshGauges(report model.MeshReport, s v1alpha1.MeshStatus, proxies []xds.ProxyState) MeshGauges {
	g := MeshGauges{namespace: report.Namespace, name: report.Name, status: s}
	if report.Root {
		return g
	}
	for i := range proxies {
		if at := proxies[i].Encryption.CertificateExpires; !at.IsZero() && (g.expires.IsZero() || at.Before(g.expires)) {
			g.expires = at
		}
	}
	return g
}

// Set replaces what is told.
func (g *Gauges) Set(meshes []MeshGauges) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.meshes = meshes
}

// gaugeDescs are the metrics, by what they tell.
type gaugeDescs struct{ info, condition, proxies, expires *prometheus.Desc }

func descs() gaugeDescs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tulle_mesh_"+name, help, append([]string{"mesh_namespace", "mesh"}, labels...), nil)
	}
	return gaugeDescs{
		info:      desc("info", "Always 1; its label mtls is the mode, with * where ports have others.", "mtls"),
		condition: desc("condition", "1 for the status that a condition of the Mesh has.", "type", "status", "reason"),
		proxies:   desc("proxies", "Proxies of the Mesh's namespace, by state: expected, injected, connected, programmed (of the connected), rejected.", "state"),
		expires:   desc("certificate_not_after_timestamp_seconds", "When the first certificate of a connected proxy of the namespace expires."),
	}
}

// Describe implements prometheus.Collector.
func (g *Gauges) Describe(out chan<- *prometheus.Desc) {
	d := descs()
	for _, desc := range []*prometheus.Desc{d.info, d.condition, d.proxies, d.expires} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (g *Gauges) Collect(out chan<- prometheus.Metric) {
	g.mu.Lock()
	meshes := g.meshes
	g.mu.Unlock()
	d := descs()
	for _, m := range meshes {
		gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, append([]string{m.namespace, m.name}, labels...)...)
		}
		gauge(d.info, 1, m.status.MTLS)
		for _, c := range m.status.Conditions {
			gauge(d.condition, 1, c.Type, string(c.Status), c.Reason)
		}
		if p := m.status.Proxies; p != nil {
			for state, n := range map[string]int32{
				"expected": p.Expected, "injected": p.Injected, "connected": p.Connected, "programmed": p.Programmed, "rejected": p.Rejected,
			} {
				gauge(d.proxies, float64(n), state)
			}
		}
		if !m.expires.IsZero() {
			gauge(d.expires, float64(m.expires.Unix()))
		}
	}
}

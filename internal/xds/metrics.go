package xds

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// metrics are a server's metrics.
type metrics struct {
	streams, asked, pushed prometheus.Gauge
	pushes, nacks, ended   *prometheus.CounterVec
	limited                *prometheus.CounterVec
	limitedProxies         *prometheus.GaugeVec
	bytes, panics          prometheus.Counter
	logMessages            prometheus.Counter
	resolve, propagation   prometheus.Histogram
	acknowledgement        prometheus.Histogram
}

// newMetrics registers a server's metrics; nil registers them nowhere.
func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tulle", Subsystem: "xds", Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "tulle", Subsystem: "xds", Name: name, Help: help}
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "tulle", Subsystem: "xds", Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), // 0.5 ms to 8 s
		})
	}
	m := &metrics{
		streams: gauge("streams", "Connected proxies."),
		asked:   gauge("asked_names", "Destinations that connected proxies have asked for."),
		pushed:  gauge("pushed_names", "Destinations that connected proxies are sent because pods of their workload asked."),
		pushes:  prometheus.NewCounterVec(counter("pushes_total", "Responses sent, by type of resource."), []string{"type"}),
		nacks:   prometheus.NewCounterVec(counter("nacks_total", "Responses that a proxy refused, by type of resource."), []string{"type"}),
		ended:   prometheus.NewCounterVec(counter("streams_ended_total", "Streams that ended, or were refused, by reason."), []string{"reason"}),
		limited: prometheus.NewCounterVec(counter("limited_total", "What was refused or delayed because a proxy had reached a limit, by limit."), []string{"limit"}),
		limitedProxies: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "tulle", Subsystem: "xds", Name: "limited_proxies", Help: "Connected proxies that have reached a limit since they connected.",
		}, []string{"limit", "namespace", "pod"}),
		bytes:           prometheus.NewCounter(counter("push_bytes_total", "Size of all responses sent, in bytes.")),
		panics:          prometheus.NewCounter(counter("panics_total", "Streams that were ended by a programming error.")),
		logMessages:     prometheus.NewCounter(counter("plaintext_messages_total", "Messages in which proxies reported connections without mTLS.")),
		resolve:         histogram("resolve_seconds", "Time from a proxy's ask for a destination to its answer being sent."),
		propagation:     histogram("propagation_seconds", "Time from a change of an object being seen to its first response being sent to a proxy."),
		acknowledgement: histogram("acknowledgement_seconds", "Time from a change of an object being seen to a proxy having acknowledged, or refused, all that it needs for it."),
	}
	if registry == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.streams, m.asked, m.pushed, m.pushes, m.nacks, m.ended, m.limited, m.limitedProxies, m.bytes, m.panics, m.resolve, m.propagation, m.acknowledgement} {
		errs = append(errs, registry.Register(c))
	}
	errs = append(errs, registry.Register(m.logMessages))
	return m, errors.Join(errs...)
}

// limit counts what was over a limit; first says that the proxy's stream had not reached it before.
func (m *metrics) limit(l limit, n int, p *resource.Proxy, first bool) {
	m.limited.WithLabelValues(l.String()).Add(float64(n))
	if first {
		m.limitedProxies.WithLabelValues(l.String(), p.Namespace, p.Pod).Set(1)
	}
}

// forget takes a proxy that has left out of the metrics.
func (m *metrics) forget(p *resource.Proxy) {
	m.limitedProxies.DeletePartialMatch(prometheus.Labels{"namespace": p.Namespace, "pod": p.Pod})
}

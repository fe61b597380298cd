package operator

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// newSigned counts the certificates that this replica signed for proxies.
func newSigned() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "tulle", Name: "certificates_signed_total", Help: "Certificates for proxies, by result: signed or failed.",
	}, []string{"result"})
}

// addMetrics registers what no part measures by itself.
func (o *operator) addMetrics() error {
	if o.Registry == nil {
		return nil
	}
	cached := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "tulle", Subsystem: "compile", Name: "cached_resources", Help: "Compiled resources that are held in memory.",
	}, func() float64 { return float64(o.publisher.Cached()) })
	var errs []error
	for _, c := range []prometheus.Collector{o.signed, &o.gauges, cached, lifetimes{o}} {
		errs = append(errs, o.Registry.Register(c))
	}
	return errors.Join(errs...)
}

// lifetimes are those of the certificates that the control plane works with.
type lifetimes struct{ *operator }

func (lifetimes) descs() (notBefore, notAfter, workload *prometheus.Desc) {
	return prometheus.NewDesc("tulle_certificate_not_before_timestamp_seconds", "Since when a certificate of the control plane is valid.", []string{"certificate"}, nil),
		prometheus.NewDesc("tulle_certificate_not_after_timestamp_seconds", "When a certificate of the control plane expires.", []string{"certificate"}, nil),
		prometheus.NewDesc("tulle_workload_certificate_lifetime_seconds", "How long certificates of workloads are valid.", nil, nil)
}

// Describe implements prometheus.Collector.
func (l lifetimes) Describe(out chan<- *prometheus.Desc) {
	notBefore, notAfter, workload := l.descs()
	out <- notBefore
	out <- notAfter
	out <- workload
}

// Collect implements prometheus.Collector.
func (l lifetimes) Collect(out chan<- prometheus.Metric) {
	notBefore, notAfter, workload := l.descs()
	for name, v := range l.materials.Lifetimes() {
		out <- prometheus.MustNewConstMetric(notBefore, prometheus.GaugeValue, float64(v.NotBefore.Unix()), name)
		out <- prometheus.MustNewConstMetric(notAfter, prometheus.GaugeValue, float64(v.NotAfter.Unix()), name)
	}
	if snapshot := l.world.Snapshot(); snapshot != nil {
		out <- prometheus.MustNewConstMetric(workload, prometheus.GaugeValue, snapshot.Reader().MeshWide().CertificateDuration.Seconds())
	}
}

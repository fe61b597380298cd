package envoy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Series is one series of a scrape: its name, its labels as {a="b",c="d"}, sorted, and its value.
type Series struct {
	Name   string
	Labels map[string]string
	Value  float64
}

func (s Series) String() string {
	var labels []string
	for name, value := range s.Labels {
		labels = append(labels, fmt.Sprintf("%s=%q", name, value))
	}
	slices.Sort(labels)
	return fmt.Sprintf("%s{%s} %v", s.Name, strings.Join(labels, ","), s.Value)
}

// Scrape returns what Prometheus gets from the pod's proxy, of the metrics whose names begin with prefix. A histogram is as many series as in Prometheus.
func (p *Pod) Scrape(prefix string) []Series {
	p.w.t.Helper()
	status, text := p.ScrapePath("/stats/prometheus")
	if status != http.StatusOK {
		p.w.t.Fatalf("scrape of %s: status %d: %s", p.ref, status, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		p.w.t.Fatalf("scrape of %s: %v\n%s", p.ref, err, text)
	}
	var all []Series
	for name, family := range families {
		if strings.HasPrefix(name, prefix) {
			for _, m := range family.Metric {
				all = append(all, series(name, m)...)
			}
		}
	}
	slices.SortFunc(all, func(a, b Series) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// ScrapePath gets a path of the stats port of the pod's proxy, as a Prometheus without a sidecar does.
func (p *Pod) ScrapePath(path string) (status int, body []byte) {
	p.w.t.Helper()
	// Longer than a probe may take: with thousands of series it is megabytes.
	client := &http.Client{Timeout: 30 * time.Second, Transport: p.proxy.probe.Transport}
	resp, err := client.Get(fmt.Sprintf("http://%s%s", netip.AddrPortFrom(p.addresses[0], sidecar.StatsPort), path))
	p.w.check(err)
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	p.w.check(err)
	return resp.StatusCode, body
}

func series(name string, m *dto.Metric) []Series {
	labels := map[string]string{}
	for _, l := range m.Label {
		labels[l.GetName()] = l.GetValue()
	}
	switch {
	case m.Counter != nil:
		return []Series{{name, labels, m.Counter.GetValue()}}
	case m.Gauge != nil:
		return []Series{{name, labels, m.Gauge.GetValue()}}
	case m.Histogram != nil:
		all := []Series{
			{name + "_count", labels, float64(m.Histogram.GetSampleCount())},
			{name + "_sum", labels, m.Histogram.GetSampleSum()},
		}
		for _, b := range m.Histogram.Bucket {
			le := map[string]string{"le": fmt.Sprint(b.GetUpperBound())}
			for k, v := range labels {
				le[k] = v
			}
			all = append(all, Series{name + "_bucket", le, float64(b.GetCumulativeCount())})
		}
		return all
	default:
		return []Series{{name, labels, m.Untyped.GetValue()}}
	}
}

// Counted returns the sum of the series of a metric that have the given labels, name and value in turn.
func (p *Pod) Counted(metric string, labels ...string) float64 {
	p.w.t.Helper()
	var sum float64
	family, _ := strings.CutSuffix(metric, "_count")
	for _, s := range p.Scrape(family) {
		fits := s.Name == metric
		for i := 0; i < len(labels); i += 2 {
			fits = fits && s.Labels[labels[i]] == labels[i+1]
		}
		if fits {
			sum += s.Value
		}
	}
	return sum
}

// CertificateOf returns a certificate of the mesh for a workload and an identity, as a proxy would have it.
func (w *World) CertificateOf(workload, namespace, serviceAccount string) tls.Certificate {
	w.t.Helper()
	c, err := w.meshCA.issueNamed(workload, spiffeID(namespace, serviceAccount), "")
	w.check(err)
	return c
}

// IssuedCertificate returns a certificate such as cert-manager issues for a Certificate that names an issuer of the mesh's root and a URI (empty:
// none), with the usages of a client.
func (w *World) IssuedCertificate(uri string) tls.Certificate {
	w.t.Helper()
	c, err := w.meshCA.issueForClient(uri)
	w.check(err)
	return c
}

// ForeignCertificate is IssuedCertificate of a root that the mesh does not know.
func (w *World) ForeignCertificate(uri string) tls.Certificate {
	w.t.Helper()
	stranger, err := newAuthority("stranger", time.Hour)
	w.check(err)
	c, err := stranger.issueForClient(uri)
	w.check(err)
	return c
}

// AddCrowd is AddHost for a machine that has all addresses of a range: as good as that many pods, for who calls them.
func (w *World) AddCrowd(name string, args []string, address netip.Addr, all netip.Prefix) *Pod {
	w.t.Helper()
	host := w.AddHost(name, args, address)
	w.check(w.fabric.AddRange(host.ns, address, all))
	return host
}

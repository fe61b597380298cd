package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/prometheus"
)

// flushInterval is how long Envoy keeps what it measured out of its histograms, in the worst case.
const flushInterval = 5 * time.Second

// prometheus returns the Prometheus that `demo install` brings to a lab, once it answers: the first test may be faster than its start.
func (c *cluster) prometheus() prometheus.Server {
	c.t.Helper()
	if out, err := c.try(nil, "-n", "monitoring", "get", "prometheuses.monitoring.coreos.com", "demo"); err != nil {
		c.t.Fatalf("no Prometheus demo in namespace monitoring: run `make test-e2e` without KUBECONFIG, which brings it to a lab of its own: %v %s", err, out)
	}
	p := prometheus.Server{Namespace: "monitoring", Service: prometheus.OperatedService, Get: func(_ context.Context, path string) (string, error) {
		return c.try(nil, "get", "--raw", path)
	}}
	c.eventually("Prometheus to answer", func() bool {
		_, err := p.Query(c.t.Context(), "vector(1)")
		return err == nil
	})
	return p
}

// query asks Prometheus for an instant vector.
func (c *cluster) query(p prometheus.Server, format string, args ...any) []prometheus.Sample {
	c.t.Helper()
	samples, err := p.Query(c.t.Context(), fmt.Sprintf(format, args...))
	if err != nil {
		c.t.Fatal(err)
	}
	return samples
}

// proxies is the scrape configuration that the prometheus-operator makes of a namespace's PodMonitor.
func (c *cluster) proxies() string { return "podMonitor/" + c.namespace + "/tulle/0" }

// targets returns what Prometheus scrapes by one scrape configuration.
func (c *cluster) targets(p prometheus.Server, pool string) []prometheus.Target {
	c.t.Helper()
	targets, err := p.Targets(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return slices.DeleteFunc(targets, func(t prometheus.Target) bool { return t.Pool != pool })
}

// scraped waits until Prometheus has scraped the proxy of every pod with one, after a moment. It returns a time by which it has what was before.
func (c *cluster) scraped(p prometheus.Server, since time.Time) time.Time {
	c.t.Helper()
	var lacking []string
	c.eventually("Prometheus to scrape every proxy", func() bool {
		missing := map[string]bool{}
		for _, pod := range c.pods("") {
			if hasProxy(pod) {
				missing[pod.Name] = true
			}
		}
		for _, s := range c.query(p, "%s", prometheus.LastScrapes(fmt.Sprintf(`namespace=%q, container=%q`, c.namespace, sidecar.ProxyContainer))) {
			if s.Value > float64(since.UnixMilli())/1000 {
				delete(missing, s.Labels["pod"])
			}
		}
		lacking = slices.Sorted(maps.Keys(missing))
		return len(lacking) == 0
	})
	return time.Now()
}

// grown is how much a sum of counters grew between two moments at which all had been scraped, by a label.
func (c *cluster) grown(p prometheus.Server, begin, end time.Time, label, series string) map[string]float64 {
	c.t.Helper()
	grown := map[string]float64{}
	for at, sign := range map[time.Time]float64{begin: -1, end: 1} {
		for _, s := range c.query(p, `sum by (%s) (%s @ %d.%03d)`, label, series, at.Unix(), at.Nanosecond()/int(time.Millisecond)) {
			grown[s.Labels[label]] += sign * s.Value
		}
	}
	maps.DeleteFunc(grown, func(_ string, value float64) bool { return value == 0 })
	return grown
}

// alert returns the state of an alert with these labels, inactive when it is neither pending nor firing.
func (c *cluster) alert(p prometheus.Server, name string, labels map[string]string) string {
	c.t.Helper()
	alerts, err := p.Alerts(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, a := range alerts {
		matches := a.Labels["alertname"] == name
		for label, value := range labels {
			matches = matches && a.Labels[label] == value
		}
		if matches {
			return a.State
		}
	}
	return "inactive"
}

// down are the targets that the last scrape of failed, and why.
func down(targets []prometheus.Target) string {
	var why []string
	for _, t := range targets {
		if !t.Up() {
			why = append(why, fmt.Sprintf("%s (%s): %s", t.URL, t.Health, t.LastError))
		}
	}
	return strings.Join(why, "\n")
}

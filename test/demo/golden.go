package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/prometheus"
)

// golden is what Prometheus knows of the counted traffic.
type golden struct {
	// missing says why there is nothing; empty when there is.
	missing  string
	services []signals
	edges    []signals
}

// signals are those of one service, or of one client's calls of one version of it.
type signals struct {
	from, service, version string
	requests, failed       float64
	// latency has milliseconds by quantile.
	latency map[string]float64
}

// What the sidecars export.
const (
	requestsMetric = "envoy_tulle_requests_total"
	durationMetric = "envoy_tulle_request_duration_milliseconds_bucket"
	// flushInterval is how long Envoy keeps what it measured out of its histograms, in the worst case.
	flushInterval = 5 * time.Second
	// scrapePatience is how long a Prometheus may take to find a new pod and scrape it.
	scrapePatience = 90 * time.Second
)

// quantiles are those shown, by PromQL's number.
func quantiles() map[string]string {
	return map[string]string{"p50": "0.5", "p90": "0.9", "p99": "0.99"}
}

// quietPrometheus is awaitPrometheus before traffic that is to be the only one.
func (d *demo) quietPrometheus(ctx context.Context) (string, error) {
	if _, err := d.load(ctx, "-stop"); err != nil {
		return "", err
	}
	d.findings.stopped = time.Now()
	return d.awaitPrometheus(ctx)
}

// awaitPrometheus finds the Prometheus that scrapes the sample's proxies, and waits until it has scraped each.
func (d *demo) awaitPrometheus(ctx context.Context) (string, error) {
	servers, missing, err := d.findPrometheus(ctx)
	if err != nil {
		return "", err
	}
	if missing == "" {
		d.console.set("waiting for Prometheus to scrape every proxy")
		missing, err = d.chooseServer(ctx, servers)
	}
	if err != nil {
		return "", err
	}
	d.findings.golden.missing = missing
	if missing != "" {
		if d.target.bringsPartners() {
			return "", fmt.Errorf("%s", missing)
		}
		return "not used: " + missing, nil
	}
	return "scrapes every proxy", nil
}

// findPrometheus returns the Prometheuses that a prometheus-operator runs, or what is missing for there to be any.
func (d *demo) findPrometheus(ctx context.Context) (servers []prometheus.Server, missing string, err error) {
	const crd = "prometheuses.monitoring.coreos.com"
	present, err := d.kubectl.exists(ctx, "crd", crd)
	if err != nil {
		return nil, "", err
	}
	if !present {
		return nil, "this cluster has no prometheus-operator (no CustomResourceDefinition " + crd +
			"): install one, for example with the chart kube-prometheus-stack, and run this again", nil
	}
	list, err := d.kubectl.run(ctx, "get", crd, "--all-namespaces", "-o", `jsonpath={range .items[*]}{.metadata.namespace}{"\n"}{end}`)
	if err != nil {
		return nil, "", err
	}
	for _, namespace := range slices.Compact(slices.Sorted(strings.FieldsSeq(list))) {
		servers = append(servers, prometheus.Server{Namespace: namespace, Service: prometheus.OperatedService, Get: d.raw})
	}
	if len(servers) == 0 {
		return nil, "the prometheus-operator of this cluster runs no Prometheus: make an object of kind Prometheus", nil
	}
	return servers, "", nil
}

// raw returns what the API server answers at a path.
func (d *demo) raw(ctx context.Context, path string) (string, error) {
	return d.kubectl.run(ctx, "get", "--raw", path)
}

// chooseServer waits until one of the servers has scraped every proxy of the sample. It says why none has.
func (d *demo) chooseServer(ctx context.Context, servers []prometheus.Server) (missing string, err error) {
	var names, reasons []string
	deadline := time.Now().Add(scrapePatience)
	for {
		names, reasons = nil, nil
		for _, server := range servers {
			lacking, err := d.unscraped(ctx, server, time.Time{})
			if err == nil && len(lacking) == 0 {
				d.prometheus = server
				return "", nil
			}
			if err != nil {
				lacking = []string{err.Error()}
			}
			names = append(names, server.Namespace)
			reasons = append(reasons, server.Namespace+": "+strings.Join(lacking, ", "))
		}
		if time.Now().After(deadline) {
			break
		}
		if err := pause(ctx, time.Second); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("no Prometheus (there are some in %s) scrapes every proxy of the sample (%s): does its podMonitorSelector, or podMonitorNamespaceSelector, take Tulle's PodMonitor? "+
		"`kubectl -n %s describe mesh bookinfo` says which labels it has", strings.Join(names, ", "), strings.Join(reasons, "; "), sampleNamespace), nil
}

// unscraped returns the sample's pods whose proxy the server has not scraped with success since a moment.
func (d *demo) unscraped(ctx context.Context, server prometheus.Server, since time.Time) ([]string, error) {
	pods, err := d.pods(ctx)
	if err != nil {
		return nil, err
	}
	lacking := map[string]bool{}
	for _, pod := range pods {
		lacking[pod.Name] = true
	}
	samples, err := server.Query(ctx, prometheus.LastScrapes(fmt.Sprintf(`namespace=%q, container=%q`, sampleNamespace, sidecar.ProxyContainer)))
	if err != nil {
		return nil, err
	}
	for _, sample := range samples {
		if sample.Value > float64(since.UnixMilli())/1000 {
			delete(lacking, sample.Labels["pod"])
		}
	}
	return slices.Sorted(maps.Keys(lacking)), nil
}

// awaitScrape returns a moment at which Prometheus has everything that happened until now.
func (d *demo) awaitScrape(ctx context.Context, since time.Time) (time.Time, error) {
	deadline := time.Now().Add(scrapePatience)
	for {
		lacking, err := d.unscraped(ctx, d.prometheus, since)
		if err != nil {
			return time.Time{}, err
		}
		if len(lacking) == 0 {
			return time.Now(), nil
		}
		if time.Now().After(deadline) {
			return time.Time{}, fmt.Errorf("Prometheus has not scraped %s for %s", strings.Join(lacking, ", "), scrapePatience)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return time.Time{}, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// collectGolden asks Prometheus about the counted traffic.
func (d *demo) collectGolden(ctx context.Context) error {
	g := &d.findings.golden
	if g.missing != "" {
		return nil
	}
	d.console.set("waiting for Prometheus to scrape the last of it")
	end, err := d.awaitScrape(ctx, d.findings.span.end.Add(flushInterval))
	if err != nil {
		return err
	}
	w := window{d.findings.quiet, end}
	if g.services, err = d.signals(ctx, w, "destination_service"); err != nil {
		return err
	}
	g.edges, err = d.signals(ctx, w, "source_workload", "destination_service", "destination_version")
	return err
}

// window is a time span that begins and ends when all that happened has been scraped.
type window struct{ begin, end time.Time }

// increase is PromQL for how much counters grew, summed up by labels: exactly, where increase() extrapolates. A series that
// began inside the window has grown from 0.
func (w window) increase(series string, by ...string) string {
	sum := func(at time.Time) string {
		return fmt.Sprintf("sum by (%s) (%s @ %d.%03d)", strings.Join(by, ", "), series, at.Unix(), at.Nanosecond()/int(time.Millisecond))
	}
	return fmt.Sprintf("%s - (%s or 0 * %s)", sum(w.end), sum(w.begin), sum(w.end))
}

// signals asks for the golden signals by these labels. What the client's proxy counted has the requests that never arrived
// too; how long they took is measured where they arrive.
func (d *demo) signals(ctx context.Context, w window, by ...string) ([]signals, error) {
	found := map[[3]string]*signals{}
	ask := func(query string, set func(s *signals, value float64)) error {
		samples, err := d.prometheus.Query(ctx, query)
		for _, sample := range samples {
			key := [3]string{sample.Labels["source_workload"], sample.Labels["destination_service"], sample.Labels["destination_version"]}
			if found[key] == nil {
				found[key] = &signals{from: key[0], service: key[1], version: key[2], latency: map[string]float64{}}
			}
			set(found[key], sample.Value)
		}
		return err
	}
	asSeen := fmt.Sprintf("reporter=%q, source_namespace=%q, destination_namespace=%q", "source", sampleNamespace, sampleNamespace)
	asServed := strings.Replace(asSeen, "source", "destination", 1)
	if err := ask(w.increase(requestsMetric+"{"+asSeen+"}", by...), func(s *signals, v float64) { s.requests = v }); err != nil {
		return nil, err
	}
	failures := w.increase(requestsMetric+"{"+asSeen+`, response_code_class="5xx"}`, by...)
	if err := ask(failures, func(s *signals, v float64) { s.failed = v }); err != nil {
		return nil, err
	}
	for name, quantile := range quantiles() {
		buckets := w.increase(durationMetric+"{"+asServed+"}", append(by, "le")...)
		if err := ask(fmt.Sprintf("histogram_quantile(%s, %s)", quantile, buckets), func(s *signals, v float64) { s.latency[name] = v }); err != nil {
			return nil, err
		}
	}
	var all []signals
	for _, s := range found {
		if s.requests > 0 {
			all = append(all, *s)
		}
	}
	slices.SortFunc(all, func(a, b signals) int {
		if byService := wayOf(a.service) - wayOf(b.service); byService != 0 {
			return byService
		}
		return strings.Compare(a.from+a.version, b.from+b.version)
	})
	return all, nil
}

// tolerance is how far Prometheus' counts may be from the client's, as a share.
const tolerance = 0.01

// disagreements compares what Prometheus counted with what client and services did.
func (f findings) disagreements() []error {
	var wrong []error
	differs := func(what string, got, want float64) {
		if math.Abs(got-want) > tolerance*want {
			wrong = append(wrong, fmt.Errorf("Prometheus has %.0f requests of %s, counted were %.0f", got, what, want))
		}
	}
	if f.golden.missing != "" {
		return nil
	}
	counted := map[string]float64{}
	for b, count := range f.counted {
		if b.service != "datastore" { // speaks no HTTP
			counted[b.service] += float64(count)
		}
	}
	seen := map[string]float64{}
	for _, s := range f.golden.services {
		seen[s.service] = s.requests
	}
	for _, service := range slices.Sorted(maps.Keys(counted)) {
		differs(service, seen[service], counted[service])
	}
	return wrong
}

func (r *report) golden(g golden) {
	r.section("Golden metrics   as Prometheus has them, of the same requests")
	if g.missing != "" {
		fmt.Fprintf(&r.text, "  none: %s\n", g.missing)
		return
	}
	rows := []string{"service\trequests\tfailed\tp50\tp90\tp99"}
	for _, s := range g.services {
		rows = append(rows, s.service+"\t"+s.cells())
	}
	r.table(rows...)
	r.text.WriteByte('\n')
	rows = []string{"from\tto\tversion\trequests\tfailed\tp50\tp90\tp99"}
	for _, s := range g.edges {
		rows = append(rows, s.from+"\t"+s.service+"\t"+s.version+"\t"+s.cells())
	}
	r.table(rows...)
}

// cells are the columns that all tables of signals have.
func (s signals) cells() string {
	cells := []string{fmt.Sprintf("%.0f", s.requests), fmt.Sprintf("%.2f %%", 100*s.failed/s.requests)}
	for _, quantile := range slices.Sorted(maps.Keys(quantiles())) {
		value, known := s.latency[quantile]
		if !known || math.IsNaN(value) {
			cells = append(cells, "-")
			continue
		}
		cells = append(cells, fmt.Sprintf("%.1f ms", value))
	}
	return strings.Join(cells, "\t")
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// What the demo sends: every fifth request is from the tester.
const (
	trafficRate   = 100
	trafficLength = 20 * time.Second
	testerEvery   = 5
	tester        = "jason"
)

// loadReport is the part of the load generator's report that the demo shows.
type loadReport struct {
	Sent      int64                                  `json:"sent"`
	Succeeded int64                                  `json:"succeeded"`
	Statuses  map[string]int64                       `json:"statuses"`
	LastError string                                 `json:"lastError"`
	LatencyMS map[string]float64                     `json:"latencyMs"`
	Versions  map[string]map[string]map[string]int64 `json:"versions"`
}

// saw is how often the client saw a version of a service.
func (r loadReport) saw(service, version string) int64 {
	var sum int64
	for _, services := range r.Versions {
		sum += services[service][version]
	}
	return sum
}

// backend is a service and its version.
type backend struct{ service, version string }

func decode(text string, out any) error {
	if err := json.Unmarshal([]byte(text), out); err != nil {
		return fmt.Errorf("%w in: %.200s", err, text)
	}
	return nil
}

// sendTraffic lets the load generator send a run of its own, between two readings of what the services counted.
func (d *demo) sendTraffic(ctx context.Context) (string, error) {
	if d.findings.golden.missing == "" {
		var err error
		d.console.set("waiting for Prometheus to scrape what was before")
		if d.findings.quiet, err = d.awaitScrape(ctx, d.findings.stopped.Add(flushInterval)); err != nil {
			return "", err
		}
	}
	before, err := d.counts(ctx)
	if err != nil {
		return "", err
	}
	d.findings.span.begin = time.Now()
	d.console.set(fmt.Sprintf("sending %d requests a second for %s", trafficRate, trafficLength))
	text, err := d.load(ctx, fmt.Sprintf("-rate=%d", trafficRate), "-for="+trafficLength.String(), "-tester="+tester, "-tester-every="+strconv.Itoa(testerEvery))
	if err != nil {
		return "", err
	}
	if err := decode(text, &d.findings.load); err != nil {
		return "", err
	}
	d.findings.span.end = time.Now()
	after, err := d.counts(ctx)
	if err != nil {
		return "", err
	}
	for b, count := range before {
		after[b] -= count
	}
	d.findings.counted = after
	return fmt.Sprintf("%d requests in %s, each sent once", d.findings.load.Sent, trafficLength), nil
}

// load lets the load generator start or end a run.
func (d *demo) load(ctx context.Context, args ...string) (string, error) {
	return d.kubectl.run(ctx, append([]string{"-n", sampleNamespace, "exec", "deploy/loadgen", "-c", "loadgen", "--", "bookinfo", "load"}, args...)...)
}

// leaveTraffic starts a run that does not end: there is always some traffic to look at.
func (d *demo) leaveTraffic(ctx context.Context) error {
	_, err := d.load(ctx, "-rate=10", "-tester="+tester, "-tester-every="+strconv.Itoa(testerEvery))
	return err
}

// counts asks every pod what it served so far.
func (d *demo) counts(ctx context.Context) (map[backend]int64, error) {
	pods, err := d.pods(ctx)
	if err != nil {
		return nil, err
	}
	sum := map[backend]int64{}
	for _, pod := range pods {
		b := backend{pod.Labels["app"], pod.Labels["version"]}
		if b.service == "loadgen" {
			continue
		}
		count, err := d.served(ctx, pod)
		if err != nil {
			return nil, err
		}
		sum[b] += count
	}
	return sum, nil
}

func (d *demo) served(ctx context.Context, pod corev1.Pod) (int64, error) {
	text, err := d.kubectl.run(ctx, "-n", sampleNamespace, "exec", pod.Name, "-c", pod.Labels["app"], "--",
		"bookinfo", "get", "http://127.0.0.1:9080/counts")
	if err != nil {
		return 0, err
	}
	var counts struct {
		Requests int64 `json:"requests"`
	}
	return counts.Requests, decode(text, &counts)
}

// wayOf is a service's place in the order of a request's way.
func wayOf(service string) int {
	return slices.Index([]string{"productpage", "details", "reviews", "ratings", "datastore"}, service)
}

// backends returns the counted services in the order of a request's way.
func backends(counted map[backend]int64) []backend {
	return slices.SortedFunc(maps.Keys(counted), func(a, b backend) int {
		if a.service != b.service {
			return wayOf(a.service) - wayOf(b.service)
		}
		if a.version < b.version {
			return -1
		}
		return 1
	})
}

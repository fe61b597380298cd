package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/test/prometheus"
)

// question is something to ask Prometheus.
type question struct{ about, query string }

// questions are a start: the sample's golden signals, what is not encrypted, and what is wrong.
func questions() []question {
	const sample = `destination_namespace="` + sampleNamespace + `"`
	return []question{
		{"requests a second, by service", `sum by (destination_service) (rate(` + requestsMetric + `{reporter="source", ` + sample + `}[1m]))`},
		{"share that failed, by client and service", `sum by (source_workload, destination_service) (rate(` + requestsMetric + `{reporter="source", ` + sample +
			`, response_code_class="5xx"}[1m])) / sum by (source_workload, destination_service) (rate(` + requestsMetric + `{reporter="source", ` + sample + `}[1m]))`},
		{"99 % are faster than, in ms, by service", `histogram_quantile(0.99, sum by (destination_service, le) (rate(` + durationMetric + `{` + sample + `}[1m])))`},
		{"requests a second by version of reviews", `sum by (destination_version) (rate(` + requestsMetric + `{reporter="source", destination_service="reviews", ` + sample + `}[1m]))`},
		{"requests a second without mTLS", `sum by (source_namespace, destination_service) (rate(` + requestsMetric + `{mtls="false"}[1m]))`},
		{"alerts", `ALERTS{alertstate="firing"}`},
	}
}

// showMetrics says how to reach Prometheus, and what it answers to some questions.
func (d *demo) showMetrics(ctx context.Context) (string, error) {
	r := &report{}
	if missing := d.findings.golden.missing; missing != "" {
		return "", fmt.Errorf("no Prometheus to show: %s", missing)
	}
	r.section("Prometheus")
	var rows []string
	if shell := d.target.shell(); shell != "" {
		rows = append(rows, "your shell\t"+shell)
	}
	r.table(append(rows,
		fmt.Sprintf("port-forward\tkubectl -n %s port-forward svc/%s 9090", d.prometheus.Namespace, d.prometheus.Service),
		"then\thttp://localhost:9090",
		"by kubectl only\tkubectl get --raw '"+d.prometheus.Path("api/v1/query?query=up")+"'",
		"the end\tmake demo-down",
	)...)
	for _, q := range questions() {
		samples, err := d.prometheus.Query(ctx, q.query)
		if err != nil {
			return "", err
		}
		r.section(q.about + "\n  " + q.query)
		r.table(answers(samples)...)
	}
	return r.String(), nil
}

// answers are the rows of a table of samples, the largest first.
func answers(samples []prometheus.Sample) []string {
	if len(samples) == 0 {
		return []string{"none"}
	}
	slices.SortFunc(samples, func(a, b prometheus.Sample) int {
		switch {
		case a.Value > b.Value:
			return -1
		case a.Value < b.Value:
			return 1
		}
		return strings.Compare(fmt.Sprint(a.Labels), fmt.Sprint(b.Labels))
	})
	var rows []string
	for _, sample := range samples {
		var labels []string
		for name, value := range sample.Labels {
			if name != "__name__" {
				labels = append(labels, name+"="+value)
			}
		}
		slices.Sort(labels)
		rows = append(rows, fmt.Sprintf("%.4g\t%s", sample.Value, strings.Join(labels, " ")))
	}
	return rows
}

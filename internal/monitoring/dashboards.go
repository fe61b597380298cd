package monitoring

import (
	"fmt"
	"strings"
)

// Dashboard is one of Grafana's dashboards.
type Dashboard struct {
	// Name of its file, and the uid of the dashboard after "tulle-".
	Name, Title string
	// Variables that a reader chooses, besides the data source.
	Variables []Variable
	Panels    []Panel
}

// Variable is a choice of a dashboard: the values of a query.
type Variable struct{ Name, Query string }

// Panel is a graph, or a number.
type Panel struct {
	Title, Description string
	// Unit as Grafana calls it.
	Unit string
	// Stat is true for one number instead of a graph.
	Stat    bool
	Targets []Target
}

// Target is a query with the legend of its series.
type Target struct{ Expr, Legend string }

func one(expr, legend string) []Target { return []Target{{expr, legend}} }

// quantiles are the targets of a recorded latency.
func quantiles(level, selector string) []Target {
	var targets []Target
	for _, q := range []string{"p50", "p90", "p99"} {
		targets = append(targets, Target{
			"max(tulle:" + level + "_request_duration_milliseconds:" + q + "_rate5m{" + selector + "})", q,
		})
	}
	return targets
}

// Dashboards are all dashboards.
func Dashboards() []Dashboard { return []Dashboard{mesh(), service(), workload(), controlPlane()} }

func mesh() Dashboard {
	const by = "{{destination_namespace}}/{{destination_service}}"
	return Dashboard{
		Name: "mesh", Title: "Tulle / Mesh",
		Panels: []Panel{
			{Title: "Requests", Unit: "reqps", Stat: true, Targets: one(`sum(tulle:service_requests:rate5m{reporter="destination"})`, "")},
			{Title: "Failing", Unit: "percentunit", Stat: true, Targets: one(`sum(tulle:service_errors:rate5m{reporter="source"}) / sum(tulle:service_requests:rate5m{reporter="source"})`, "")},
			{
				Title: "Requests in plaintext", Unit: "reqps", Stat: true, Description: "As those report that receive them.",
				Targets: one(`sum(tulle:service_plaintext_requests:rate5m{reporter="destination"}) or vector(0)`, ""),
			},
			{Title: "Proxies connected", Unit: "short", Stat: true, Targets: one(`sum(max by (mesh_namespace, mesh) (tulle_mesh_proxies{state="connected"}))`, "")},
			{Title: "Requests by service", Unit: "reqps", Targets: one(`topk(20, sum by (destination_namespace, destination_service) (tulle:service_requests:rate5m{reporter="destination"}))`, by)},
			{
				Title: "Failing requests by service", Unit: "percentunit", Description: "As the clients' proxies report, with what arrived nowhere.",
				Targets: one(`topk(20, tulle:service_error_ratio:rate5m{reporter="source"})`, by),
			},
			{Title: "Latency (p99) by service", Unit: "ms", Targets: one(`topk(20, tulle:service_request_duration_milliseconds:p99_rate5m)`, by+" ({{reporter}})")},
			{Title: "Requests refused by a limit", Unit: "reqps", Targets: one(`topk(20, tulle:service_refused:rate5m)`, by+" ({{reporter}})")},
			{Title: "TCP connections by service", Unit: "cps", Targets: one(`topk(20, sum by (destination_namespace, destination_service) (tulle:service_tcp_connections_opened:rate5m{reporter="destination"}))`, by)},
			{Title: "Meshes that are not Ready", Unit: "short", Targets: one(`max by (mesh_namespace, mesh, reason) (tulle_mesh_condition{type="Ready",status!="True"})`, "{{mesh_namespace}}/{{mesh}}: {{reason}}")},
		},
	}
}

func service() Dashboard {
	const is = `destination_namespace="$namespace",destination_service="$service"`
	const from = "{{source_namespace}}/{{source_workload}}"
	return Dashboard{
		Name: "service", Title: "Tulle / Service",
		Variables: []Variable{
			{"namespace", "label_values(envoy_tulle_requests_total, destination_namespace)"},
			{"service", `label_values(envoy_tulle_requests_total{destination_namespace="$namespace"}, destination_service)`},
		},
		Panels: []Panel{
			{Title: "Requests by code", Unit: "reqps", Targets: one(`sum by (response_code) (rate(envoy_tulle_requests_total{`+is+`,reporter="destination"}[$__rate_interval]))`, "{{response_code}}")},
			{Title: "Failing requests", Unit: "percentunit", Targets: one(`tulle:service_error_ratio:rate5m{`+is+`}`, "{{reporter}}")},
			{Title: "Latency", Unit: "ms", Targets: quantiles("service", is)},
			{Title: "Requests by version", Unit: "reqps", Targets: one(`sum by (destination_version) (rate(envoy_tulle_requests_total{`+is+`,reporter="destination"}[$__rate_interval]))`, "{{destination_version}}")},
			{Title: "Requests by client", Unit: "reqps", Targets: one(`sum by (source_namespace, source_workload) (tulle:edge_requests:rate5m{`+is+`,reporter="destination"})`, from)},
			{Title: "Failing requests by client", Unit: "percentunit", Targets: one(`tulle:edge_error_ratio:rate5m{`+is+`,reporter="source"}`, from)},
			{Title: "Why requests failed (Envoy's response flags)", Unit: "reqps", Targets: one(`sum by (response_flags) (rate(envoy_tulle_requests_total{`+is+`,reporter="source",response_flags!="-"}[$__rate_interval]))`, "{{response_flags}}")},
			{Title: "gRPC statuses", Unit: "reqps", Targets: one(`sum by (grpc_status) (rate(envoy_tulle_requests_total{`+is+`,reporter="destination",grpc_status!=""}[$__rate_interval]))`, "{{grpc_status}}")},
			{Title: "Bytes", Unit: "Bps", Targets: []Target{
				{`sum(rate(envoy_tulle_request_bytes_total{` + is + `}[$__rate_interval]))`, "requests"},
				{`sum(rate(envoy_tulle_response_bytes_total{` + is + `}[$__rate_interval]))`, "responses"},
			}},
			{Title: "With and without mTLS", Unit: "reqps", Targets: one(`sum by (mtls) (rate(envoy_tulle_requests_total{`+is+`,reporter="destination"}[$__rate_interval]))`, "mtls={{mtls}}")},
			{Title: "TCP connections", Unit: "cps", Targets: []Target{
				{`sum(rate(envoy_tulle_tcp_connections_opened_total{` + is + `,reporter="destination"}[$__rate_interval]))`, "opened"},
				{`sum(rate(envoy_tulle_tcp_connections_closed_total{` + is + `,reporter="destination"}[$__rate_interval]))`, "closed"},
			}},
			{Title: "TCP bytes", Unit: "Bps", Description: "Counted when a connection ends.", Targets: []Target{
				{`sum(rate(envoy_tulle_tcp_received_bytes_total{` + is + `,reporter="destination"}[$__rate_interval]))`, "received"},
				{`sum(rate(envoy_tulle_tcp_sent_bytes_total{` + is + `,reporter="destination"}[$__rate_interval]))`, "sent"},
			}},
		},
	}
}

func workload() Dashboard {
	const is = `source_namespace="$namespace",source_workload="$workload"`
	const to = "{{destination_namespace}}/{{destination_service}}"
	return Dashboard{
		Name: "workload", Title: "Tulle / Workload",
		Variables: []Variable{
			{"namespace", "label_values(envoy_tulle_requests_total, source_namespace)"},
			{"workload", `label_values(envoy_tulle_requests_total{source_namespace="$namespace"}, source_workload)`},
		},
		Panels: []Panel{
			{Title: "Requests to services", Unit: "reqps", Targets: one(`tulle:edge_requests:rate5m{`+is+`,reporter="source"}`, to)},
			{Title: "Failing requests to services", Unit: "percentunit", Targets: one(`tulle:edge_error_ratio:rate5m{`+is+`,reporter="source"}`, to)},
			{Title: "Latency (p99) of services", Unit: "ms", Targets: one(`tulle:edge_request_duration_milliseconds:p99_rate5m{`+is+`}`, to)},
			{Title: "Latency (p50) of services", Unit: "ms", Targets: one(`tulle:edge_request_duration_milliseconds:p50_rate5m{`+is+`}`, to)},
			{Title: "Why requests failed (Envoy's response flags)", Unit: "reqps", Targets: one(`sum by (destination_namespace, destination_service, response_flags) (rate(envoy_tulle_requests_total{`+is+`,reporter="source",response_flags!="-"}[$__rate_interval]))`, to+" {{response_flags}}")},
			{Title: "Requests in plaintext", Unit: "reqps", Targets: one(`tulle:edge_plaintext_requests:rate5m{`+is+`,reporter="source"}`, to)},
			{Title: "TCP connections opened", Unit: "cps", Targets: one(`tulle:edge_tcp_connections_opened:rate5m{`+is+`,reporter="source"}`, to)},
			{Title: "TCP bytes", Unit: "Bps", Targets: []Target{
				{`tulle:edge_tcp_received_bytes:rate5m{` + is + `,reporter="source"}`, to + " received"},
				{`tulle:edge_tcp_sent_bytes:rate5m{` + is + `,reporter="source"}`, to + " sent"},
			}},
		},
	}
}

func controlPlane() Dashboard {
	const own = `job="` + Job + `"`
	histogram := func(metric string) []Target {
		var targets []Target
		for _, q := range []struct{ quantile, legend string }{{"0.5", "p50"}, {"0.99", "p99"}} {
			targets = append(targets, Target{"histogram_quantile(" + q.quantile + ", sum by (le) (rate(" + metric + "_bucket[$__rate_interval])))", q.legend})
		}
		return targets
	}
	return Dashboard{
		Name: "control-plane", Title: "Tulle / Control plane",
		Panels: []Panel{
			{Title: "Replicas", Unit: "short", Stat: true, Targets: one(`sum(up{`+own+`})`, "")},
			{Title: "Proxies connected", Unit: "short", Stat: true, Targets: one(`sum(tulle_xds_streams)`, "")},
			{Title: "Proxies out of sync", Unit: "short", Stat: true, Targets: one(`sum(tulle_mesh_proxies{state="connected"}) - sum(tulle_mesh_proxies{state="programmed"})`, "")},
			{Title: "Bugs contained", Unit: "short", Stat: true, Targets: one(`sum(increase(tulle_panics_total[24h]))`, "")},
			{Title: "Pushes", Unit: "ops", Targets: one(`sum by (type) (rate(tulle_xds_pushes_total[$__rate_interval]))`, "{{type}}")},
			{Title: "Bytes pushed", Unit: "Bps", Targets: one(`sum(rate(tulle_xds_push_bytes_total[$__rate_interval]))`, "")},
			{Title: "Time from a change to its push", Unit: "s", Targets: histogram("tulle_xds_propagation_seconds")},
			{Title: "Time from a change to its acknowledgement", Unit: "s", Targets: histogram("tulle_xds_acknowledgement_seconds")},
			{Title: "Time to answer a proxy's ask", Unit: "s", Targets: histogram("tulle_xds_resolve_seconds")},
			{Title: "Responses refused by proxies", Unit: "ops", Targets: one(`sum by (type) (rate(tulle_xds_nacks_total[$__rate_interval]))`, "{{type}}")},
			{Title: "Certificates signed", Unit: "ops", Targets: one(`sum by (result) (rate(tulle_certificates_signed_total[$__rate_interval]))`, "{{result}}")},
			{Title: "Streams that ended", Unit: "ops", Targets: one(`sum by (reason) (rate(tulle_xds_streams_ended_total[$__rate_interval]))`, "{{reason}}")},
			{Title: "Left of certificates' lifetimes", Unit: "s", Targets: one(`min by (certificate) (tulle_certificate_not_after_timestamp_seconds - time())`, "{{certificate}}")},
			{Title: "Compiled resources in memory", Unit: "short", Targets: one(`tulle_compile_cached_resources`, "{{pod}}")},
			{Title: "Reconciliations", Unit: "ops", Targets: one(`sum by (controller, result) (rate(controller_runtime_reconcile_total{`+own+`}[$__rate_interval]))`, "{{controller}} {{result}}")},
			{Title: "Memory", Unit: "bytes", Targets: one(`process_resident_memory_bytes{`+own+`}`, "{{pod}}")},
			{Title: "CPU", Unit: "short", Targets: one(`rate(process_cpu_seconds_total{`+own+`}[$__rate_interval])`, "{{pod}}")},
		},
	}
}

// JSON is a dashboard as Grafana reads it (schema version 39, Grafana 10.4 and newer).
func (d Dashboard) JSON() map[string]any {
	source := map[string]any{"type": "prometheus", "uid": "${datasource}"}
	variables := []any{map[string]any{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}}
	for _, v := range d.Variables {
		variables = append(variables, map[string]any{
			"name": v.Name, "label": v.Name, "type": "query", "datasource": source, "query": v.Query, "refresh": 2, "sort": 1,
		})
	}
	var panels []any
	x, y, height := 0, 0, 0
	for i, p := range d.Panels {
		kind, w, h := "timeseries", 12, 8
		if p.Stat {
			kind, w, h = "stat", 6, 4
		}
		if x+w > 24 || height != 0 && height != h {
			x, y = 0, y+height
		}
		height = h
		panels = append(panels, map[string]any{
			"id": i + 1, "type": kind, "title": p.Title, "description": p.Description, "datasource": source,
			"gridPos":     map[string]any{"x": x, "y": y, "w": w, "h": h},
			"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.Unit, "min": 0}, "overrides": []any{}},
			"targets":     p.targets(source),
		})
		x += w
	}
	return map[string]any{
		"uid": "tulle-" + d.Name, "title": d.Title, "tags": []any{"tulle"}, "schemaVersion": 39, "editable": true, "refresh": "30s",
		"time": map[string]any{"from": "now-1h", "to": "now"}, "templating": map[string]any{"list": variables}, "panels": panels,
	}
}

func (p Panel) targets(source map[string]any) []any {
	var targets []any
	for i, t := range p.Targets {
		targets = append(targets, map[string]any{"refId": string(rune('A' + i)), "datasource": source, "expr": t.Expr, "legendFormat": t.Legend})
	}
	return targets
}

// Query is a query with where it comes from, as a Prometheus can run it: what a reader or Flagger fills in is filled in.
type Query struct{ Of, Expr string }

// Queries are all queries of the dashboards, the rules and the metric templates. Those of dashboards and templates are about the given
// namespace, workload and service.
func Queries(namespace, workload, service string) []Query {
	var queries []Query
	grafana := strings.NewReplacer("$__rate_interval", "5m", "$namespace", namespace, "$workload", workload, "$service", service)
	for _, d := range Dashboards() {
		for _, p := range d.Panels {
			for _, t := range p.Targets {
				queries = append(queries, Query{fmt.Sprintf("dashboard %s: %s", d.Name, p.Title), grafana.Replace(t.Expr)})
			}
		}
	}
	for _, g := range RuleGroups() {
		for _, r := range g.Rules {
			queries = append(queries, Query{"rule " + r.Record + r.Alert, r.Expr})
		}
	}
	flagger := strings.NewReplacer("{{ namespace }}", namespace, "{{ target }}", workload, "{{ service }}", service, "{{ interval }}", "1m")
	for _, t := range MetricTemplates() {
		queries = append(queries, Query{"metric template " + t.Name, flagger.Replace(t.Query)})
	}
	return queries
}

// DashboardConfigMap is a dashboard as the sidecar of Grafana's Helm chart finds it, by its label.
func DashboardConfigMap(name, namespace, json string) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": "tulle-dashboard-" + name, "namespace": namespace,
			"labels": map[string]any{"grafana_dashboard": "1", "app.kubernetes.io/part-of": "tulle"},
		},
		"data": map[string]any{"tulle-" + name + ".json": json},
	}
}

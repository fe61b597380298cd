package monitoring

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Rule is a recording rule or an alert. It is written as Prometheus reads it.
type Rule struct {
	Record      string            `json:"record,omitempty"`
	Alert       string            `json:"alert,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// RuleGroup is a group of rules that are evaluated one after the other.
type RuleGroup struct {
	Name  string `json:"name"`
	Rules []Rule `json:"rules"`
}

// Runbook is where the headings of docs/monitoring.md say what to do about an alert.
const Runbook = "https://github.com/tulle-mesh/tulle/blob/main/docs/monitoring.md#"

// RuleGroups are all rules.
func RuleGroups() []RuleGroup {
	return []RuleGroup{
		{"tulle.services", golden("service", "destination_namespace, destination_service, reporter")},
		{"tulle.edges", golden("edge", "source_namespace, source_workload, destination_namespace, destination_service, reporter")},
		{"tulle.traffic", trafficAlerts()},
		{"tulle.control-plane", controlPlaneAlerts()},
	}
}

// Rules is the PrometheusRule of the mesh.
func Rules(namespace string, s Settings) *unstructured.Unstructured {
	var groups []any
	for _, g := range RuleGroups() {
		var rules []any
		for _, r := range g.Rules {
			rules = append(rules, r.fields())
		}
		groups = append(groups, map[string]any{"name": g.Name, "rules": rules})
	}
	return s.object(PrometheusRule, namespace, map[string]any{"groups": groups})
}

func (r Rule) fields() map[string]any {
	fields := map[string]any{"expr": r.Expr}
	for name, value := range map[string]string{"record": r.Record, "alert": r.Alert, "for": r.For} {
		if value != "" {
			fields[name] = value
		}
	}
	for name, values := range map[string]map[string]string{"labels": r.Labels, "annotations": r.Annotations} {
		if len(values) == 0 {
			continue
		}
		all := map[string]any{}
		for k, v := range values {
			all[k] = v
		}
		fields[name] = all
	}
	return fields
}

// The failures that count as the server's: responses of 500 and above and, where gRPC hides them behind 200, its statuses UNKNOWN,
// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS.
const (
	failedHTTP = `response_code_class="5xx"`
	failedGRPC = `response_code_class!="5xx",grpc_status=~"2|4|12|13|14|15"`
)

// golden are the recording rules of the golden signals, by the labels of a level: traffic, errors, latency and, as what the mesh knows of
// saturation, the requests that a limit refused. Who reports stays apart, since both ends count the same requests: the source also those
// that arrived nowhere, the destination also those of clients without a proxy.
func golden(level, by string) []Rule {
	prefix := "tulle:" + level + "_"
	sum := func(metric, selector string) string {
		return "sum by (" + by + ") (rate(" + metric + "{" + selector + "}[5m]))"
	}
	orZero := func(expr string) string { return "(" + expr + " or 0 * " + prefix + "requests:rate5m)" }
	const requests = "envoy_tulle_requests_total"
	rules := []Rule{
		{Record: prefix + "requests:rate5m", Expr: sum(requests, "")},
		{Record: prefix + "errors:rate5m", Expr: orZero(sum(requests, failedHTTP)) + " + " + orZero(sum(requests, failedGRPC))},
		{Record: prefix + "error_ratio:rate5m", Expr: prefix + "errors:rate5m / (" + prefix + "requests:rate5m > 0)"},
		{Record: prefix + "refused:rate5m", Expr: sum(requests, `response_flags=~".*(UO|RL).*"`)},
		{Record: prefix + "plaintext_requests:rate5m", Expr: sum(requests, `mtls="false"`)},
	}
	for _, q := range []struct{ name, quantile string }{{"p50", "0.5"}, {"p90", "0.9"}, {"p99", "0.99"}} {
		rules = append(rules, Rule{
			Record: prefix + "request_duration_milliseconds:" + q.name + "_rate5m",
			Expr:   "histogram_quantile(" + q.quantile + ", sum by (le, " + by + ") (rate(envoy_tulle_request_duration_milliseconds_bucket[5m])))",
		})
	}
	return append(rules,
		Rule{Record: prefix + "tcp_connections_opened:rate5m", Expr: sum("envoy_tulle_tcp_connections_opened_total", "")},
		Rule{Record: prefix + "tcp_received_bytes:rate5m", Expr: sum("envoy_tulle_tcp_received_bytes_total", "")},
		Rule{Record: prefix + "tcp_sent_bytes:rate5m", Expr: sum("envoy_tulle_tcp_sent_bytes_total", "")},
	)
}

func alert(name, wait, severity, expr, summary, description string) Rule {
	return Rule{
		Alert: name, Expr: expr, For: wait, Labels: map[string]string{"severity": severity},
		Annotations: map[string]string{"summary": summary, "description": description, "runbook_url": Runbook + strings.ToLower(name)},
	}
}

func trafficAlerts() []Rule {
	return []Rule{
		alert("TulleHighErrorRatio", "5m", "warning",
			`tulle:service_error_ratio:rate5m > 0.05 and tulle:service_requests:rate5m > 0.1`,
			"Service {{ $labels.destination_namespace }}/{{ $labels.destination_service }} fails",
			"{{ $value | humanizePercentage }} of the requests to Service {{ $labels.destination_namespace }}/{{ $labels.destination_service }} "+
				"have failed for 5 minutes, as the {{ $labels.reporter }}s' proxies report."),
		alert("TulleMeshNotEncrypted", "1m", "critical",
			`tulle_mesh_condition{type="Encrypted",status="False"} == 1 and on (mesh_namespace, mesh) tulle_mesh_info{mtls=~"Strict.*"} == 1`,
			"Mesh {{ $labels.mesh_namespace }}/{{ $labels.mesh }} is Strict and not encrypted",
			"Proxies of namespace {{ $labels.mesh_namespace }} take plaintext although its mTLS mode is Strict ({{ $labels.reason }}). "+
				"The condition Encrypted of the Mesh says which."),
	}
}

func controlPlaneAlerts() []Rule {
	return []Rule{
		alert("TulleControlPlaneDown", "2m", "critical",
			`absent(up{job="`+Job+`"} == 1)`,
			"No replica of Tulle's control plane answers",
			"Prometheus has reached no replica of Tulle for 2 minutes. Traffic goes on with the configuration and certificates that proxies have; "+
				"pods of enrolled namespaces can't start."),
		alert("TulleProxiesOutOfSync", "5m", "warning",
			`sum by (mesh_namespace, mesh) (tulle_mesh_proxies{state="connected"}) - sum by (mesh_namespace, mesh) (tulle_mesh_proxies{state="programmed"}) > 0`,
			"Proxies of Mesh {{ $labels.mesh_namespace }}/{{ $labels.mesh }} do not hold its configuration",
			"{{ $value }} of the connected proxies of namespace {{ $labels.mesh_namespace }} have not acknowledged the current generation for 5 minutes. "+
				"The condition Programmed of the Mesh names them."),
		alert("TulleProxiesNotConnected", "10m", "warning",
			`sum by (mesh_namespace, mesh) (tulle_mesh_proxies{state="injected"}) - sum by (mesh_namespace, mesh) (tulle_mesh_proxies{state="connected"}) > 0`,
			"Proxies of Mesh {{ $labels.mesh_namespace }}/{{ $labels.mesh }} have no stream to the control plane",
			"{{ $value }} of the pods with a proxy in namespace {{ $labels.mesh_namespace }} have not been connected for 10 minutes: they keep what they have and learn nothing new."),
		alert("TulleConfigurationRejected", "1m", "warning",
			`tulle_mesh_condition{type="Programmed",status="False",reason="RejectedByProxy"} == 1`,
			"Proxies refuse configuration of Mesh {{ $labels.mesh_namespace }}/{{ $labels.mesh }}",
			"An Envoy refuses something that follows from the Mesh, and goes on with what it had. The condition Programmed has its words."),
		alert("TulleCertificateExpiring", "5m", "critical",
			`min by (certificate) (tulle_certificate_not_after_timestamp_seconds - time()) / `+
				`min by (certificate) (tulle_certificate_not_after_timestamp_seconds - tulle_certificate_not_before_timestamp_seconds) < 0.2`,
			"Tulle's certificate {{ $labels.certificate }} is about to expire",
			"Less than a fifth of the lifetime of the certificate {{ $labels.certificate }} is left, and cert-manager has not renewed it. "+
				"When it has expired, the mesh can't issue certificates, and calls between workloads fail as theirs expire."),
		alert("TulleWorkloadCertificatesExpiring", "1m", "critical",
			`(tulle_mesh_certificate_not_after_timestamp_seconds - time()) / scalar(max(tulle_workload_certificate_lifetime_seconds)) < 0.1`,
			"Certificates of workloads of Mesh {{ $labels.mesh_namespace }}/{{ $labels.mesh }} are about to expire",
			"A proxy of namespace {{ $labels.mesh_namespace }} has less than a tenth of its certificate's lifetime left and got no new one. "+
				"The condition Issued of the Mesh says whether the mesh can issue certificates; TulleProxiesNotConnected whether the proxy is out of touch."),
	}
}

package monitoring

// MetricTemplate is a query that Flagger decides by. In it, Flagger (v1.36) fills in {{ namespace }} and {{ target }} of the canary, {{ service }}
// and {{ interval }}.
type MetricTemplate struct {
	Name, Query string
}

// FlaggerAddress is where Flagger is told to ask. People change it to their Prometheus's.
const FlaggerAddress = "http://prometheus-operated.monitoring:9090"

// MetricTemplates are those for Flagger's success rate, in percent, and request duration, in milliseconds. They look at what the Service's name
// receives at the canary's pods: the requests that reached workload {{ target }}'s canary are those of Service {{ service }}-canary and, through
// a TrafficSplit, those of {{ service }} that went there, which both count as the Service's backend {{ service }}-canary.
func MetricTemplates() []MetricTemplate {
	const canary = `destination_namespace="{{ namespace }}",destination_service="{{ service }}-canary"`
	return []MetricTemplate{
		{"tulle-request-success-rate", `100 - 100 * (
  (sum(rate(envoy_tulle_requests_total{reporter="source",` + canary + `,` + failedHTTP + `}[{{ interval }}])) or vector(0))
  + (sum(rate(envoy_tulle_requests_total{reporter="source",` + canary + `,` + failedGRPC + `}[{{ interval }}])) or vector(0))
)
/ sum(rate(envoy_tulle_requests_total{reporter="source",` + canary + `}[{{ interval }}]))`},
		{"tulle-request-duration", `histogram_quantile(0.99,
  sum by (le) (rate(envoy_tulle_request_duration_milliseconds_bucket{reporter="destination",` + canary + `}[{{ interval }}])))`},
	}
}

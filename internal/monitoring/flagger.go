package monitoring

// MetricTemplate is a query that Flagger decides by. In it, Flagger (v1.36) fills in {{ namespace }} and {{ target }} of the canary, {{ service }}
// and {{ interval }}.
type MetricTemplate struct {
	Name, Query string
}

// FlaggerAddress is where Flagger is told to ask. People change it to their Prometheus's.
const FlaggerAddress = "http://prometheus-operated.monitoring:9090"

// MetricTemplates are those for Flagger's success rate, in percent, and request duration, in milliseconds. Both look at the canary's own pods:
// Flagger has them behind the Service {{ service }}-canary, as which what a TrafficSplit sends there counts, too. The success rate is that of
// the clients' proxies, which also know what arrived nowhere; where no client has a proxy, it is that of the pods' own.
func MetricTemplates() []MetricTemplate {
	const canary = `destination_namespace="{{ namespace }}",destination_service="{{ service }}-canary"`
	requests := func(reporter, selector string) string {
		return `sum(rate(envoy_tulle_requests_total{reporter="` + reporter + `",` + canary + selector + `}[{{ interval }}]))`
	}
	success := func(reporter string) string {
		return "100 - 100 * ((" + requests(reporter, ","+failedHTTP) + " or vector(0)) + (" + requests(reporter, ","+failedGRPC) + " or vector(0))) / " +
			requests(reporter, "")
	}
	return []MetricTemplate{
		{"tulle-request-success-rate", "(" + success("source") + ")\nor\n(" + success("destination") + ")"},
		{"tulle-request-duration", `histogram_quantile(0.99, sum by (le) (rate(envoy_tulle_request_duration_milliseconds_bucket{` +
			canary + `}[{{ interval }}])))`},
	}
}

// MetricTemplateObjects are the MetricTemplates as Flagger's objects.
func MetricTemplateObjects() []map[string]any {
	var objects []map[string]any
	for _, t := range MetricTemplates() {
		objects = append(objects, map[string]any{
			"apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate", "metadata": map[string]any{"name": t.Name},
			"spec": map[string]any{"provider": map[string]any{"type": "prometheus", "address": FlaggerAddress}, "query": t.Query},
		})
	}
	return objects
}

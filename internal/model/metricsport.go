package model

import "strings"

// MetricsPort says whether a Service's port of that name serves Prometheus metrics: it is named metrics or prometheus, or ends with
// -metrics or -prometheus, as in http-metrics. One that begins with https- or tls- does not count: what the app itself
// encrypts nobody else can hand on.
func MetricsPort(name string) bool {
	if strings.HasPrefix(name, "https-") || strings.HasPrefix(name, "tls-") {
		return false
	}
	for _, word := range []string{"metrics", "prometheus"} {
		if name == word || strings.HasSuffix(name, "-"+word) {
			return true
		}
	}
	return false
}

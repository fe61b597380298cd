package model

import "testing"

func TestMetricsPort(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"metrics": true, "http-metrics": true, "prometheus": true, "admin-prometheus": true,
		"": false, "http": false, "https-metrics": false, "tls-metrics": false, "biometrics": false, "metrics-http": false,
	} {
		if got := MetricsPort(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

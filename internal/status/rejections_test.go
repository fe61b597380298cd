package status

import "testing"

func TestCauseOfARejection(t *testing.T) {
	for _, c := range []struct {
		want   string
		fields []string
	}{
		{"", nil},
		{"", []string{""}},
		{"spec.services[0]", []string{"spec.services[0]"}},
		// A rule is meant, and not the service that it is of.
		{"spec.services[0].routes[0]", []string{"spec.services[0]", "spec.services[0].routes[0]"}},
		{"spec.services[0].routes[0]", []string{"", "spec.services[0]", "spec.services[0].routes[0]", "spec.services[0].routes[0]"}},
		// Envoy does not say which of several rules.
		{"spec.services[0].routes", []string{"spec.services[0]", "spec.services[0].routes[0]", "spec.services[0].routes[1]"}},
		{"spec.services[1].routes", []string{"spec.services[1].routes[1]", "spec.services[1].routes[10]"}},
		{"spec.services", []string{"spec.services[1].routes[1]", "spec.services[10]"}},
		{"spec", []string{"spec.mtls", "spec.proxy"}},
		{"", []string{"spec.mtls", "metadata"}},
	} {
		if got := cause(c.fields); got != c.want {
			t.Errorf("cause(%q) = %q, want %q", c.fields, got, c.want)
		}
	}
}

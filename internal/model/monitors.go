package model

import (
	"maps"
	"slices"
	"strings"
	"time"

	labelsyntax "k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// leastScrapeInterval is the shortest time between scrapes that a Mesh may ask for.
const leastScrapeInterval = time.Second

// managedByLabel marks what Tulle made, so it is not the Mesh's to set.
const managedByLabel = "app.kubernetes.io/managed-by"

// MonitorSettings are the effective settings of a namespace's monitors.
type MonitorSettings struct {
	Mode v1alpha1.MonitorMode
	// Labels of the monitors; valid ones only.
	Labels map[string]string
	// Interval between scrapes; 0 where nobody set one.
	Interval time.Duration
}

// monitorSettings leaves out what makes no sense, which validate reports. An unknown mode counts as not set.
func (v *values) monitorSettings() MonitorSettings {
	m := MonitorSettings{Mode: v1alpha1.MonitorsAuto}
	if validMonitors(v.monitors) {
		m.Mode = v.monitors
	}
	for key, value := range v.labels {
		if labelError(key, value) != "" {
			continue
		}
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		m.Labels[key] = value
	}
	if v.interval != nil {
		if d, ok := parseDuration(*v.interval); ok && d >= leastScrapeInterval {
			m.Interval = d
		}
	}
	return m
}

func (v *validation) monitors(set *values) {
	const field = "spec.observability.metrics"
	if set.monitors != "" && !validMonitors(set.monitors) {
		v.refuse(field+".serviceMonitor", ReasonInvalidValue, "unknown mode %q; give Auto, Always or Never", set.monitors)
	}
	for _, key := range slices.Sorted(maps.Keys(set.labels)) {
		if wrong := labelError(key, set.labels[key]); wrong != "" {
			v.refuse(field+".labels", ReasonInvalidValue, "label %q is left out: %s", key, wrong)
		}
	}
	v.duration(field+".interval", set.interval, leastScrapeInterval)
}

func validMonitors(m v1alpha1.MonitorMode) bool {
	return m == v1alpha1.MonitorsAuto || m == v1alpha1.MonitorsAlways || m == v1alpha1.MonitorsNever
}

// labelError says why a label can't be set on monitors; empty when it can.
func labelError(key, value string) string {
	if key == managedByLabel {
		return "it is how Tulle knows what it made; remove it"
	}
	wrong := append(labelsyntax.IsQualifiedName(key), labelsyntax.IsValidLabelValue(value)...)
	return strings.Join(wrong, "; ")
}

// MetricsPorts returns the names, sorted, of the ports for metrics that Services of a namespace have.
func (s *Snapshot) MetricsPorts(namespace string) []string {
	names := map[string]bool{}
	scan(s, Key{Kind: KindService, Namespace: namespace}, func(_ Key, service *Service) {
		for _, p := range service.Ports {
			if MetricsPort(p.Name) {
				names[p.Name] = true
			}
		}
	})
	return slices.Sorted(maps.Keys(names))
}

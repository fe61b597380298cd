package inject

import (
	"cmp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// The usual annotations by which a Prometheus finds the metrics of a pod. They are a convention of its example configuration, which takes
// the port and the path as they are.
const (
	scrapeAnnotation = "prometheus.io/scrape"
	portAnnotation   = "prometheus.io/port"
	pathAnnotation   = "prometheus.io/path"
	schemeAnnotation = "prometheus.io/scheme"
)

// metricsAnnotations points the annotations for Prometheus at the proxy's stats port, which hands on what is there under Strict too, and keeps for the
// control plane where it really is. With https the app itself encrypts, which nobody can hand on: those stay as they are.
func metricsAnnotations(pod *corev1.Pod) map[string]string {
	a := pod.Annotations
	if _, said := a[scrapeAnnotation]; said && a[scrapeAnnotation] != "true" {
		return map[string]string{sidecar.MetricsAnnotation: sidecar.NoMetrics}
	}
	port, err := strconv.ParseUint(a[portAnnotation], 10, 16)
	if a[scrapeAnnotation] != "true" || err != nil || port == 0 || port == sidecar.StatsPort || strings.EqualFold(a[schemeAnnotation], "https") {
		return map[string]string{}
	}
	path := cmp.Or(a[pathAnnotation], "/metrics")
	if strings.ContainsAny(path, "?#, ") {
		return map[string]string{} // not a plain path: Prometheus would not take it as one either
	}
	where := strconv.FormatUint(port, 10) + "/" + strings.TrimPrefix(path, "/")
	return map[string]string{
		sidecar.MetricsAnnotation: where,
		portAnnotation:            strconv.Itoa(sidecar.StatsPort),
		pathAnnotation:            sidecar.AppMetricsPrefix + where,
	}
}

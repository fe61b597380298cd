package model

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Bounds of what a pod may have its proxy hand on.
const (
	maxMetrics     = 32
	maxMetricsPath = 1024
)

// readMetrics reads sidecar.MetricsAnnotation. What can't be parsed is left out.
func readMetrics(text string) (all []AppMetrics, none bool) {
	if strings.TrimSpace(text) == sidecar.NoMetrics {
		return nil, true
	}
	for item := range strings.SplitSeq(text, ",") {
		number, path, ok := strings.Cut(strings.TrimSpace(item), "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if !ok || err != nil || !metricsAt(uint16(port), path) {
			continue
		}
		all = append(all, AppMetrics{uint16(port), "/" + path})
		if len(all) == maxMetrics {
			break
		}
	}
	return all, false
}

// metricsAt reports whether an app can have metrics there: not at the proxy's own ports, and under a path that is one.
func metricsAt(port uint16, path string) bool {
	switch port {
	case 0, sidecar.OutboundPort, sidecar.InboundPort, sidecar.StatsPort, sidecar.ProbePort:
		return false
	}
	odd := func(r rune) bool { return r <= ' ' || r > '~' || r == '?' || r == '#' }
	return len(path) < maxMetricsPath && !strings.ContainsFunc(path, odd)
}

// metricsOf returns where a pod says that it has metrics, and where its Services do by the names of their ports.
func (n *namespace) metricsOf(p *pod) []AppMetrics {
	if p.injected.noMetrics {
		return nil
	}
	all := slices.Clone(p.injected.metrics)
	for _, s := range n.selecting(p) {
		for _, port := range s.ports {
			if number, ok := p.target(port); ok && MetricsPort(port.name) && metricsAt(number, "") {
				all = append(all, AppMetrics{number, "/metrics"})
			}
		}
	}
	slices.SortFunc(all, func(a, b AppMetrics) int { return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Path, b.Path)) })
	all = slices.Compact(all)
	return all[:min(len(all), maxMetrics)]
}

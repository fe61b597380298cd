package model

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// values are the namespace-level fields of a Mesh that were set.
type values struct {
	podSelector *metav1.LabelSelector
	resources   *corev1.ResourceRequirements
	concurrency *int32
	logLevel    v1alpha1.LogLevel
	drain       *v1alpha1.Duration
	mode        v1alpha1.MTLSMode
	ports       []v1alpha1.PortMTLS
	accessLog   v1alpha1.AccessLogMode
	monitors    v1alpha1.MonitorMode
	labels      map[string]string
	interval    *v1alpha1.Duration
}

func valuesOf(spec *v1alpha1.MeshSpec) *values {
	proxy, mtls, metrics := deref(spec.Proxy), deref(spec.MTLS), deref(deref(spec.Observability).Metrics)
	return &values{
		podSelector: proxy.PodSelector,
		resources:   proxy.Resources,
		concurrency: proxy.Concurrency,
		logLevel:    proxy.LogLevel,
		drain:       proxy.DrainDuration,
		mode:        mtls.Mode,
		ports:       mtls.Ports,
		accessLog:   deref(deref(spec.Observability).AccessLog).Mode,
		monitors:    metrics.ServiceMonitor,
		labels:      metrics.Labels,
		interval:    metrics.Interval,
	}
}

// field is a namespace-level field: what one Mesh of a namespace may claim, and what the root is the default of.
type field struct {
	path  string
	isSet func(*values) bool
	// take copies the field if it is set.
	take func(to, from *values)
}

func namespaceFields() []field {
	return []field{
		newField("spec.proxy.podSelector", func(v *values) **metav1.LabelSelector { return &v.podSelector }),
		newField("spec.proxy.resources", func(v *values) **corev1.ResourceRequirements { return &v.resources }),
		newField("spec.proxy.concurrency", func(v *values) **int32 { return &v.concurrency }),
		newField("spec.proxy.logLevel", func(v *values) *v1alpha1.LogLevel { return &v.logLevel }),
		newField("spec.proxy.drainDuration", func(v *values) **v1alpha1.Duration { return &v.drain }),
		newField("spec.mtls.mode", func(v *values) *v1alpha1.MTLSMode { return &v.mode }),
		{
			path:  "spec.mtls.ports",
			isSet: func(v *values) bool { return len(v.ports) > 0 },
			take: func(to, from *values) {
				if len(from.ports) > 0 {
					to.ports = from.ports
				}
			},
		},
		newField("spec.observability.accessLog.mode", func(v *values) *v1alpha1.AccessLogMode { return &v.accessLog }),
		newField("spec.observability.metrics.serviceMonitor", func(v *values) *v1alpha1.MonitorMode { return &v.monitors }),
		{
			path:  "spec.observability.metrics.labels",
			isSet: func(v *values) bool { return len(v.labels) > 0 },
			take: func(to, from *values) {
				if len(from.labels) > 0 {
					to.labels = from.labels
				}
			},
		},
		newField("spec.observability.metrics.interval", func(v *values) **v1alpha1.Duration { return &v.interval }),
	}
}

func newField[T comparable](path string, of func(*values) *T) field {
	var unset T
	return field{
		path:  path,
		isSet: func(v *values) bool { return *of(v) != unset },
		take: func(to, from *values) {
			if value := *of(from); value != unset {
				*of(to) = value
			}
		},
	}
}

// namespace makes the node. Values that make no sense, which validate reports, count as not set; an unknown mTLS mode counts
// as Strict, so that a typing error never opens a port.
func (v *values) namespace(name string, meshed bool) *Namespace {
	n := builtin(name)
	n.Meshed = meshed
	n.Proxy.Resources = v.resources
	if v.concurrency != nil && *v.concurrency >= 1 && *v.concurrency <= maxConcurrency {
		n.Proxy.Concurrency = *v.concurrency
	}
	if validLogLevel(v.logLevel) {
		n.Proxy.LogLevel = strings.ToLower(string(v.logLevel))
	}
	if v.drain != nil {
		if d, ok := parseDuration(*v.drain); ok {
			n.Proxy.DrainDuration = d
		}
	}
	if validAccessLog(v.accessLog) {
		n.AccessLog = v.accessLog
	}
	n.Monitors = v.monitorSettings()
	if !meshed {
		return n
	}
	if v.mode != "" {
		n.Mode = knownMode(v.mode)
	}
	n.Ports = portModes(v.ports)
	n.Proxy.PodSelector = labels.Everything()
	if v.podSelector != nil {
		selector, err := metav1.LabelSelectorAsSelector(v.podSelector)
		if err != nil {
			n.InvalidSelector = "spec.proxy.podSelector of its Mesh: " + err.Error()
			selector = labels.Nothing()
		}
		n.Proxy.PodSelector = selector
	}
	return n
}

func portModes(ports []v1alpha1.PortMTLS) []PortMode {
	var modes []PortMode
	for _, p := range ports {
		number, ok := portNumber(p.Port)
		if !ok || slices.ContainsFunc(modes, func(m PortMode) bool { return m.Number == number }) {
			continue
		}
		modes = append(modes, PortMode{number, knownMode(p.Mode)})
	}
	slices.SortFunc(modes, func(a, b PortMode) int { return cmp.Compare(a.Number, b.Number) })
	return modes
}

func knownMode(m v1alpha1.MTLSMode) v1alpha1.MTLSMode {
	if validMode(m) {
		return m
	}
	return v1alpha1.MTLSStrict
}

// Package monitoring makes the objects by which others watch the mesh: monitors and rules for the Prometheus Operator, Grafana's
// dashboards, and Flagger's metric templates. It is pure. Others' kinds are written field by field (see decision 16).
package monitoring

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Name of every object of the Prometheus Operator that Tulle makes.
const Name = "tulle"

// Job is the label job of what a Prometheus scrapes from the operator itself.
const Job = "tulle"

// APIVersion of the Prometheus Operator's kinds.
const APIVersion = "monitoring.coreos.com/v1"

// Kinds of the Prometheus Operator.
const (
	PodMonitor     = "PodMonitor"
	ServiceMonitor = "ServiceMonitor"
	PrometheusRule = "PrometheusRule"
	Prometheus     = "Prometheus"
)

// GVK returns the group, version and kind of a kind of the Prometheus Operator.
func GVK(kind string) schema.GroupVersionKind { return schema.FromAPIVersionAndKind(APIVersion, kind) }

// Settings of monitors.
type Settings struct {
	// Labels that the Mesh asks for.
	Labels map[string]string
	// Interval between scrapes; 0 leaves it to the Prometheus.
	Interval time.Duration
	// Owners are the Meshes that the objects are made for, and deleted with.
	Owners []metav1.OwnerReference
}

// maxPorts bounds the ports for metrics that one monitor names.
const maxPorts = 64

// Proxies returns the PodMonitor of a namespace's proxies. Their port is that of an init container, whose ports Prometheus finds as it
// finds those of others (discovery/kubernetes/pod.go), and is named, as the Prometheus Operator keeps declared ports alone.
func Proxies(namespace string, s Settings) *unstructured.Unstructured {
	endpoint := map[string]any{"port": sidecar.StatsPortName, "path": sidecar.StatsPath}
	s.interval(endpoint)
	return s.object(PodMonitor, namespace, map[string]any{
		"selector":            map[string]any{},
		"podMetricsEndpoints": []any{endpoint},
	})
}

// Services returns the ServiceMonitor of the Services of a namespace that have a port for metrics of one of these names. The proxy of a pod
// hands on what the app serves there, so that nobody else may speak to the app in plaintext; pods without proxy are scraped themselves.
func Services(namespace string, ports []string, s Settings) *unstructured.Unstructured {
	var endpoints []any
	for _, port := range ports[:min(len(ports), maxPorts)] {
		endpoint := map[string]any{"port": port, "relabelings": throughProxy()}
		s.interval(endpoint)
		endpoints = append(endpoints, endpoint)
	}
	return s.object(ServiceMonitor, namespace, map[string]any{
		// What Tulle itself makes, such as a Service for each version, has the same pods once more.
		"selector": map[string]any{"matchExpressions": []any{
			map[string]any{"key": managedByLabel, "operator": "NotIn", "values": []any{"tulle"}},
		}},
		"endpoints": endpoints,
	})
}

const managedByLabel = "app.kubernetes.io/managed-by"

// throughProxy sends a scrape of a pod with a proxy to the proxy's port for statistics. The target goes on being called what it is.
func throughProxy() []any {
	const injected = "__meta_kubernetes_pod_annotationpresent_mesh_tulle_dev_sidecar"
	const address = "__address__"
	return []any{
		map[string]any{"sourceLabels": []any{"__meta_kubernetes_pod_annotation_prometheus_io_scrape"}, "regex": "false", "action": "drop"},
		map[string]any{"sourceLabels": []any{address}, "targetLabel": "instance"},
		map[string]any{
			"sourceLabels": []any{injected, address}, "regex": `true;.+:(\d+)`,
			"targetLabel": "__metrics_path__", "replacement": sidecar.AppMetricsPrefix + "${1}/metrics",
		},
		map[string]any{
			"sourceLabels": []any{injected, address}, "regex": `true;(.+):\d+`,
			"targetLabel": address, "replacement": "${1}:" + strconv.Itoa(sidecar.StatsPort),
		},
	}
}

// Operator returns the ServiceMonitor of the operator itself, in its own namespace.
func Operator(namespace string, s Settings) *unstructured.Unstructured {
	endpoint := map[string]any{"port": "metrics", "honorLabels": true} // some of its metrics have labels namespace and pod
	s.interval(endpoint)
	return s.object(ServiceMonitor, namespace, map[string]any{
		"selector": map[string]any{"matchLabels": map[string]any{
			"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "metrics",
		}},
		"jobLabel":  "app.kubernetes.io/name",
		"endpoints": []any{endpoint},
	})
}

// object returns an object of a kind of the Prometheus Operator.
func (s Settings) object(kind, namespace string, spec map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetGroupVersionKind(GVK(kind))
	u.SetNamespace(namespace)
	u.SetName(Name)
	u.SetLabels(maps.Clone(s.Labels))
	u.SetOwnerReferences(s.Owners)
	return u
}

func (s Settings) interval(endpoint map[string]any) {
	if s.Interval > 0 {
		endpoint["interval"] = duration(s.Interval)
	}
}

// duration writes a duration in Prometheus's syntax, which knows no fractions.
func duration(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

package monitoring

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// What a Prometheus Operator is given.
func TestObjects(t *testing.T) {
	t.Parallel()
	settings := Settings{
		Labels: map[string]string{"release": "prometheus"}, Interval: 90 * time.Second,
		Owners: []metav1.OwnerReference{{APIVersion: "mesh.tulle.dev/v1alpha1", Kind: "Mesh", Name: "shop", UID: "u"}},
	}
	for _, test := range []struct {
		got  any
		want string
	}{
		{Proxies("shop", settings), `apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: tulle, namespace: shop, labels: {release: prometheus}, ownerReferences: [{apiVersion: mesh.tulle.dev/v1alpha1, kind: Mesh, name: shop, uid: u}]}
spec:
  selector: {}
  podMetricsEndpoints:
  - {port: tulle-stats, path: /stats/prometheus, interval: 90s}
`},
		{Services("shop", []string{"http-metrics"}, Settings{}), `apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: tulle, namespace: shop}
spec:
  selector: {matchExpressions: [{key: app.kubernetes.io/managed-by, operator: NotIn, values: [tulle]}]}
  endpoints:
  - port: http-metrics
    relabelings:
    - {sourceLabels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "false", action: drop}
    - {sourceLabels: [__address__], targetLabel: instance}
    - sourceLabels: [__meta_kubernetes_pod_annotationpresent_mesh_tulle_dev_sidecar, __address__]
      regex: true;.+:(\d+)
      targetLabel: __metrics_path__
      replacement: /app/${1}/metrics
    - sourceLabels: [__meta_kubernetes_pod_annotationpresent_mesh_tulle_dev_sidecar, __address__]
      regex: true;(.+):\d+
      targetLabel: __address__
      replacement: ${1}:15020
`},
		{Operator("tulle-system", Settings{Interval: 1500 * time.Millisecond}), `apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: tulle, namespace: tulle-system}
spec:
  jobLabel: app.kubernetes.io/name
  selector: {matchLabels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: metrics}}
  endpoints:
  - {port: metrics, honorLabels: true, interval: 1500ms}
`},
	} {
		got, err := yaml.Marshal(test.got)
		if err != nil {
			t.Fatal(err)
		}
		want, err := yaml.YAMLToJSON([]byte(test.want))
		if err != nil {
			t.Fatal(err)
		}
		wanted, err := yaml.JSONToYAML(want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(wanted), string(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

package monitoring

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Who takes up the PodMonitor of namespace shop, which has the label release=prometheus.
func TestSelect(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spec, refusal string // no refusal: it is selected
	}{
		"everything":        {spec: `{podMonitorSelector: {}, podMonitorNamespaceSelector: {}}`},
		"by a label":        {spec: `{podMonitorSelector: {matchLabels: {release: prometheus}}, podMonitorNamespaceSelector: {}}`},
		"by another label":  {spec: `{podMonitorSelector: {matchLabels: {release: kube, team: a}}, podMonitorNamespaceSelector: {}}`, refusal: "set spec.observability.metrics.labels to {release: kube, team: a}"},
		"by one of two":     {spec: `{podMonitorSelector: {matchExpressions: [{key: release, operator: In, values: [b, a]}]}, podMonitorNamespaceSelector: {}}`, refusal: "to {release: a}"},
		"but not this":      {spec: `{podMonitorSelector: {matchExpressions: [{key: release, operator: NotIn, values: [prometheus]}]}, podMonitorNamespaceSelector: {}}`, refusal: "to labels that fit"},
		"without a label":   {spec: `{podMonitorSelector: {matchExpressions: [{key: release, operator: DoesNotExist}]}, podMonitorNamespaceSelector: {}}`, refusal: "to labels that fit"},
		"no PodMonitor":     {spec: `{serviceMonitorSelector: {}}`, refusal: "selects no PodMonitor: it has no podMonitorSelector"},
		"own namespace":     {spec: `{podMonitorSelector: {}}`, refusal: "looks in its own namespace only: set its podMonitorNamespaceSelector"},
		"this namespace":    {spec: `{podMonitorSelector: {}, podMonitorNamespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}`},
		"another namespace": {spec: `{podMonitorSelector: {}, podMonitorNamespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bank}}}`, refusal: "looks in other namespaces"},
		// Namespaces' other labels are not known: it may be.
		"some namespaces": {spec: `{podMonitorSelector: {}, podMonitorNamespaceSelector: {matchLabels: {monitored: "yes"}}}`},
		"nonsense":        {spec: `{podMonitorSelector: {matchExpressions: [{key: a, operator: Near}]}}`, refusal: "can't be read"},
		"a list":          {spec: `{podMonitorSelector: []}`, refusal: "can't be read"},
		"nothing":         {spec: `{}`, refusal: "selects no PodMonitor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte("{kind: Prometheus, metadata: {namespace: monitoring, name: k8s}, spec: "+test.spec+"}"), &p.Object); err != nil {
				t.Fatal(err)
			}
			got := Select([]unstructured.Unstructured{p}, Proxies("shop", Settings{Labels: map[string]string{"release": "prometheus"}}))
			if test.refusal == "" {
				if len(got.By) != 1 || got.By[0] != "monitoring/k8s" || len(got.Refusals) != 0 {
					t.Errorf("got %+v", got)
				}
				return
			}
			if len(got.By) != 0 || len(got.Refusals) != 1 || !strings.HasPrefix(got.Refusals[0], "Prometheus monitoring/k8s ") || !strings.Contains(got.Refusals[0], test.refusal) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/monitoring"
	"github.com/tulle-mesh/tulle/internal/operator"
)

// TestMonitors follows the monitors of a Mesh on a cluster that gets the Prometheus Operator's kinds late and loses them again.
func TestMonitors(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	registry := prometheus.NewRegistry()
	w.start(func(o *operator.Options) { o.Registry = registry })
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, w.service("shop", "web", "http", "http-metrics"))
	shop := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}}
	always := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "bank"}, Spec: monitors(v1alpha1.MonitorsAlways)}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bank"}}, always, shop)

	w.monitored("shop", metav1.ConditionFalse, "MonitoringCRDsMissing", "podmonitors.monitoring.coreos.com v1")
	w.tells("shop", "shop", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "")
	w.tells("bank", "bank", v1alpha1.ConditionReady, metav1.ConditionFalse, "MonitoringCRDsMissing", "the cluster has no podmonitors.monitoring.coreos.com v1")

	w.installMonitoring()
	w.monitored("shop", metav1.ConditionTrue, "Monitored", "PodMonitor tulle and ServiceMonitor tulle exist; there is no Prometheus object")
	w.tells("bank", "bank", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "")
	pods, services := w.monitor("shop", monitoring.PodMonitor), w.monitor("shop", monitoring.ServiceMonitor)
	for _, o := range []*unstructured.Unstructured{pods, services, w.monitor("bank", monitoring.PodMonitor), w.monitor(system, monitoring.ServiceMonitor), w.monitor(system, monitoring.PrometheusRule)} {
		if o.GetLabels()["app.kubernetes.io/managed-by"] != "tulle" {
			t.Errorf("%s %s has labels %v", o.GetKind(), o.GetNamespace(), o.GetLabels())
		}
		if owners := o.GetOwnerReferences(); o.GetNamespace() == system == (len(owners) == 1) {
			t.Errorf("%s %s has owners %v", o.GetKind(), o.GetNamespace(), owners)
		}
	}
	if owner := pods.GetOwnerReferences()[0]; owner.UID != shop.UID || owner.Kind != "Mesh" || owner.Name != "shop" {
		t.Errorf("owner %+v, want the Mesh", owner)
	}
	if err := w.get(newMonitor("bank", monitoring.ServiceMonitor)); err == nil {
		t.Error("a ServiceMonitor in a namespace without ports for metrics")
	}

	// t.Run keeps the steps apart; each goes on from the one before.
	t.Run("people", func(t *testing.T) { w.in(t).peopleMeddle(pods) })
	t.Run("settings", func(t *testing.T) { w.in(t).monitorsAreSet(shop) })
	t.Run("prometheus", func(t *testing.T) { w.in(t).prometheusSelects(shop) })
	t.Run("metrics", func(t *testing.T) { exported(t, registry) })
	t.Run("foreign", func(t *testing.T) { w.in(t).foreignMonitor() })
	t.Run("gone", func(t *testing.T) { w.in(t).monitoringGoes(shop) })
}

// exported holds that the operator's own metrics are those that docs/monitoring.md lists, and that the alerts' are there.
func exported(t *testing.T, registry *prometheus.Registry) {
	document, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	gather := func() {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		clear(values)
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "tulle_") && !strings.Contains(string(document), "| `"+f.GetName()+"` | "+strings.ToLower(f.GetType().String())+" |") {
				t.Fatalf("docs/monitoring.md does not list %s, a %s", f.GetName(), f.GetType())
			}
			for _, m := range f.GetMetric() {
				key := f.GetName()
				for _, l := range m.GetLabel() {
					key += " " + l.GetValue()
				}
				values[key] = m.GetGauge().GetValue()
			}
		}
	}
	for _, want := range []string{
		"tulle_mesh_info shop shop Permissive", "tulle_mesh_condition bank bank Monitored True Monitored", "tulle_mesh_proxies shop shop connected",
		"tulle_certificate_not_after_timestamp_seconds root", "tulle_certificate_not_after_timestamp_seconds intermediate",
		"tulle_certificate_not_after_timestamp_seconds webhook", "tulle_certificate_not_before_timestamp_seconds control-plane",
		"tulle_workload_certificate_lifetime_seconds", "tulle_compile_cached_resources", "tulle_xds_streams",
	} {
		eventually(t, want, func() error { // the step before may not have reached all Meshes yet
			if gather(); !has(values, want) {
				return fmt.Errorf("not in %v", values)
			}
			return nil
		})
	}
	if left := values["tulle_certificate_not_after_timestamp_seconds intermediate"] - float64(time.Now().Unix()); left < 3600 {
		t.Errorf("the intermediate is valid for %v s", left)
	}
}

func has(values map[string]float64, key string) bool {
	_, ok := values[key]
	return ok
}

// peopleMeddle edits, adds to and deletes a monitor.
func (w *world) peopleMeddle(pods *unstructured.Unstructured) {
	want := pods.Object["spec"]
	for what, edit := range map[string]func(spec map[string]any){
		"edited": func(spec map[string]any) {
			spec["podMetricsEndpoints"] = []any{map[string]any{"port": "other", "path": "/other"}}
		},
		"added": func(spec map[string]any) { spec["sampleLimit"] = int64(1) },
	} {
		w.update(pods, func() { edit(pods.Object["spec"].(map[string]any)) })
		w.eventually("what was "+what+" is put right", func() error {
			if err := w.get(pods); err != nil {
				return err
			}
			if fmt.Sprint(pods.Object["spec"]) != fmt.Sprint(want) {
				return fmt.Errorf("spec %v, want %v", pods.Object["spec"], want)
			}
			return nil
		})
	}
	w.event("shop", "PodMonitor", "tulle", "Reverted", "change spec.observability.metrics of a Mesh in namespace shop instead")
	services := w.monitor("shop", monitoring.ServiceMonitor)
	uid := services.GetUID()
	w.delete(services)
	w.eventually("what was deleted is made again", func() error {
		if err := w.get(services); err != nil {
			return err
		}
		if services.GetUID() == uid {
			return errors.New("it is the old one")
		}
		return nil
	})
	w.event("shop", "ServiceMonitor", "tulle", "Recreated", "it was deleted, and is needed for the mesh")
}

// monitorsAreSet gives labels and an interval, and takes all away and back.
func (w *world) monitorsAreSet(shop *v1alpha1.Mesh) {
	interval := v1alpha1.Duration("1m30s")
	w.update(shop, func() {
		shop.Spec = monitors("")
		shop.Spec.Observability.Metrics.Labels = map[string]string{"release": "prometheus"}
		shop.Spec.Observability.Metrics.Interval = &interval
	})
	w.eventually("labels and interval", func() error {
		o := newMonitor("shop", monitoring.ServiceMonitor)
		if err := w.get(o); err != nil {
			return err
		}
		endpoints, _, _ := unstructured.NestedSlice(o.Object, "spec", "endpoints")
		if len(endpoints) != 1 || endpoints[0].(map[string]any)["interval"] != "90s" || o.GetLabels()["release"] != "prometheus" {
			return fmt.Errorf("endpoints %v, labels %v", endpoints, o.GetLabels())
		}
		return nil
	})
	w.update(shop, func() { shop.Spec.Observability.Metrics.ServiceMonitor = v1alpha1.MonitorsNever })
	w.monitored("shop", metav1.ConditionFalse, "Never", "there are no monitors")
	for _, kind := range []string{monitoring.PodMonitor, monitoring.ServiceMonitor} {
		w.eventually("no "+kind, func() error { return w.gone(newMonitor("shop", kind)) })
	}
	w.update(shop, func() { shop.Spec.Observability.Metrics.ServiceMonitor = v1alpha1.MonitorsAuto })
	w.monitored("shop", metav1.ConditionTrue, "Monitored", "exist")
}

// prometheusSelects has a Prometheus that selects by labels which the Mesh has not, and then has.
func (w *world) prometheusSelects(shop *v1alpha1.Mesh) {
	prometheus := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(`
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {namespace: shop, name: k8s}
spec:
  podMonitorSelector: {matchLabels: {release: kube}}
  podMonitorNamespaceSelector: {}
  serviceMonitorSelector: {}
  ruleSelector: {}
`), &prometheus.Object); err != nil {
		w.t.Fatal(err)
	}
	w.create(prometheus)
	w.monitored("shop", metav1.ConditionFalse, "NotSelected", "PodMonitor tulle is selected by no Prometheus: Prometheus shop/k8s selects by release=kube "+
		"(podMonitorSelector): set spec.observability.metrics.labels to {release: kube}")
	w.update(shop, func() { shop.Spec.Observability.Metrics.Labels = map[string]string{"release": "kube"} })
	w.monitored("shop", metav1.ConditionTrue, "Monitored", "PodMonitor tulle and ServiceMonitor tulle exist; selected by Prometheus shop/k8s")
	w.delete(prometheus)
	w.monitored("shop", metav1.ConditionTrue, "Monitored", "there is no Prometheus object")
}

// foreignMonitor has somebody else's PodMonitor in the place of ours.
func (w *world) foreignMonitor() {
	foreign := newMonitor("late", monitoring.PodMonitor)
	foreign.Object["spec"] = map[string]any{"selector": map[string]any{}, "podMetricsEndpoints": []any{map[string]any{"port": "theirs"}}}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, foreign)
	version := foreign.GetResourceVersion()
	late := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "late", Name: "late"}}
	w.create(late)
	w.monitored("late", metav1.ConditionFalse, "Conflicted", "PodMonitor late/tulle exists and was not made by Tulle")
	w.tells("late", "late", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "")
	if err := w.get(foreign); err != nil || foreign.GetResourceVersion() != version {
		w.t.Errorf("it was touched: version %s, was %s (%v)", foreign.GetResourceVersion(), version, err)
	}
	w.delete(foreign)
	w.monitored("late", metav1.ConditionTrue, "Monitored", "PodMonitor tulle exists")
	w.delete(late)
	w.eventually("what a deleted Mesh needed is gone", func() error { return w.gone(newMonitor("late", monitoring.PodMonitor)) })
}

// monitoringGoes takes the kinds away and brings them back.
func (w *world) monitoringGoes(shop *v1alpha1.Mesh) {
	for _, kind := range []string{"podmonitors", "servicemonitors", "prometheusrules", "prometheuses"} {
		definition := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: kind + ".monitoring.coreos.com"}}
		w.delete(definition)
		w.eventually("no "+kind, func() error { return w.gone(definition) })
	}
	w.monitored("shop", metav1.ConditionFalse, "MonitoringCRDsMissing", "none of the monitors exists")
	w.installMonitoring()
	w.monitored("shop", metav1.ConditionTrue, "Monitored", "PodMonitor tulle and ServiceMonitor tulle exist")
	if owner := w.monitor("shop", monitoring.PodMonitor).GetOwnerReferences()[0]; owner.UID != shop.UID {
		w.t.Errorf("owner %+v", owner)
	}
}

func monitors(mode v1alpha1.MonitorMode) v1alpha1.MeshSpec {
	return v1alpha1.MeshSpec{Observability: &v1alpha1.ObservabilitySpec{Metrics: &v1alpha1.MetricsSpec{ServiceMonitor: mode}}}
}

func newMonitor(namespace, kind string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(monitoring.GVK(kind))
	o.SetNamespace(namespace)
	o.SetName(monitoring.Name)
	return o
}

// monitor waits for an object that Tulle makes.
func (w *world) monitor(namespace, kind string) *unstructured.Unstructured {
	w.t.Helper()
	o := newMonitor(namespace, kind)
	w.eventually(kind+" of "+namespace, func() error { return w.get(o) })
	return o
}

// monitored waits for the condition of the Mesh that is named like its namespace.
func (w *world) monitored(namespace string, status metav1.ConditionStatus, reason, message string) {
	w.t.Helper()
	w.tells(namespace, namespace, v1alpha1.ConditionMonitored, status, reason, message)
}

// tells waits until a condition of a Mesh is as wanted, for its newest generation, with part of its message.
func (w *world) tells(namespace, name, condition string, status metav1.ConditionStatus, reason, part string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s=%s of Mesh %s/%s", condition, status, namespace, name), func() error {
		mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		if err := w.get(mesh); err != nil {
			return err
		}
		c := meta.FindStatusCondition(mesh.Status.Conditions, condition)
		if c == nil || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, part) || c.ObservedGeneration != mesh.Generation {
			return fmt.Errorf("got %+v, want %s %s of generation %d: %s", c, status, reason, mesh.Generation, part)
		}
		return nil
	})
}

// installMonitoring installs the Prometheus Operator's CustomResourceDefinitions.
func (w *world) installMonitoring() {
	w.t.Helper()
	dir := os.Getenv("TULLE_MONITORING_CRDS")
	if dir == "" {
		w.t.Fatal("TULLE_MONITORING_CRDS says where the Prometheus Operator's CustomResourceDefinitions are: run make test-integration")
	}
	var paths []string
	for _, kind := range []string{"podmonitors", "servicemonitors", "prometheusrules", "prometheuses"} {
		paths = append(paths, filepath.Join(dir, "monitoring.coreos.com_"+kind+".yaml"))
	}
	if _, err := envtest.InstallCRDs(w.admin, envtest.CRDInstallOptions{Paths: paths, ErrorIfPathMissing: true}); err != nil {
		w.t.Fatal(err)
	}
}

// service is a Service with ports of these names.
func (w *world) service(namespace, name string, ports ...string) client.Object {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for i, port := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: port, Port: int32(8080 + i)})
	}
	return s
}

// What the Prometheus Operator is given is what it knows: the API server refuses fields that a kind has not.
func TestMonitorsFitTheirKinds(t *testing.T) {
	w := newWorld(t)
	w.installMonitoring()
	strict := client.WithFieldValidation(w.client, metav1.FieldValidationStrict)
	settings := monitoring.Settings{Labels: map[string]string{"release": "x"}, Interval: 1500e6}
	for _, o := range []*unstructured.Unstructured{
		monitoring.Proxies("default", settings), monitoring.Services("default", []string{"metrics", "http-metrics"}, settings),
		monitoring.Operator(system, settings), monitoring.Rules(system, settings),
	} {
		w.eventually(o.GetKind(), func() error {
			err := strict.Create(context.Background(), o.DeepCopy())
			if err != nil && strings.Contains(err.Error(), "could not find the requested resource") {
				return err // not served yet
			}
			if err != nil {
				w.t.Errorf("%s: %v", o.GetKind(), err)
			}
			return nil
		})
	}
}

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/ingest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// TestHardening: what tenants, bugs and outages can't do.
func TestHardening(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	registry := prometheus.NewRegistry()
	o := w.start(func(o *operator.Options) {
		o.Excluded = []string{"cert-manager"}
		o.NewBuilder, o.Registry = newFaulty, registry
	})
	w.eventually("ready", w.ready)
	t.Run("rights", func(t *testing.T) { testRights(t, w.in(t)) })
	t.Run("ephemeral containers", func(t *testing.T) { testEphemeral(t, w.in(t)) })
	t.Run("objects that panic", func(t *testing.T) { testObjectsThatPanic(t, w.in(t), registry) })
	t.Run("outage", func(t *testing.T) { testOutage(t, w.in(t), o) })
}

// testRights: the operator has no rights on Namespaces, but to read its own; by what is installed and by what the API server says.
func testRights(t *testing.T, w *world) {
	for _, rule := range installedRules(t) {
		namespaces := slices.ContainsFunc(rule.Resources, func(r string) bool { return r == "*" || strings.HasPrefix(r, "namespaces") })
		if namespaces && (rule.cluster || !slices.Equal(rule.Verbs, []string{"get"})) {
			t.Errorf("dist/install.yaml: %+v", rule)
		}
		if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.Resources, "*") {
			t.Errorf("dist/install.yaml has a rule without bounds: %+v", rule)
		}
		writes := slices.ContainsFunc(rule.Verbs, func(v string) bool { return v != "get" && v != "list" && v != "watch" })
		// Of Services it makes one for each version of a weighted rule, which no role can tell from others by name.
		versions := slices.Equal(rule.Resources, []string{"services"}) && slices.Equal(rule.Verbs, []string{"create", "patch", "delete"})
		if writes && !versions && slices.ContainsFunc(rule.Resources, func(r string) bool { return slices.Contains([]string{"pods", "services", "nodes", "secrets"}, r) }) {
			t.Errorf("dist/install.yaml: %+v", rule)
		}
	}
	// A pod that others wait for does not itself wait for room.
	if raw, err := os.ReadFile("../../dist/install.yaml"); err != nil || !bytes.Contains(raw, []byte("kind: PriorityClass\n")) || !bytes.Contains(raw, []byte("priorityClassName: tulle\n")) {
		t.Errorf("dist/install.yaml gives the operator no priority (%v)", err)
	}
	for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
		for _, name := range []string{"", "default", system} {
			want := verb == "get" && name == system
			if got := w.mayOn("namespaces", verb, name); got != want {
				t.Errorf("%s of namespace %q: allowed %v, want %v", verb, name, got, want)
			}
		}
	}
}

type installedRule struct {
	rbacv1.PolicyRule
	cluster bool
}

// installedRules are those of all roles that dist/install.yaml binds to the operator.
func installedRules(t *testing.T) []installedRule {
	t.Helper()
	raw, err := os.ReadFile("../../dist/install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules []installedRule
	for _, document := range bytes.Split(raw, []byte("\n---\n")) {
		var role rbacv1.ClusterRole // a Role has the same fields
		if err := yaml.Unmarshal(document, &role); err != nil {
			t.Fatal(err)
		}
		if role.Name == "tulle-manager" && strings.HasSuffix(role.Kind, "Role") {
			for _, r := range role.Rules {
				rules = append(rules, installedRule{r, role.Kind == "ClusterRole"})
			}
		}
	}
	if len(rules) < 10 {
		t.Fatalf("only %d rules were found in dist/install.yaml", len(rules))
	}
	return rules
}

// mayOn asks the API server what the operator's service account may do.
func (w *world) mayOn(resource, verb, name string) bool {
	w.t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:" + system + ":tulle-manager", Groups: []string{"system:serviceaccounts", "system:authenticated"},
		// Of a Namespace, the API server takes the name for the namespace too.
		ResourceAttributes: &authorizationv1.ResourceAttributes{Resource: resource, Verb: verb, Name: name, Namespace: name},
	}}
	w.create(review)
	return review.Status.Allowed
}

// testEphemeral: what is added to a running pod does not get around its proxy either.
func testEphemeral(t *testing.T, w *world) {
	const ns = "debugged"
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	p := podOf(ns, "web")
	w.create(p)
	// Who adds a container may also change what marks the pod.
	w.update(p, func() {
		delete(p.Annotations, sidecar.VersionAnnotation)
		p.Labels = map[string]string{sidecar.InjectLabel: "false"}
	})
	uid := int64(sidecar.UID)
	const or = `, or leave the pod out with the label mesh.tulle.dev/inject: "false"`
	for _, row := range []struct {
		name    string
		edit    func(*corev1.EphemeralContainerCommon)
		refused string
	}{
		{"as-the-proxy", func(c *corev1.EphemeralContainerCommon) { c.SecurityContext = &corev1.SecurityContext{RunAsUser: &uid} },
			"container as-the-proxy runs as user 1337, as the mesh's proxy does, whose traffic is not redirected: give it another securityContext.runAsUser" + or},
		{"at-the-admin-socket", func(c *corev1.EphemeralContainerCommon) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "tulle-admin", MountPath: "/admin"}}
		}, "container at-the-admin-socket mounts the volume tulle-admin, which only the mesh's proxy may: remove the mount" + or},
		{"debugger", func(*corev1.EphemeralContainerCommon) {}, ""},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
		if err := w.get(p); err != nil {
			t.Fatal(err)
		}
		c := corev1.EphemeralContainerCommon{Name: row.name, Image: "debug", TerminationMessagePolicy: corev1.TerminationMessageReadFile}
		row.edit(&c)
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: c})
		_, err := w.clientset.CoreV1().Pods(ns).UpdateEphemeralContainers(t.Context(), p.Name, p, metav1.UpdateOptions{})
		switch want := `"ephemeral.sidecar.mesh.tulle.dev" denied the request: ` + row.refused; {
		case row.refused == "" && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.refused != "" && (!apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), want)):
			t.Errorf("%s: got %v\nwant %s", row.name, err, want)
		}
	}
}

// faulty is the model's builder with a bug: objects with the label bug make it panic.
type faulty struct{ *model.Builder }

func newFaulty(c model.Config) ingest.Builder { return faulty{model.NewBuilder(c)} }

func (f faulty) Set(object any) {
	if o, ok := object.(client.Object); ok && o.GetLabels()["bug"] != "" {
		panic("a bug")
	}
	f.Builder.Set(object)
}

// testObjectsThatPanic: a bug of ours that some object meets is told at that object and counted, and nobody else notices.
func testObjectsThatPanic(t *testing.T, w *world, registry *prometheus.Registry) {
	for _, ns := range []string{"bystander", "victim"} {
		w.namespace(ns)
		w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
		w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	}
	const bug = ": a bug of Tulle (panic; counted in tulle_panics_total, and the operator's log has the stack); until it is changed, "
	service := clusterService("victim", "reviews", nil)
	service.Labels = map[string]string{"bug": "yes"}
	w.create(service)
	message := "Service victim/reviews" + bug + "it counts as not there"
	w.condition("victim", "victim", v1alpha1.ConditionAccepted, metav1.ConditionFalse, "InternalError", message)
	w.event("victim", "Service", "reviews", "InternalError", message)
	w.delete(service)
	w.condition("victim", "victim", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")

	m := mesh("victim", "victim", v1alpha1.MeshSpec{})
	w.update(m, func() {
		m.Labels = map[string]string{"bug": "yes"}
		m.Spec.MTLS = &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSDisabled}
	})
	message = "Mesh victim/victim" + bug + "what it said before counts or, if there was nothing, mtls.mode Strict alone"
	w.condition("victim", "victim", v1alpha1.ConditionAccepted, metav1.ConditionFalse, "InternalError", message)
	w.event("victim", "Mesh", "victim", "InternalError", message)
	w.create(podOf("victim", "web"))
	if p := podOf("victim", "second"); w.client.Create(t.Context(), p) != nil || !hasSidecar(p) {
		t.Error("pods of the namespace are not injected any more")
	}
	if err := w.get(m); err != nil || m.Status.MTLS != "Permissive" {
		t.Errorf("the mode is %s (%v), want the one before", m.Status.MTLS, err)
	}
	w.condition("bystander", "bystander", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "tulle_panics_total" {
				counted[metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
			}
		}
	}
	if counted["ingest"] != 2 {
		t.Errorf("counted %v, want 2 at ingest", counted)
	}
}

// testOutage: with nobody behind the webhooks, and with a host that swallows what is sent to it, pods of the mesh don't start without
// their proxy and say why; all others start, at once or within the bound.
func testOutage(t *testing.T, w *world, o *running) {
	w.namespace("outage")
	w.namespace("unmeshed")
	w.ensureNamespace("cert-manager")
	w.create(mesh("outage", "outage", v1alpha1.MeshSpec{}))
	w.condition("outage", "outage", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	debugged := podOf("outage", "debugged")
	w.create(debugged)
	o.stop()

	refused := func(what string, err error, webhook string) {
		t.Helper()
		if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `failed calling webhook "`+webhook+`.sidecar.mesh.tulle.dev"`) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	refused("a pod of the mesh", w.client.Create(t.Context(), podOf("outage", "late")), "enrolled")
	debugged.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "d", Image: "d", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}}}
	_, err := w.clientset.CoreV1().Pods("outage").UpdateEphemeralContainers(t.Context(), debugged.Name, debugged, metav1.UpdateOptions{})
	refused("an ephemeral container of the mesh", err, "ephemeral")

	// never are the namespaces whose pods ask no webhook of ours.
	never := []string{system, "kube-system", "kube-public", "kube-node-lease", "cert-manager"}
	slowest := w.slowest("refused", append(never, "unmeshed"), 5)
	t.Logf("nobody listens: the slowest of 30 pods took %v", slowest)
	if slowest > time.Second {
		t.Errorf("nobody listens: a pod took %v, want less than a second", slowest)
	}

	// Connections are accepted by the kernel and never answered, as by a host that hangs.
	var config net.ListenConfig
	hole, err := config.Listen(t.Context(), "tcp", w.host+":443")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	slowest = w.slowest("swallowed", []string{"unmeshed"}, 2)
	t.Logf("nobody answers: the slowest of 2 pods took %v", slowest)
	if slowest < time.Second || slowest > 4*time.Second {
		t.Errorf("nobody answers: a pod took %v, want about 2 s", slowest)
	}
	if slowest = w.slowest("swallowed", never, 2); slowest > time.Second {
		t.Errorf("nobody answers: a pod that asks nobody took %v", slowest)
	}
}

// slowest creates pods, n in each namespace, none of which may fail or be injected, and returns how long the slowest took.
func (w *world) slowest(name string, namespaces []string, n int) time.Duration {
	w.t.Helper()
	var slowest time.Duration
	for _, ns := range namespaces {
		for i := range n {
			p := podOf(ns, fmt.Sprintf("%s-%d", name, i))
			start := time.Now()
			err := w.client.Create(context.Background(), p)
			slowest = max(slowest, time.Since(start))
			if err = errors.Join(err, unlessInjected(p)); err != nil {
				w.t.Errorf("namespace %s: %v", ns, err)
			}
		}
	}
	return slowest
}

func unlessInjected(p *corev1.Pod) error {
	if hasSidecar(p) {
		return errors.New("it was injected")
	}
	return nil
}

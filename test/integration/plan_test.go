package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/plan"
	"github.com/tulle-mesh/tulle/webhooks"
)

// planner runs `kubectl tulle plan` as a user.
type planner struct {
	*world
	path       string // of kubectl and kubectl-tulle
	kubeconfig string
}

// TestPlan: what `kubectl tulle plan` says before something is applied is what the operator does once it is.
func TestPlan(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	w.createFile("../../config/rbac/mesh_roles.yaml")
	w.createFile("../../config/rbac/planner_role.yaml")
	w.createOperator()
	w.start(nil)
	w.eventually("the operator is ready", w.ready)
	w.namespace("base")
	w.create(mesh("base", "base", v1alpha1.MeshSpec{})) // from now on it is known whether certificates are issued
	w.condition("base", "base", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")

	path := buildPlugin(t)
	editor := w.planner(path, "editor", "tulle-planner", "tulle-mesh-editor")
	for _, step := range []struct {
		name string
		test func(*testing.T, *planner)
	}{
		{"predictions", testPredictions},
		{"splits", testPlannedSplits},
		{"monitors", testPlannedMonitors},
		{"refusals", testRefusals},
		{"rights", testPlanRights},
	} {
		t.Run(step.name, func(t *testing.T) {
			p := *editor
			p.world = w.in(t)
			step.test(t, &p)
		})
	}
}

// createOperator makes the Deployment that says how the operator of these tests was started; there is nothing here that would run it.
func (w *world) createOperator() {
	w.t.Helper()
	raw, err := os.ReadFile("../../config/manager/deployment.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	var d appsv1.Deployment
	if err := yaml.UnmarshalStrict(raw, &d); err != nil {
		w.t.Fatal(err)
	}
	d.Namespace = system
	manager := &d.Spec.Template.Spec.Containers[0]
	manager.Args = []string{"--envoy-image=envoy:test"}
	manager.Env = []corev1.EnvVar{{Name: "TULLE_IMAGE", Value: "tulle.dev/operator:test"}}
	w.create(&d)
}

// buildPlugin returns a PATH with kubectl and our plugin.
func buildPlugin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "kubectl-tulle"), "../../cmd/tulle")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir + ":" + os.Getenv("KUBEBUILDER_ASSETS")
}

// planner makes a user with the given cluster roles and no others.
func (w *world) planner(path, name string, roles ...string) *planner {
	w.t.Helper()
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "base", Name: name}})
	for _, role := range roles {
		w.create(&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "base", Name: name}},
		})
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: w.admin.Host, CertificateAuthorityData: w.admin.CAData}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: w.token("base", name, &authenticationv1.TokenRequestSpec{})}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: "planned"}
	config.CurrentContext = "x"
	p := &planner{world: w, path: path, kubeconfig: filepath.Join(w.t.TempDir(), name)}
	if err := clientcmd.WriteToFile(*config, p.kubeconfig); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// kubectl runs kubectl as the user, or as an administrator for what only one may do.
func (p *planner) kubectl(admin bool, stdin string, args ...string) (out, errs string, code int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), args...)
	kubeconfig := p.kubeconfig
	if admin {
		kubeconfig = p.kubecfg
	}
	command.Env = append(os.Environ(), "PATH="+p.path, "KUBECONFIG="+kubeconfig, "HOME="+p.t.TempDir())
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("kubectl %v: %v", args, err)
	}
	return stdout.String(), stderr.String(), command.ProcessState.ExitCode()
}

// plan returns the plan of a manifest; extra are more arguments.
func (p *planner) plan(wantCode int, manifest string, extra ...string) *plan.Plan {
	p.t.Helper()
	args := append([]string{"tulle", "plan", "-o", "json"}, extra...)
	if manifest != "" {
		args = append(args, "-f", "-")
	}
	out, errs, code := p.kubectl(false, manifest, args...)
	if code != wantCode {
		p.t.Fatalf("kubectl %v: exit code %d, want %d\n%s%s", args, code, wantCode, out, errs)
	}
	made := &plan.Plan{}
	if err := json.Unmarshal([]byte(out), made); err != nil {
		p.t.Fatalf("%v in\n%s%s", err, out, errs)
	}
	return made
}

// apply applies a manifest with kubectl.
func (p *planner) apply(manifest string) {
	p.t.Helper()
	if out, errs, code := p.kubectl(true, manifest, "apply", "-f", "-"); code != 0 {
		p.t.Fatalf("kubectl apply: %s%s", out, errs)
	}
}

// comesTrue waits until everything that a plan says is so, and holds it to have said everything.
func (p *planner) comesTrue(made *plan.Plan) {
	p.t.Helper()
	for _, m := range made.Meshes {
		p.eventually(fmt.Sprintf("the status of Mesh %s/%s as planned", m.Namespace, m.Name), func() error {
			var live v1alpha1.Mesh
			err := p.client.Get(context.Background(), client.ObjectKey{Namespace: m.Namespace, Name: m.Name}, &live)
			if m.Action == plan.Delete {
				if apierrors.IsNotFound(err) {
					return nil
				}
				return errors.Join(errors.New("it is there"), err)
			}
			if err != nil {
				return err
			}
			for i := range live.Status.Conditions {
				live.Status.Conditions[i].LastTransitionTime = metav1.Time{}
			}
			if c := plan.Condition(m.After, v1alpha1.ConditionEncrypted); c.Reason == plan.ReasonNotKnown {
				*c = *plan.Condition(&live.Status, v1alpha1.ConditionEncrypted) // a matter of observation
			}
			live.Status.Conditions = slices.DeleteFunc(live.Status.Conditions, func(c metav1.Condition) bool {
				return c.Type == v1alpha1.ConditionMonitored // a plan says nothing of monitors
			})
			if diff := cmp.Diff(m.After, &live.Status); diff != "" {
				return fmt.Errorf("-plan +live:\n%s", diff)
			}
			return nil
		})
	}
	for _, o := range made.Objects {
		if o.Kind != "ConfigMap" {
			continue
		}
		live := bootstrapConfigMap(o.Namespace)
		switch o.Action {
		case plan.Create:
			p.eventually("ConfigMap of "+o.Namespace, func() error { return p.get(live) })
		case plan.Delete:
			p.eventually("no ConfigMap in "+o.Namespace, func() error { return p.gone(live) })
		}
	}
	p.enrols(made)
}

// enrols holds the webhook configuration to the plan.
func (p *planner) enrols(made *plan.Plan) {
	p.t.Helper()
	for _, o := range made.Objects {
		if o.Kind != "MutatingWebhookConfiguration" {
			continue
		}
		for _, field := range o.Fields {
			sign, namespace, _ := strings.Cut(strings.TrimPrefix(field, "enrolled namespaces: "), " ")
			p.eventually(field, func() error {
				c := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}}
				if err := p.get(c); err != nil {
					return err
				}
				enrolled := slices.ContainsFunc(c.Webhooks, func(h admissionregistrationv1.MutatingWebhook) bool {
					return *h.FailurePolicy == admissionregistrationv1.Fail && slices.Contains(h.NamespaceSelector.MatchExpressions[0].Values, namespace)
				})
				if enrolled != (sign == "+") {
					return fmt.Errorf("enrolled: %v", enrolled)
				}
				return nil
			})
		}
	}
}

const planned = `apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: planned, namespace: planned}
`

// testPredictions follows a namespace through changes, each planned before it is made.
func testPredictions(t *testing.T, p *planner) {
	const ns = "planned"
	p.namespace(ns)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "reviews"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "reviews"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	p.create(service)
	old := p.workload(ns, "reviews-1", "10.99.0.1")
	p.endpoints(service, "10.99.0.1")
	step := func(name, manifest string, extra ...string) *plan.Plan {
		t.Helper()
		t.Log(name)
		return p.plan(0, manifest, extra...)
	}

	first := planned + "spec: {services: [{name: desk}, {name: reviews, versions: [{name: v1, labels: {app: reviews}}, {name: v2, labels: {app: none}}]}]}\n"
	made := step("a first Mesh, that names a Service that is not there", first)
	if s := made.Summary; s.Made != 1 || s.Changed != 2 || s.Restarts != 1 || s.Proxies != 0 {
		t.Errorf("summary %+v of %+v", s, made)
	}
	if c := made.Restarts[0].Commands; len(c) != 1 || c[0] != "kubectl -n planned rollout restart deploy/reviews" {
		t.Errorf("commands %q", c)
	}
	p.apply(first)
	p.comesTrue(made)
	if again := step("the same again", first); again.Changes {
		t.Errorf("it would change something: %+v", again)
	}

	// The restart that the plan asks for.
	p.delete(old)
	next := p.workload(ns, "reviews-2", "10.99.0.2")
	if !hasSidecar(next) {
		t.Fatal("the pod was not injected")
	}
	p.endpoints(service, "10.99.0.2")
	p.connect(t, next)
	p.condition(ns, ns, v1alpha1.ConditionProgrammed, metav1.ConditionTrue, "Programmed", "the one proxy holds generation 1")

	strict := planned + "spec: {mtls: {mode: Strict}, services: [{name: reviews, versions: [{name: v1, labels: {app: reviews}}], routes: [{name: all, to: [{version: v1}]}]}]}\n"
	made = step("Strict, and a rule", strict)
	if s := made.Summary; s.Restarts != 0 || s.Proxies != 1 || len(made.Proxies.Services) == 0 || made.Proxies.Services[0].Name != "reviews" {
		t.Errorf("summary %+v, proxies %+v", s, made.Proxies)
	}
	p.apply(strict)
	p.comesTrue(made)

	rival := strings.ReplaceAll(planned, "name: planned", "name: z-rival") + "spec: {mtls: {mode: Disabled}, observability: {accessLog: {mode: All}}}\n"
	made = step("a second Mesh that claims the same", rival)
	if c := plan.Condition(made.Meshes[len(made.Meshes)-1].After, v1alpha1.ConditionAccepted); c.Reason != "Conflicted" {
		t.Errorf("Accepted %+v", c)
	}
	p.apply(rival)
	p.comesTrue(made)

	root := "apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh, namespace: tulle-system}\nspec: {meshWide: {envoy: {image: \"envoy:v1.39.3\"}}}\n"
	made = step("another Envoy for the whole mesh", root)
	if r := made.Restarts; len(r) != 1 || r[0].Pods[0].Reason != plan.OlderProxy {
		t.Errorf("restarts %+v", r)
	}
	p.apply(root)
	p.comesTrue(made)

	made = step("the older Mesh goes", "", "--delete", "mesh/planned")
	if len(made.Meshes) != 2 || made.Meshes[1].Name != "z-rival" || made.Meshes[1].Action != plan.Affected {
		t.Errorf("Meshes %+v", made.Meshes)
	}
	p.delete(mesh(ns, ns, v1alpha1.MeshSpec{}))
	p.comesTrue(made)

	made = step("the last Mesh goes, and its pods are still there", "", "--delete", "mesh/z-rival")
	if s := made.Summary; s.Removed != 0 || s.Unused != 1 {
		t.Errorf("summary %+v", s)
	}
	p.delete(mesh(ns, "z-rival", v1alpha1.MeshSpec{}))
	p.comesTrue(made)
	if err := p.get(bootstrapConfigMap(ns)); err != nil {
		t.Errorf("what the pod mounts: %v", err)
	}

	p.delete(next)
	p.eventually("no ConfigMap without pods", func() error { return p.gone(bootstrapConfigMap(ns)) })
	p.apply(planned)
	p.eventually("a ConfigMap", func() error { return p.get(bootstrapConfigMap(ns)) })
	made = step("the last Mesh goes, and there are no pods", "", "--delete", "mesh/planned")
	if s := made.Summary; s.Removed != 1 {
		t.Errorf("summary %+v", s)
	}
	p.delete(mesh(ns, ns, v1alpha1.MeshSpec{}))
	p.comesTrue(made)
}

// workload creates a pod of the Deployment reviews that runs.
func (p *planner) workload(namespace, name, address string) *corev1.Pod {
	p.t.Helper()
	made := pod(namespace, name)
	made.Labels = map[string]string{"app": "reviews"}
	p.own(made, "reviews")
	p.create(made)
	made.Status.PodIP, made.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	p.run(made)
	return made
}

// endpoints says of a Service what the controller manager would.
func (p *planner) endpoints(s *corev1.Service, address string) {
	p.t.Helper()
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name + "-1"}}
	exists := p.get(slice) == nil
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
	slice.AddressType = discoveryv1.AddressTypeIPv4
	slice.Ports = []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(80)), Protocol: new(corev1.ProtocolTCP)}}
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{address}}}
	if !exists {
		p.create(slice)
	} else if err := p.client.Update(context.Background(), slice); err != nil {
		p.t.Fatal(err)
	}
}

// testRefusals: what the plan says is refused, kubectl apply is refused with the same words.
func testRefusals(t *testing.T, p *planner) {
	for name, spec := range map[string]string{
		"schema":  "spec: {mtls: {mode: Stricct}}\n",
		"CEL":     "spec: {services: [{name: a, routes: [{name: r, to: [{weight: 0}]}]}]}\n",
		"webhook": "spec: {services: [{name: a, versions: [{name: v1, labels: {v: a}}], routes: [{name: r, to: [{version: v3}]}]}]}\n",
	} {
		t.Run(name, func(t *testing.T) {
			q := *p
			q.world = p.in(t)
			made := q.plan(3, planned+spec)
			if len(made.Refused) != 1 || made.Refused[0].By != "the API server" || len(made.Refused[0].Reasons) == 0 {
				t.Fatalf("refused %+v", made.Refused)
			}
			_, errs, code := q.kubectl(true, planned+spec, "apply", "-f", "-")
			if code == 0 {
				t.Fatal("kubectl apply did it")
			}
			for _, reason := range made.Refused[0].Reasons {
				field, message, _ := strings.Cut(reason, ": ")
				if !strings.Contains(errs, field) || !strings.Contains(errs, message) {
					t.Errorf("the plan said %q, kubectl apply %s", reason, errs)
				}
			}
		})
	}
}

// testPlanRights: with fewer rights a plan is made of less, and says of what; without what it needs it says which right is missing.
func testPlanRights(t *testing.T, p *planner) {
	p.create(&rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "tenant"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods", "services"}, Verbs: []string{"list"}},
			{APIGroups: []string{"apps"}, Resources: []string{"replicasets"}, Verbs: []string{"list"}},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list"}},
			{APIGroups: []string{"mesh.tulle.dev"}, Resources: []string{"meshes"}, Verbs: []string{"get", "list"}},
		},
	})
	tenant := p.planner(p.path, "tenant")
	_, errs, code := tenant.kubectl(false, planned, "tulle", "plan", "-f", "-")
	if want := "you may not get deployments in namespace tulle-system, which say what pods are given: ask for that right, or give --operator-image and --envoy-image instead"; code != 2 || !strings.Contains(errs, want) {
		t.Errorf("exit code %d: %s", code, errs)
	}
	images := []string{"--operator-image=tulle.dev/operator:test", "--envoy-image=envoy:test"}
	_, errs, code = tenant.kubectl(false, planned, append([]string{"tulle", "plan", "-f", "-"}, images...)...)
	if want := "you may not list meshes in namespace planned, without which there is no plan: ask for the rights in docs/cli.md"; code != 2 || !strings.Contains(errs, want) {
		t.Errorf("exit code %d: %s", code, errs)
	}
	p.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "planned", Name: "tenant"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "tenant"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "base", Name: "tenant"}},
	})
	made := tenant.plan(0, planned, images...)
	if len(made.Meshes) != 1 || made.Meshes[0].Action != plan.Create {
		t.Errorf("Meshes %+v", made.Meshes)
	}
	text := strings.Join(made.Assumptions, "\n")
	for _, want := range []string{
		"list nodes", "list pods in all namespaces", "get configmaps in planned", "create and update meshes in planned",
		"checked by the schema of this program, not by the API server",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	typo := tenant.plan(3, planned+"spec: {mtls: {mode: Stricct}}\n", images...)
	if len(typo.Refused) != 1 || !strings.Contains(typo.Refused[0].By, "by the schema of Mesh") {
		t.Errorf("refused %+v", typo.Refused)
	}
}

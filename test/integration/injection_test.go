package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/webhooks"
)

// TestInjection creates pods and Meshes as users do, with the whole operator behind the webhooks.
func TestInjection(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	o := w.start(nil)
	w.eventually("ready", w.ready)
	w.eventually("webhooks", func() error { return w.enrolled(nil) })

	testTogether(t, w)
	w.eventually("webhooks", func() error { return w.enrolled([]string{"together"}) })
	testEnrolled(t, w)
	testLeftOut(t, w)
	testRefusedPod(t, w)
	testMeshWebhook(t, w)
	o.stop()
	testOperatorAway(t, w)
}

// enrolled is nil once the first webhook takes the pods of these namespaces.
func (w *world) enrolled(namespaces []string) error {
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}}
	if err := w.get(configuration); err != nil {
		return err
	}
	var got []string
	for _, hook := range configuration.Webhooks {
		if r := hook.NamespaceSelector.MatchExpressions[0]; r.Operator == metav1.LabelSelectorOpIn {
			got = r.Values
		}
	}
	if !slices.Equal(got, namespaces) {
		return fmt.Errorf("the namespaces of the webhook are %v; want %v", got, namespaces)
	}
	return nil
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func podOf(namespace, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			// The API server's own admission sets it where it runs.
			ServiceAccountName: "default",
			InitContainers:     []corev1.Container{{Name: "prepare", Image: "prepare"}},
			Containers: []corev1.Container{{
				Name: "app", Image: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			}},
		},
	}
}

// storedWithSidecar is nil when a pod has its sidecar, as the API server stored it.
func storedWithSidecar(pod *corev1.Pod) error {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	if got, want := strings.Join(names, " "), "tulle-init tulle-proxy prepare"; got != want {
		return fmt.Errorf("init containers %q; want %q", got, want)
	}
	if pod.Annotations[sidecar.VersionAnnotation] == "" || !strings.Contains(pod.Annotations[sidecar.SkipDetectionAnnotation], "3306") {
		return fmt.Errorf("annotations %v", pod.Annotations)
	}
	proxy := pod.Spec.InitContainers[1]
	if proxy.RestartPolicy == nil || *proxy.RestartPolicy != corev1.ContainerRestartPolicyAlways || proxy.Image != "envoy:test" {
		return fmt.Errorf("proxy %+v", proxy)
	}
	return nil
}

// A Mesh and its workloads may be applied at once: no pod slips through before the webhooks know of the Mesh.
func testTogether(t *testing.T, w *world) {
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "together", Name: "mesh"}}
	pod := podOf("together", "web")
	w.create(namespace("together"), mesh, pod)
	if err := storedWithSidecar(pod); err != nil {
		t.Error(err)
	}
}

func testEnrolled(t *testing.T, w *world) {
	pod := podOf("together", "probed")
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/live"}}}
	pod.Spec.Containers[0].LivenessProbe.HTTPGet.Port.StrVal, pod.Spec.Containers[0].LivenessProbe.HTTPGet.Port.Type = "http", 1
	w.create(pod)
	if err := storedWithSidecar(pod); err != nil {
		t.Error(err)
	}
	get := pod.Spec.Containers[0].LivenessProbe.HTTPGet
	if get.Port.IntVal != sidecar.ProbePort || get.Path != "/app/liveness" {
		t.Errorf("the probe goes to %s%s", get.Port.String(), get.Path)
	}
	if want := `[{"path":"/app/liveness","port":8080,"targetPath":"/live","timeoutSeconds":1}]`; pod.Annotations[sidecar.ProbesAnnotation] != want {
		t.Errorf("recorded probes %s; want %s", pod.Annotations[sidecar.ProbesAnnotation], want)
	}
	// A copy of a pod that has its sidecar gets no second one.
	again := podOf("together", "copy")
	again.Annotations, again.Spec = pod.Annotations, pod.Spec
	w.create(again)
	if err := storedWithSidecar(again); err != nil {
		t.Error(err)
	}
}

func testLeftOut(t *testing.T, w *world) {
	optOut := podOf("together", "opt-out")
	optOut.Labels = map[string]string{sidecar.InjectLabel: "false"}
	hostNetwork := podOf("together", "host-network")
	hostNetwork.Spec.HostNetwork = true
	windows := podOf("together", "windows")
	windows.Spec.OS = &corev1.PodOS{Name: corev1.Windows}
	w.create(namespace("unmeshed"))
	mirror := podOf("together", "mirror")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "of a static pod"}
	mirror.Spec.NodeName, mirror.Spec.ServiceAccountName = "node", ""
	for _, pod := range []*corev1.Pod{optOut, hostNetwork, windows, mirror, podOf("unmeshed", "web"), podOf(system, "web")} {
		w.create(pod)
		if len(pod.Spec.InitContainers) != 1 {
			t.Errorf("%s/%s was injected", pod.Namespace, pod.Name)
		}
	}
}

func testRefusedPod(t *testing.T, w *world) {
	pod := podOf("together", "proxys-user")
	user := int64(sidecar.UID)
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &user}
	err := w.client.Create(context.Background(), pod)
	if want := "container app runs as user 1337, as the mesh's proxy does, whose traffic is not redirected"; !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v; want %s", err, want)
	}
}

// warnings collects what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	seen []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, text)
}

func testMeshWebhook(t *testing.T, w *world) {
	var seen warnings
	config := rest.CopyConfig(w.admin)
	config.WarningHandler = &seen
	c, err := client.New(config, client.Options{Scheme: w.client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "together", Name: "routes"}, Spec: v1alpha1.MeshSpec{
		MeshWide: &v1alpha1.MeshWideSpec{},
		Services: []v1alpha1.ServiceSpec{{Name: "reviews", Routes: []v1alpha1.RouteSpec{{Name: "all", To: []v1alpha1.RouteTarget{{Version: "v9"}}}}}},
	}}
	err = c.Create(t.Context(), mesh)
	for _, want := range []string{"spec.meshWide: only the root Mesh", "spec.services[0].routes[0].to[0].version: "} {
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %s", err, want)
		}
	}
	mesh.Spec.MeshWide, mesh.Spec.Services[0].Routes = nil, nil
	if err := c.Create(t.Context(), mesh); err != nil {
		t.Fatal(err)
	}
	want := "spec.services[0].name: there is no Service reviews in namespace together yet; its rules take effect when there is"
	if got := strings.Join(seen.seen, "\n"); got != want {
		t.Errorf("warned %q; want %q", got, want)
	}
	root := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: v1alpha1.RootName}, Spec: v1alpha1.MeshSpec{
		MeshWide: &v1alpha1.MeshWideSpec{Network: &v1alpha1.NetworkSpec{ServerFirstPorts: []v1alpha1.PortNumber{7}}},
	}}
	if err := c.Create(t.Context(), root); err != nil {
		t.Error(err)
	}
}

// With nobody behind the webhooks, a pod that belongs in the mesh does not start without its proxy, and nobody else notices.
func testOperatorAway(t *testing.T, w *world) {
	err := w.client.Create(context.Background(), podOf("together", "late"))
	if err == nil || !strings.Contains(err.Error(), `failed calling webhook "enrolled.sidecar.mesh.tulle.dev"`) {
		t.Errorf("a pod of the mesh: got %v", err)
	}
	optOut := podOf("together", "late-opt-out")
	optOut.Labels = map[string]string{sidecar.InjectLabel: "false"}
	for _, pod := range []*corev1.Pod{optOut, podOf("unmeshed", "late"), podOf(system, "late")} {
		if err := w.client.Create(context.Background(), pod); err != nil {
			t.Errorf("%s/%s: %v", pod.Namespace, pod.Name, err)
		}
	}
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "unmeshed", Name: "late"}}
	if err := w.client.Create(context.Background(), mesh); err != nil {
		t.Errorf("a Mesh: %v", err)
	}
}

// A Kubernetes without native sidecars is simulated: the API server is asked nothing, the operator is told the version.
func TestOldKubernetes(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	w.start(func(o *operator.Options) { o.KubernetesVersion = "v1.28.15" })
	w.eventually("ready", w.ready)
	w.create(namespace("shop"), &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "mesh"}})
	w.eventually("webhooks", func() error { return w.enrolled([]string{"shop"}) })
	pod := podOf("shop", "web")
	w.create(pod)
	if err := storedWithSidecar(pod); err == nil {
		t.Error("a pod was injected")
	}
	w.eventually("the Mesh says so", func() error { return w.says("shop", "mesh", "kubernetes v1.28.15 has no native sidecars") })
}

// says is nil when a condition of a Mesh says something.
func (w *world) says(namespace, name, text string) error {
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := w.get(mesh); err != nil {
		return err
	}
	for _, c := range mesh.Status.Conditions {
		if c.Status != metav1.ConditionTrue && strings.Contains(c.Message, text) {
			return nil
		}
	}
	return errors.New(fmt.Sprint(mesh.Status.Conditions))
}

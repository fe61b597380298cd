// Package e2e tests Tulle as its users meet it: through kubectl, on a real cluster where this checkout's Tulle is
// installed. `make test-e2e` brings the cluster.
package e2e

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
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// patience bounds every wait for the cluster.
const patience = 3 * time.Minute

// cluster is the cluster under test, as one test sees it: with a namespace of its own.
type cluster struct {
	t         *testing.T
	client    client.Client
	namespace string
	images    map[string]string
}

// connect returns the cluster, with a new namespace that ends with the test.
func connect(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, client: newClient(t), images: readImages(t), namespace: "e2e-" + rand.String(6)}
	c.kubectl("create", "namespace", c.namespace)
	t.Cleanup(func() {
		if t.Failed() {
			c.describe()
		}
		c.kubectl("delete", "namespace", c.namespace, "--wait=false")
	})
	return c
}

func newClient(t *testing.T) client.Client {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		t.Fatal("KUBECONFIG is not set: run `make test-e2e`, which brings a cluster when there is none")
	}
	restConfig, err := config.GetConfig()
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), certmanagerv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(restConfig, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// readImages returns what `demo install` called the images that manifests name tulle.dev/…:dev.
func readImages(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("..", "..", "bin", "images.json"))
	if err != nil {
		t.Fatalf("%v (run `make test-e2e`, or `demo install` first)", err)
	}
	var images map[string]string
	if err := json.Unmarshal(file, &images); err != nil {
		t.Fatal(err)
	}
	return images
}

// kubectl runs kubectl in the test's namespace and fails the test when it fails.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.try(nil, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// try runs kubectl in the test's namespace. The error has what it complained about.
func (c *cluster) try(stdin []byte, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--namespace", c.namespace}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// apply applies manifests, all in one go, with their images as the cluster has them.
func (c *cluster) apply(manifests ...string) {
	c.t.Helper()
	text := c.withImages(strings.Join(manifests, "\n---\n"))
	if _, err := c.try([]byte(text), "apply", "--server-side", "--force-conflicts", "-f", "-"); err != nil {
		c.t.Fatal(err)
	}
}

// withImages names the images in manifests as the cluster has them.
func (c *cluster) withImages(manifests string) string {
	for placeholder, reference := range c.images {
		manifests = strings.ReplaceAll(manifests, placeholder, reference)
	}
	return manifests
}

// wait waits for a condition, as `kubectl wait` understands it.
func (c *cluster) wait(condition, object string) {
	c.t.Helper()
	c.kubectl("wait", "--for="+condition, object, "--timeout="+patience.String())
}

// eventually asks again and again what nothing announces.
func (c *cluster) eventually(what string, holds func() bool) {
	c.t.Helper()
	c.eventuallyWithin(patience, what, holds)
}

// eventuallyWithin is eventually, for what takes longer.
func (c *cluster) eventuallyWithin(limit time.Duration, what string, holds func() bool) {
	c.t.Helper()
	err := wait.PollUntilContextTimeout(c.t.Context(), 200*time.Millisecond, limit, true, func(context.Context) (bool, error) {
		return holds(), nil
	})
	if err != nil {
		c.t.Fatalf("waited in vain for %s", what)
	}
}

// rollout waits until a Deployment runs what it should.
func (c *cluster) rollout(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.kubectl("rollout", "status", "deployment/"+name, "--timeout="+patience.String())
	}
}

// exec runs the sample's program in the first container of a Deployment's pod.
func (c *cluster) exec(deployment string, args ...string) (string, error) {
	return c.try(nil, append([]string{"exec", "deployment/" + deployment, "--", "bookinfo"}, args...)...)
}

// firstGet is exec get, for the first request to a Service from a pod without a proxy. The node may learn the Service's endpoints after the proxies
// do, which Ready speaks of; until then the node itself refuses the connection, and the request is made again.
func (c *cluster) firstGet(deployment string, args ...string) (answer string, err error) {
	c.t.Helper()
	c.eventually("the node to know the endpoints that "+deployment+" calls", func() bool {
		answer, err = c.exec(deployment, append([]string{"get"}, args...)...)
		return err == nil || !strings.Contains(err.Error(), "connection refused")
	})
	return answer, err
}

// pods lists the pods of an app that do not end; of all apps when app is empty.
func (c *cluster) pods(app string) []corev1.Pod {
	c.t.Helper()
	options := []client.ListOption{client.InNamespace(c.namespace)}
	if app != "" {
		options = append(options, client.MatchingLabels{"app": app})
	}
	var list corev1.PodList
	// Also after the test has ended, for what explains its failure.
	if err := c.client.List(context.WithoutCancel(c.t.Context()), &list, options...); err != nil {
		c.t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
}

// mesh returns a Mesh.
func (c *cluster) mesh(name string) *v1alpha1.Mesh {
	c.t.Helper()
	var mesh v1alpha1.Mesh
	if err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: c.namespace, Name: name}, &mesh); err != nil {
		c.t.Fatal(err)
	}
	return &mesh
}

// hasProxy says whether a pod has a native sidecar of Tulle's.
func hasProxy(pod corev1.Pod) bool {
	for _, container := range pod.Spec.InitContainers {
		if container.Name == sidecar.ProxyContainer {
			return container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways
		}
	}
	return false
}

// describe logs what explains a failure.
func (c *cluster) describe() {
	for _, args := range [][]string{
		{"get", "mesh,pods,services", "-o", "wide"},
		{"get", "mesh", "-o", `jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}`},
		{"get", "events", "--field-selector=type=Warning", "-o", "custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message"},
	} {
		out, err := c.try(nil, args...)
		c.t.Logf("kubectl %s\n%s%v", strings.Join(args, " "), out, errorText(err))
	}
	// The control plane's pods, and why one of them was started again, if so.
	pods, err := c.try(nil, "-n", "tulle-system", "get", "pods")
	previous, _ := c.try(nil, "-n", "tulle-system", "logs", "deployment/tulle-manager", "--previous", "--tail=10")
	c.t.Logf("tulle-system\n%s%s%s", pods, previous, errorText(err))
	for _, pod := range c.pods("") {
		if hasProxy(pod) {
			c.t.Logf("proxy of %s\n%s", pod.Name, c.traffic(pod))
		}
	}
}

// traffic returns what a proxy counted about connections and requests, without what is zero, and its last words.
func (c *cluster) traffic(pod corev1.Pod) string {
	stats, err := c.try(nil, "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/stats/prometheus", c.namespace, pod.Name, sidecar.StatsPort))
	if err != nil {
		return err.Error()
	}
	var told strings.Builder
	for line := range strings.Lines(stats) {
		about := strings.HasPrefix(line, "envoy_http_downstream_") || strings.HasPrefix(line, "envoy_tcp_downstream_")
		app := strings.Contains(line, `"inbound"`) || strings.Contains(line, `"outbound"`)
		if about && app && !strings.Contains(line, "_bucket") && !strings.HasSuffix(line, " 0\n") {
			told.WriteString(line)
		}
	}
	log, err := c.try(nil, "logs", pod.Name, "-c", sidecar.ProxyContainer, "--tail=5")
	return told.String() + log + errorText(err)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

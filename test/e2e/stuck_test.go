package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// An Envoy that hangs is named, and `kubectl wait` does not return before it, too, has what the Mesh says.
func TestReadyWaitsForStuckProxy(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest())
	c.rollout("details")
	c.wait("condition=Ready", "mesh/mesh")
	stuck := c.pods("details")[0]

	c.signal(stuck, "STOP")
	c.apply(mesh("Permissive"))
	c.wait("jsonpath={.status.proxies.programmed}=1", "mesh/mesh")
	if out, err := c.try(nil, "wait", "--for=condition=Ready", "mesh/mesh", "--timeout=10s"); err == nil || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("kubectl wait while a proxy is stuck: %s %v, want it to time out", out, err)
	}
	programmed := meta.FindStatusCondition(c.mesh("mesh").Status.Conditions, v1alpha1.ConditionProgrammed)
	if programmed.Status == "True" || programmed.ObservedGeneration != 2 || !strings.Contains(programmed.Message, stuck.Name) {
		t.Errorf("while the proxy of %s is stuck: %+v, want it to be named", stuck.Name, programmed)
	}

	c.signal(stuck, "CONT")
	c.wait("condition=Ready", "mesh/mesh")
	if m := c.mesh("mesh"); m.Status.Proxies.Programmed != 2 || m.Status.ObservedGeneration != 2 {
		t.Errorf("after that, %d of 2 proxies hold generation %d, want 2 and 2", m.Status.Proxies.Programmed, m.Status.ObservedGeneration)
	}
}

// signal sends a signal to the proxy of a pod, on the pod's node.
func (c *cluster) signal(pod corev1.Pod, signal string) {
	c.t.Helper()
	name := "signal-" + rand.String(5)
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: signal, mesh.tulle.dev/inject: "false"}}
spec:
  nodeName: %s
  hostPID: true
  restartPolicy: Never
  containers:
  - name: app
    image: tulle.dev/capture:dev
    imagePullPolicy: IfNotPresent
    command: [/usr/local/bin/signal]
    args: [%s]
    terminationMessagePolicy: FallbackToLogsOnError
    securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [KILL]}}`,
		name, pod.Spec.NodeName, list([]string{"-process=" + pod.Name + "." + pod.Namespace, signal})))
	c.wait("jsonpath={.status.phase}=Succeeded", "pod/"+name)
}

package e2e

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// A control plane that comes a minute late: until then no app starts, and after that each one's first request succeeds. What
// runs already notices nothing. Not parallel to other tests, whose pods nobody would inject meanwhile.
func TestAppWaitsForLateControlPlane(t *testing.T) {
	const pods, late = 4, time.Minute
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest(), loadgen(detailsURL).manifest())
	c.rollout("details", "loadgen")
	c.wait("condition=Ready", "mesh/mesh")
	// Admission needs the control plane. So the pods are created while it is there, and scheduled once it is gone.
	get := []string{"get", "-timeout=5s", detailsURL}
	c.apply(strings.Replace(job("first", pods, nil, get...), "restartPolicy: Never",
		"restartPolicy: Never\n      schedulingGates: [{name: tulle.dev/control-plane-is-away}]", 1))
	c.eventually("the pods to be created", func() bool { return len(c.pods("first")) == pods })

	report := c.during("50", func() {
		start := c.stopControlPlane()
		for _, pod := range c.pods("first") {
			if !hasProxy(pod) {
				t.Fatalf("pod %s has no proxy", pod.Name)
			}
			c.kubectl("patch", "pod", pod.Name, "--type=json", `--patch=[{"op": "remove", "path": "/spec/schedulingGates"}]`)
		}
		c.eventually("the proxies to run", func() bool {
			running := 0
			for _, pod := range c.pods("first") {
				if proxyStatus(pod).State.Running != nil {
					running++
				}
			}
			return running == pods
		})
		for began := time.Now(); time.Since(began) < late; <-time.After(time.Second) {
			for _, pod := range c.pods("first") {
				proxy, app := proxyStatus(pod), pod.Status.ContainerStatuses[0]
				if proxy.State.Running == nil || proxy.RestartCount > 0 || *proxy.Started {
					t.Fatalf("%s without a control plane, the proxy of pod %s is %+v, want it to run and not to be ready", time.Since(began), pod.Name, proxy)
				}
				if app.State.Waiting == nil || app.RestartCount > 0 {
					t.Fatalf("%s without a control plane, the app of pod %s is %+v, want it not to have started", time.Since(began), pod.Name, app.State)
				}
			}
		}
		start()
		c.wait("condition=Complete", "job/first")
	})
	report.wantNoFailure(t)
	if served := c.served("details"); served != report.Sent+pods {
		t.Errorf("details counted %d requests, want %d of the load and one of each of %d apps", served, report.Sent, pods)
	}
}

// proxyStatus is what the kubelet says of a pod's proxy; nothing before it has started.
func proxyStatus(pod corev1.Pod) corev1.ContainerStatus {
	for _, status := range pod.Status.InitContainerStatuses {
		if status.Name == sidecar.ProxyContainer {
			return status
		}
	}
	return corev1.ContainerStatus{}
}

// stopControlPlane ends all of Tulle's own pods. What it returns starts them again; the end of the test does so at the latest.
func (c *cluster) stopControlPlane() (start func()) {
	c.t.Helper()
	const deployment = "deployment/tulle-manager"
	replicas := c.kubectl("-n", "tulle-system", "get", deployment, "-o", "jsonpath={.spec.replicas}")
	start = func() {
		c.kubectl("-n", "tulle-system", "scale", deployment, "--replicas="+replicas)
		c.kubectl("-n", "tulle-system", "rollout", "status", deployment, "--timeout="+patience.String())
	}
	c.t.Cleanup(start)
	c.kubectl("-n", "tulle-system", "scale", deployment, "--replicas=0")
	c.kubectl("-n", "tulle-system", "wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=tulle", "--timeout="+patience.String())
	return start
}

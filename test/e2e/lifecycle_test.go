package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const detailsURL = "http://details:9080/details/0"

// One `kubectl apply` of a Mesh and its workloads gives every pod a proxy, in a namespace that was never in the mesh.
func TestMeshAndWorkloadsInOneFile(t *testing.T) {
	t.Parallel()
	for range 3 {
		c := connect(t)
		c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest(), loadgen(detailsURL).manifest())
		c.rollout("details", "loadgen")
		for _, pod := range c.pods("") {
			if !hasProxy(pod) {
				t.Errorf("pod %s has no proxy", pod.Name)
			}
		}
		c.wait("condition=Ready", "mesh/mesh")
		if summary := c.mesh("mesh").Status.Proxies.Summary; summary != "3/3" {
			t.Errorf("the Mesh says that %s proxies are current, want 3/3", summary)
		}
	}
}

// A Job ends when its app ends, with the app's result.
func TestJobCompletes(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details"}.manifest())
	c.rollout("details")
	c.apply(
		job("good", 1, nil, "get", detailsURL),
		job("bad", 1, nil, "get", "http://details:9080/details/no-such-book"),
	)
	c.wait("condition=Complete", "job/good")
	c.wait("condition=Failed", "job/bad")
	for name, want := range map[string]corev1.PodPhase{"good": corev1.PodSucceeded, "bad": corev1.PodFailed} {
		for _, pod := range c.pods(name) {
			if !hasProxy(pod) || pod.Status.Phase != want {
				t.Errorf("pod %s: phase %s, a native sidecar: %t; want %s and one", pod.Name, pod.Status.Phase, hasProxy(pod), want)
			}
		}
	}
}

// The network works from the first line of an app, and in its init containers.
func TestFirstRequest(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details"}.manifest())
	c.rollout("details")
	get := []string{"get", "-timeout=5s", detailsURL}
	const pods = 8
	c.apply(job("first", pods, get, get...))
	c.wait("condition=Complete", "job/first")
	if served := c.served("details"); served != 2*pods {
		t.Errorf("details counted %d requests, want %d: one of each init container and one of each app", served, 2*pods)
	}
}

// Restarts of either side lose no request.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest(), loadgen(detailsURL).manifest())
	c.rollout("details", "loadgen")
	c.wait("condition=Ready", "mesh/mesh")
	c.during("50", func() {
		for range 2 {
			c.kubectl("rollout", "restart", "deployment/details")
			c.rollout("details")
		}
	}).wantNoFailure(t)
}

// A Mesh that goes away cuts no traffic, neither at once nor when pods are restarted afterwards.
func TestDeletionOfTheMesh(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest(), loadgen(detailsURL).manifest())
	c.rollout("details", "loadgen")
	c.wait("condition=Ready", "mesh/mesh")
	c.during("50", func() {
		c.kubectl("delete", "mesh", "mesh", "--timeout="+patience.String())
		// A pod of the next moment may still get a proxy, which works like the others.
		c.eventually("the namespace to be enrolled no more", func() bool {
			return !strings.Contains(c.kubectl("get", "mutatingwebhookconfiguration", "tulle", "-o", "jsonpath={.webhooks[*].namespaceSelector}"),
				fmt.Sprintf("%q", c.namespace))
		})
		c.kubectl("rollout", "restart", "deployment/details")
		c.rollout("details")
	}).wantNoFailure(t)
	for _, pod := range c.pods("details") {
		if hasProxy(pod) {
			t.Errorf("pod %s was started after the Mesh was deleted and has a proxy", pod.Name)
		}
	}
	// The load generator's proxy needs what Tulle keeps in the namespace until it ends.
	c.kubectl("rollout", "restart", "deployment/loadgen")
	c.rollout("loadgen")
	c.eventually("Tulle to leave nothing behind", func() bool {
		return !strings.Contains(c.kubectl("get", "configmaps", "-o", "name"), "tulle")
	})
}

// Pods that were there before the Mesh are named, with the remedy, which works.
func TestInjectedNamesPods(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.apply(app{name: "details"}.manifest())
	c.rollout("details")
	pod := c.pods("details")[0].Name

	c.apply(mesh("Permissive"))
	c.wait("condition=Injected=False", "mesh/mesh")
	message := ""
	for _, condition := range c.mesh("mesh").Status.Conditions {
		if condition.Type == "Injected" {
			message = condition.Message
		}
	}
	_, remedy, _ := strings.Cut(message, "run: kubectl ")
	if !strings.Contains(message, pod) || !strings.Contains(remedy, "rollout restart") {
		t.Fatalf("Injected says %q, want the pod %s and what to run", message, pod)
	}
	if columns := c.kubectl("get", "mesh"); !strings.Contains(columns, "0/1") || !strings.Contains(columns, "False") {
		t.Errorf("kubectl get mesh:\n%s\nwant READY False and PROXIES 0/1", columns)
	}

	c.kubectl(strings.Fields(remedy)...)
	c.rollout("details")
	c.wait("condition=Ready", "mesh/mesh")
	if columns := c.kubectl("get", "mesh"); !strings.Contains(columns, "1/1") {
		t.Errorf("after the restart, kubectl get mesh:\n%s\nwant PROXIES 1/1", columns)
	}
}

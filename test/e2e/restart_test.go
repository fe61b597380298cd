package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestRestartOfEverything: all pods end, those of DNS, cert-manager and Tulle included, with nobody left behind the webhooks, and everything comes
// back unaided. Then, in the lab, the node does: every container, the kubelet and containerd are killed.
//
// It is not parallel: Go runs it before those that are, alone. In a cluster of somebody's own it ends no pods but its own and Tulle's.
func TestRestartOfEverything(t *testing.T) {
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest(), loadgen(detailsURL).manifest())
	c.rollout("details", "loadgen")
	c.wait("condition=Ready", "mesh/mesh")
	c.load("-rate=50", "-for=2s").wantNoFailure(t)

	namespaces := []string{c.namespace, "tulle-system"}
	if c.isLab() {
		namespaces = strings.Fields(c.kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}"))
	}
	before := c.running(namespaces)
	// Tulle goes first, and comes back last: else its next pod is admitted while the one before still ends.
	replicas := c.kubectl("-n", "tulle-system", "get", "deployment", "tulle-manager", "-o", "jsonpath={.spec.replicas}")
	c.kubectl("-n", "tulle-system", "scale", "deployment/tulle-manager", "--replicas=0")
	c.eventually("Tulle to have ended", func() bool {
		pods, err := c.podsOf([]string{"tulle-system"})
		return err == nil && len(pods) == 0
	})
	start := time.Now()
	for _, ns := range namespaces {
		c.kubectl("-n", ns, "delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
	}
	t.Logf("%d pods of %d namespaces were ended within %v", len(before), len(namespaces), time.Since(start).Round(time.Second))
	c.eventually("pods of the mesh to be refused", func() bool {
		return strings.Contains(c.kubectl("get", "events", "--field-selector=reason=FailedCreate", "-o", "jsonpath={.items[*].message}"), `failed calling webhook "enrolled.sidecar`)
	})
	c.kubectl("-n", "tulle-system", "scale", "deployment/tulle-manager", "--replicas="+replicas)
	c.comesBack(t, namespaces, start, len(before), func(p corev1.Pod) bool { return !slices.Contains(before, p.UID) })

	if !c.isLab() {
		t.Log("this is not the lab: its node is not restarted")
		return
	}
	start = time.Now()
	c.killNode(t)
	c.comesBack(t, namespaces, start, len(before), func(p corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
			return s.State.Running != nil && s.State.Running.StartedAt.After(start.Add(-time.Second))
		})
	})
}

// comesBack waits until as many pods as before are new and ready, and the Mesh is, and holds that requests succeed then.
func (c *cluster) comesBack(t *testing.T, namespaces []string, start time.Time, n int, isNew func(corev1.Pod) bool) {
	t.Helper()
	var last string
	c.eventually("all pods to be new and ready", func() bool {
		pods, err := c.podsOf(namespaces)
		if err != nil {
			last = err.Error()
			return false
		}
		ready := 0
		for _, p := range pods {
			if isNew(p) && isReady(p) {
				ready++
			} else if now := p.Namespace + "/" + p.Name; now != last {
				last = now
			}
		}
		return ready >= n && ready == len(pods)
	})
	t.Logf("all pods are ready after %v, the last: %s", time.Since(start).Round(time.Second), last)
	c.wait("condition=Ready", "mesh/mesh")
	for _, p := range append(c.pods("details"), c.pods("loadgen")...) {
		if !hasProxy(p) {
			t.Errorf("pod %s has no proxy", p.Name)
		}
	}
	t.Logf("the Mesh is Ready after %v", time.Since(start).Round(time.Second))
	c.load("-rate=50", "-for=2s").wantNoFailure(t)
}

// isLab reports whether the cluster is the lab, of which everything may be broken.
func (c *cluster) isLab() bool {
	c.t.Helper()
	return c.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.addresses[0].address}") == "lab 10.77.0.1"
}

// killNode kills what runs pods on the node of the lab. The containers go when containerd, started again, finds their shims dead.
func (c *cluster) killNode(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The command sees the lab's own processes and no others.
	const script = `for p in /proc/[0-9]*; do
  case "$(cat $p/comm 2>/dev/null)" in kubelet|containerd|containerd-shim|containerd-shim-*) echo "${p#/proc/}";; esac
done`
	out, err := exec.CommandContext(ctx, "../../bin/lab", "exec", "--", "sh", "-c", script).Output()
	pids := strings.Fields(string(out))
	if err != nil || len(pids) < 5 {
		t.Fatalf("the processes of the node: %q (%v)", out, err)
	}
	if out, err := exec.CommandContext(ctx, "../../bin/lab", append([]string{"exec", "--", "kill", "-KILL"}, pids...)...).CombinedOutput(); err != nil {
		t.Fatalf("kill: %v: %s", err, out)
	}
	t.Logf("%d processes of the node were killed", len(pids))
}

func (c *cluster) podsOf(namespaces []string) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := c.client.List(c.t.Context(), &list, &client.ListOptions{}); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return !slices.Contains(namespaces, p.Namespace) || p.Status.Phase == corev1.PodSucceeded
	}), nil
}

// running are the UIDs of the pods that run.
func (c *cluster) running(namespaces []string) []types.UID {
	c.t.Helper()
	pods, err := c.podsOf(namespaces)
	if err != nil {
		c.t.Fatal(err)
	}
	var uids []types.UID
	for _, p := range pods {
		if p.DeletionTimestamp == nil {
			uids = append(uids, p.UID)
		}
	}
	return uids
}

func isReady(p corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

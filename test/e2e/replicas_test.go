package e2e

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// TestReplicas takes the control plane's replicas away, one after the other and in every way, under load: not one request is lost, and the Mesh
// says what holds. It is not parallel to others, whose pods want webhooks that answer.
func TestReplicas(t *testing.T) {
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest(), loadgen(detailsURL).manifest())
	c.rollout("details", "loadgen")
	c.wait("condition=Ready", "mesh/mesh")

	for _, step := range []struct {
		name string
		// trouble returns how many requests others than the load generator have sent.
		trouble func(*cluster) int64
	}{
		{"the leader is killed", killLeader},
		{"the leader can't reach the other", cutPeers},
		{"a follower can't reach the API server", cutFollower},
		{"all are replaced", replaceAll},
		{"the leader can't reach the API server", cutLeader},
	} {
		t.Run(step.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			before := sub.served("details")
			var others int64
			r := sub.during("100", func() {
				others = step.trouble(&sub)
				sub.ready()
			})
			r.wantNoFailure(t)
			if served := sub.served("details") - before; served != r.Sent+others {
				t.Errorf("details counted %d requests, want the %d of the load generator and %d more", served, r.Sent, others)
			}
			t.Logf("%d requests, %d failed", r.Sent+others, r.Sent-r.Succeeded)
		})
	}
}

// change gives the Mesh a new generation, and proxies something new to hold.
func (c *cluster) change() {
	c.t.Helper()
	mode := "Errors"
	if c.mesh("mesh").Spec.Observability.AccessLog.Mode == "Errors" {
		mode = "All"
	}
	c.kubectl("patch", "mesh", "mesh", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"observability":{"accessLog":{"mode":%q}}}}`, mode))
}

// ready waits until the Mesh is, with all of its proxies.
func (c *cluster) ready() {
	c.t.Helper()
	c.wait("condition=Ready", "mesh/mesh")
	want := len(c.pods("details")) + len(c.pods("loadgen"))
	c.eventually(fmt.Sprintf("%d proxies to be current", want), func() bool {
		return c.mesh("mesh").Status.Proxies.Summary == fmt.Sprintf("%d/%d", want, want)
	})
}

// led waits until somebody else holds the lease.
func (c *cluster) led(before string) {
	c.t.Helper()
	c.eventually("somebody else to lead", func() bool { now := c.holder(); return now != "" && now != before })
}

func killLeader(c *cluster) int64 {
	before := c.holder()
	leader, _ := c.replicas()
	c.kill(leader)
	c.led(before)
	c.change()
	return 0
}

func cutPeers(c *cluster) int64 {
	leader, follower := c.replicas()
	c.cut(leader, follower.Status.PodIP, func() {
		c.wait("condition=Ready=Unknown", "mesh/mesh")
		for _, kind := range []string{v1alpha1.ConditionInjected, v1alpha1.ConditionProgrammed, v1alpha1.ConditionReady} {
			condition := meta.FindStatusCondition(c.mesh("mesh").Status.Conditions, kind)
			if condition == nil || condition.Reason != "ReplicaSilent" || !strings.Contains(condition.Message, follower.Name) {
				c.t.Errorf("%s is %+v, want ReplicaSilent and the pod %s", kind, condition, follower.Name)
			}
		}
	})
	return 0
}

// cutFollower: proxies go to the replica that sees the API server, so that they hear of new pods, and new pods' proxies start.
func cutFollower(c *cluster) int64 {
	const pods = 4
	_, follower := c.replicas()
	c.cut(follower, c.apiServer(), func() {
		get := []string{"get", "-timeout=5s", detailsURL}
		c.apply(job("first", pods, get, get...))
		c.kubectl("scale", "deployment/details", "--replicas=4")
		c.wait("condition=Complete", "job/first")
		c.rollout("details")
		c.change()
		c.ready()
		c.eventually("every pod of details to be sent requests", func() bool {
			for _, pod := range c.pods("details") {
				if c.count(pod) == 0 {
					return false
				}
			}
			return true
		})
	})
	return 2 * pods
}

// cutLeader: a leader without the API server is deposed, not restarted.
func cutLeader(c *cluster) int64 {
	before := c.holder()
	leader, _ := c.replicas()
	c.cut(leader, c.apiServer(), func() {
		c.led(before)
		c.change()
		c.ready()
	})
	_, now := c.replicas()
	if now.Name != leader.Name || now.Status.ContainerStatuses[0].RestartCount != leader.Status.ContainerStatuses[0].RestartCount {
		c.t.Errorf("the former leader %s was restarted: it is %s now, with %d restarts", leader.Name, now.Name, now.Status.ContainerStatuses[0].RestartCount)
	}
	return 0
}

func replaceAll(c *cluster) int64 {
	c.kubectl("-n", systemNamespace, "rollout", "restart", managers)
	c.kubectl("-n", systemNamespace, "rollout", "status", managers, "--timeout="+patience.String())
	c.change()
	return 0
}

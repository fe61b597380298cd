package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// everything is a Mesh with every field that the previous version has.
const everything = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  proxy:
    podSelector: {matchExpressions: [{key: app, operator: Exists}]}
    resources: {requests: {cpu: 10m, memory: 32Mi}}
    concurrency: 1
    logLevel: Warning
    drainDuration: 4s
  mtls: {mode: Strict, ports: [{port: 9999, mode: Permissive}]}
  observability: {accessLog: {mode: All}}
  services:
  - name: kept
    ports: [{port: 9080, protocol: HTTP}]
  - name: details
    versions: [{name: v1, labels: {app: details}}]
    routes:
    - name: testers
      match: [{headers: [{name: end-user, value: jas.*, type: RegularExpression}]}]
      to: [{version: v1, weight: 3}]
    - name: rest
      to: [{version: v1}]`

const everythingMeshWide = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  mtls: {mode: Permissive}
  meshWide:
    trust: {domain: example.test, certificateDuration: 1h30m}
    network: {serviceRanges: [10.200.0.0/16], podRanges: [10.201.0.0/16], serverFirstPorts: [7777]}`

// TestUpgradeAndBack: the previous version, installed as its users did, is replaced by this one under load: the operator first, then
// the proxies, one workload at a time, so that old and new ones talk to each other and to the new operator; then all the way back.
// What the old version stored is what the new one reads. No request fails.
func TestUpgradeAndBack(t *testing.T) {
	before := connect(t)
	before.requireOwnTulle(t)
	current, previous := before.withImages(before.manifests("dist", "install.yaml")), before.manifests("bin", "previous.yaml")
	before.uninstall(current)
	t.Cleanup(func() {
		before.inSystem().kubectl("delete", "mesh", "mesh", "--ignore-not-found")
		before.install(current)
		before.kubectl("label", "--field-manager=tulle-demo", "namespace", system, "mesh.tulle.dev/demo=true")
	})
	before.install(previous)
	c := connect(t)
	c.inSystem().apply(everythingMeshWide)
	c.apply(everything, app{name: "details", replicas: 2}.manifest(), tcpService("details"),
		loader("kept", "http://details:9080/details/0"), loader("fresh", fmt.Sprintf("http://details-tcp:%d/details/0", tcpPort)))
	c.rollout("details", "kept", "fresh")
	c.wait("condition=Ready", "mesh/mesh")
	stored, root := c.mesh("mesh"), c.inSystem().mesh("mesh")

	c.startLoads()
	c.replaceTulle("the new operator", current)
	c.wantRead(stored, root)
	c.restartInTurn("new proxies")
	c.wait("condition=Ready", "mesh/mesh")
	c.replaceTulle("the old operator", previous)
	c.wantRead(stored, root)
	c.restartInTurn("old proxies")
	c.wait("condition=Ready", "mesh/mesh")
	c.endLoad("at the end", "kept")
	c.endLoad("at the end", "fresh")
}

func (c *cluster) startLoads() {
	c.t.Helper()
	c.startLoad("kept", "-rate=50")
	c.startLoad("fresh", "-rate=20", "-fresh")
}

// endLoad ends a load and checks that nothing failed.
func (c *cluster) endLoad(when, name string) {
	c.t.Helper()
	r := c.loadFrom(name, "-stop")
	c.t.Logf("%s: %s had %d requests answered", when, name, r.Succeeded)
	if r.Sent == 0 || r.Succeeded != r.Sent {
		c.t.Errorf("%s: %d of %d requests of %s succeeded: %v, the last failure: %s", when, r.Succeeded, r.Sent, name, r.Statuses, r.LastError)
	}
}

// replaceTulle installs the other version and waits until its operator has programmed all proxies as they are.
func (c *cluster) replaceTulle(by, manifests string) {
	c.t.Helper()
	c.install(manifests)
	image := c.operatorImage()
	c.eventually(by+" to have all proxies", func() bool {
		streams := 0
		for _, pod := range c.inSystem().pods("") {
			if pod.Spec.Containers[0].Image != image {
				return false
			}
			streams += c.metric(pod, "tulle_xds_streams")
		}
		return streams == 4
	})
	c.eventually("all proxies to take what "+by+" sends", func() bool {
		p := c.mesh("mesh").Status.Proxies
		return p != nil && p.Connected == 4 && p.Programmed == 4
	})
	for _, pod := range c.inSystem().pods("") {
		if refused := c.metric(pod, `tulle_xds_nacks_total\{[^}]*\}`); refused > 0 {
			c.t.Errorf("%s: proxies refused %d responses", by, refused)
		}
	}
}

// operatorImage is that of the version which is installed; its init containers have it too.
func (c *cluster) operatorImage() string {
	c.t.Helper()
	return c.inSystem().kubectl("get", "deployment", "tulle-manager", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
}

// metric is the sum of a metric of an operator's pod; 0 while it can't be asked.
func (c *cluster) metric(pod corev1.Pod, pattern string) int {
	text, err := c.try(nil, "get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:8080/proxy/metrics", pod.Namespace, pod.Name))
	if err != nil {
		return 0
	}
	sum := 0
	for _, found := range regexp.MustCompile(`(?m)^`+pattern+` (\d+)$`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(found[1])
		if err != nil {
			return 0
		}
		sum += n
	}
	return sum
}

// wantRead checks that a version reads what the other stored, says so, and takes it as it is.
func (c *cluster) wantRead(stored, root *v1alpha1.Mesh) {
	c.t.Helper()
	for _, o := range []struct {
		c        *cluster
		was      *v1alpha1.Mesh
		manifest string
	}{{c, stored, everything}, {c.inSystem(), root, everythingMeshWide}} {
		now := o.c.mesh("mesh")
		if missing := lacks("spec", fields(c.t, now.Spec), fields(c.t, o.was.Spec)); missing != "" || now.Generation != o.was.Generation {
			c.t.Errorf("Mesh %s/%s of generation %d is of generation %d now and lacks %q", now.Namespace, now.Name, o.was.Generation, now.Generation, missing)
		}
		accepted := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionAccepted)
		if accepted == nil || accepted.Status != metav1.ConditionTrue || accepted.ObservedGeneration != now.Generation {
			c.t.Errorf("Mesh %s/%s: Accepted is %+v", now.Namespace, now.Name, accepted)
		}
		if _, err := o.c.try([]byte(o.manifest), "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"); err != nil {
			c.t.Errorf("it can't be applied again: %v", err)
		}
	}
}

// fields are a spec as JSON has it.
func fields(t *testing.T, spec v1alpha1.MeshSpec) any {
	t.Helper()
	text, err := json.Marshal(spec)
	var out any
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lacks returns the path of a value that was there and now is another or none; empty when all are there. New ones may have come, by
// defaults of the newer version.
func lacks(path string, now, was any) string {
	switch was := was.(type) {
	case map[string]any:
		now, _ := now.(map[string]any)
		for name, value := range was {
			if missing := lacks(path+"."+name, now[name], value); missing != "" {
				return missing
			}
		}
		return ""
	case []any:
		now, _ := now.([]any)
		if len(now) != len(was) {
			return path
		}
		for i := range was {
			if missing := lacks(fmt.Sprintf("%s[%d]", path, i), now[i], was[i]); missing != "" {
				return missing
			}
		}
		return ""
	default:
		if now != was {
			return path
		}
		return ""
	}
}

// restartInTurn gives each workload the sidecars of the operator that runs: the servers first, pod by pod, then each client
// while the other goes on.
func (c *cluster) restartInTurn(which string) {
	c.t.Helper()
	c.kubectl("rollout", "restart", "deployment/details")
	c.rollout("details")
	for _, client := range []string{"fresh", "kept"} {
		c.endLoad(fmt.Sprintf("%s at the servers", which), client)
		c.kubectl("rollout", "restart", "deployment/"+client)
		c.rollout(client)
		if client == "fresh" {
			c.startLoad("fresh", "-rate=20", "-fresh")
		} else {
			c.startLoad("kept", "-rate=50")
		}
	}
	for _, pod := range c.pods("") {
		if image := pod.Spec.InitContainers[0].Image; image != c.operatorImage() {
			c.t.Errorf("%s: pod %s was injected by %s", which, pod.Name, image)
		}
	}
}

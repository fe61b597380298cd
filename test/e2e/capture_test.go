package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

// capture is a pod in the node's network that sees every packet from and to some pods.
type capture struct {
	c    *cluster
	name string
}

// captured is what it saw.
type captured struct {
	Packets int64            `json:"packets"`
	Bytes   int64            `json:"bytes"`
	Dropped int64            `json:"dropped"`
	Texts   map[string]int64 `json:"texts"`
}

// capture starts to look for texts in the packets of pods, on the node of the first of them.
func (c *cluster) capture(pods []corev1.Pod, texts ...string) capture {
	c.t.Helper()
	args := []string{"-for=10m"}
	for _, pod := range pods {
		for _, ip := range pod.Status.PodIPs {
			args = append(args, "-address="+ip.IP)
		}
	}
	for _, text := range texts {
		args = append(args, "-text="+text)
	}
	w := capture{c: c, name: "capture-" + rand.String(5)}
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: capture, mesh.tulle.dev/inject: "false"}}
spec:
  nodeName: %s
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: app
    image: tulle.dev/capture:dev
    imagePullPolicy: IfNotPresent
    args: [%s]
    securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [NET_RAW, NET_ADMIN]}}`, w.name, pods[0].Spec.NodeName, list(args)))
	c.wait("condition=Ready", "pod/"+w.name)
	c.eventually("the capture to listen", func() bool { return strings.Contains(c.kubectl("logs", w.name), "listening") })
	return w
}

// end returns what was seen until now.
func (w capture) end() captured {
	w.c.t.Helper()
	w.c.kubectl("exec", w.name, "--", "capture", "-stop")
	w.c.wait("jsonpath={.status.phase}=Succeeded", "pod/"+w.name)
	lines := strings.Split(strings.TrimSpace(w.c.kubectl("logs", w.name)), "\n")
	var seen captured
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &seen); err != nil {
		w.c.t.Fatalf("%v in %q", err, lines)
	}
	return seen
}

// wantSealed checks that at least so many bytes were seen, and none of the texts.
func (s captured) wantSealed(t *testing.T, bytes int64) {
	t.Helper()
	if s.Bytes < bytes || s.Dropped != 0 {
		t.Errorf("the capture saw %d bytes and missed %d packets, want at least %d bytes and none missed", s.Bytes, s.Dropped, bytes)
	}
	for _, text := range slices.Sorted(maps.Keys(s.Texts)) {
		if s.Texts[text] > 0 {
			t.Errorf("%q is readable on the wire, in %d packets", text, s.Texts[text])
		}
	}
}

// TestPermissiveThenStrict: a client without a proxy is answered, readably, under Permissive and refused under Strict;
// between proxies nothing is ever readable.
func TestPermissiveThenStrict(t *testing.T) {
	t.Parallel()
	inside, outside := connect(t), connect(t)
	reviews := app{name: "reviews", args: []string{"reviews", "-version=v1"}}
	inside.apply(mesh("Permissive"), reviews.manifest(), loadgen("http://reviews:9080/reviews/0").manifest())
	outside.apply(app{name: "outsider", args: []string{"details"}}.manifest())
	inside.rollout("reviews", "loadgen")
	outside.rollout("outsider")
	inside.wait("condition=Ready", "mesh/mesh")

	const text = "Everything holds together"
	marker := "marker-" + rand.String(12)
	url := "http://reviews." + inside.namespace + ":9080/reviews/0"
	get := []string{"-timeout=5s", "-header=end-user: " + marker, url}

	watch := inside.capture(inside.pods("reviews"), marker, text)
	if answer, err := outside.firstGet("outsider", get...); err != nil || !strings.Contains(answer, text) {
		t.Errorf("Permissive: a client without a proxy got %q %v", answer, errorText(err))
	}
	if seen := watch.end(); seen.Texts[marker] == 0 || seen.Texts[text] == 0 {
		t.Errorf("Permissive: the capture does not see what a client without a proxy sends and gets: %+v", seen)
	}

	watch = inside.capture(inside.pods("reviews"), marker, text)
	inside.load("-rate=50", "-for=2s", "-tester="+marker, "-tester-every=1").wantNoFailure(t)
	watch.end().wantSealed(t, 100*500)

	inside.apply(mesh("Strict"))
	inside.wait("condition=Ready", "mesh/mesh")
	before := inside.served("reviews")
	sealed := "sealed-" + rand.String(12)
	watch = inside.capture(inside.pods("reviews"), sealed, text)
	answer, err := outside.exec("outsider", append([]string{"get"}, get...)...)
	if err == nil {
		t.Errorf("Strict: a client without a proxy was answered: %s", answer)
	}
	if served := inside.served("reviews") - before; served != 0 {
		t.Errorf("Strict: %d requests of a client without a proxy reached the app", served)
	}
	inside.load("-rate=50", "-for=2s", "-tester="+sealed, "-tester-every=1").wantNoFailure(t)
	watch.end().wantSealed(t, 100*500)
}

package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// rotations are those of an hour with certificates that live ten minutes, each renewed at two thirds of its life.
const rotations = 9

// lifetimeVariable has the lifetime of certificates that `make soak` asks for; 20s without.
const lifetimeVariable = "TULLE_CERTIFICATE_LIFETIME"

// TestCertificatesUnderPressure: an hour's worth of rotations of all workloads' certificates, the intermediate CA renewed, the root replaced
// by another, and the serving certificates of webhooks and xDS renewed under it; all under load. No request fails, no admission
// is refused, no stream is lost. In the end the mesh lives on the new root alone.
func TestCertificatesUnderPressure(t *testing.T) {
	lifetime, err := time.ParseDuration(cmp.Or(os.Getenv(lifetimeVariable), "20s"))
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t)
	c.root(`
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  meshWide: {trust: {certificateDuration: ` + lifetime.String() + `}}`)
	c.apply(mesh("Strict"), app{name: "details", replicas: 2}.manifest(), tcpService("details"),
		loader("kept", "http://details:9080/details/0"), loader("fresh", fmt.Sprintf("http://details-tcp:%d/details/0", tcpPort)))
	c.rollout("details", "kept", "fresh")
	c.wait("condition=Ready", "mesh/mesh")
	proxies := c.pods("")
	connections := map[string]string{}
	for _, pod := range proxies {
		connections[pod.Name] = c.proxyStat(pod, connectionsMade)
	}

	seen, admissions := c.watchPeers("details"), c.admit()
	c.startLoad("kept", "-rate=50")
	c.startLoad("fresh", "-rate=20", "-fresh")

	c.renew(identity.Intermediate)
	c.replaceRoot()
	c.eventuallyWithin(rotations*lifetime+patience, fmt.Sprintf("%d rotations", rotations), func() bool { return seen.of(c, "fresh") > rotations })
	c.eventually("the new root to be known everywhere", func() bool {
		return identity.Covers(c.trust(identity.KnownKey), c.secret(identity.RootCertificate).Data[corev1.TLSCertKey])
	})
	c.awaitReissue(seen, lifetime)
	c.forgetOldRoot()
	c.awaitReissue(seen, lifetime)
	for _, pod := range proxies {
		state, failed, made := c.proxyStat(pod, connectedState), c.proxyStat(pod, connectionsFailed), c.proxyStat(pod, connectionsMade)
		if hour := os.Getenv(lifetimeVariable) != ""; hour {
			made = connections[pod.Name] // in an hour, connections are made anew on purpose
		}
		if state != "1" || failed != "0" || made != connections[pod.Name] {
			t.Errorf("%s: connected %q, %q connections failed, %q were made, of which %q before; want 1, none and no other", pod.Name, state, failed, made, connections[pod.Name])
		}
	}

	// What the pods mount knows the new root too: their proxies find the control plane again.
	c.inSystem().kubectl("rollout", "restart", "deployment/tulle-manager")
	c.inSystem().rollout("tulle-manager")
	c.eventually("all proxies to be back", func() bool {
		p := c.mesh("mesh").Status.Proxies
		return p != nil && p.Connected == int32(len(proxies)) && p.Programmed == p.Connected
	})

	kept, fresh := c.loadFrom("kept", "-stop"), c.loadFrom("fresh", "-stop")
	kept.wantNoFailure(t)
	fresh.wantNoFailure(t)
	if served := c.served("details"); served != kept.Sent+fresh.Sent {
		t.Errorf("details counted %d requests, want the %d and %d that were sent", served, kept.Sent, fresh.Sent)
	}
	admissions.wantNoRefusal(t)
	t.Logf("%d requests on kept connections, %d on new ones, %d certificates of one client", kept.Sent, fresh.Sent, seen.of(c, "fresh"))
	c.wantNoKeys()
}

// loader is a load generator of a name of its own.
func loader(name, url string) string {
	return app{name: name, args: []string{"loadgen", "-rate=0", "-url=" + url}}.manifest()
}

// tcpPort is a port whose bytes no proxy looks at, as a server of MySQL speaks first.
const tcpPort = 3306

// tcpService is a second Service of an app, which is TCP to the proxies: each connection of a client is one between them, with a
// handshake of its own.
func tcpService(app string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s-tcp}
spec:
  selector: {app: %[1]s}
  ports: [{name: tcp, port: %[2]d, targetPort: http}]`, app, tcpPort)
}

// sightings are the certificates that the proxies of an app see, by SPIFFE ID, in the order in which they first saw them.
type sightings struct {
	mu      sync.Mutex
	serials map[string][]string
}

// watchPeers follows the access logs of an app's proxies until the test ends. kubectl goes on where the kubelet exchanges a log; where its connection
// ends, as one may within the hour of a soak, it begins again with what is there.
func (c *cluster) watchPeers(app string) *sightings {
	c.t.Helper()
	seen := &sightings{serials: map[string][]string{}}
	ctx, stop := context.WithCancel(c.t.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		for ctx.Err() == nil {
			if err := seen.follow(ctx, c.namespace, app); err != nil && ctx.Err() == nil {
				c.t.Logf("the logs of %s are followed anew: %v", app, err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	c.t.Cleanup(func() {
		stop()
		reading.Wait()
	})
	return seen
}

// follow reads the access logs of an app's proxies until kubectl ends.
func (s *sightings) follow(ctx context.Context, namespace, app string) error {
	command := exec.CommandContext(ctx, "kubectl", "--namespace", namespace, "logs", "--follow", "--selector=app="+app,
		"--container="+sidecar.ProxyContainer, "--tail=-1")
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(output); lines.Scan(); {
		s.add(lines.Bytes())
	}
	return command.Wait()
}

// add takes a line of a log; those that are no access log are Envoy's own.
func (s *sightings) add(line []byte) {
	var entry accessEntry
	if json.Unmarshal(line, &entry) != nil || entry.Peer == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.serials[entry.Peer], entry.Serial) {
		s.serials[entry.Peer] = append(s.serials[entry.Peer], entry.Serial)
	}
}

// of is the number of certificates that were seen of a service account.
func (s *sightings) of(c *cluster, account string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.serials[fmt.Sprintf("spiffe://cluster.local/ns/%s/sa/%s", c.namespace, account)])
}

// replaceRoot has cert-manager make another root, and all that descends from it.
func (c *cluster) replaceRoot() {
	c.t.Helper()
	before := string(c.secret(identity.RootCertificate).Data[corev1.TLSCertKey])
	c.inSystem().kubectl("delete", "secret", identity.RootCertificate)
	root := []byte(nil)
	c.eventually("another root", func() bool {
		var s corev1.Secret
		err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: system, Name: identity.RootCertificate}, &s)
		root = s.Data[corev1.TLSCertKey]
		return err == nil && len(root) > 0 && string(root) != before
	})
	for _, name := range []string{identity.WebhookCertificate, identity.ControlPlaneCertificate, identity.Intermediate} {
		c.renew(name)
		if ca := c.secret(name).Data[identity.CAKey]; !bytes.Equal(bytes.TrimSpace(ca), bytes.TrimSpace(root)) {
			c.t.Fatalf("%s was renewed under another root", name)
		}
	}
}

// trust returns what the trust ConfigMap has under a key.
func (c *cluster) trust(key string) []byte {
	c.t.Helper()
	var m corev1.ConfigMap
	if err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: system, Name: identity.TrustConfigMap}, &m); err != nil {
		c.t.Fatal(err)
	}
	return []byte(m.Data[key])
}

// awaitReissue waits until a client has had another certificate. Those of all proxies are then made by who signs now: a new root has
// them made anew within a tenth of their lifetime.
func (c *cluster) awaitReissue(seen *sightings, lifetime time.Duration) {
	c.t.Helper()
	want := seen.of(c, "fresh") + 1
	c.eventuallyWithin(lifetime+patience, "another certificate", func() bool { return seen.of(c, "fresh") >= want })
}

// forgetOldRoot has the mesh trust the newest root alone, as docs/mesh.md tells.
func (c *cluster) forgetOldRoot() {
	c.t.Helper()
	root := string(c.secret(identity.RootCertificate).Data[corev1.TLSCertKey])
	if !identity.Covers(c.trust(identity.CAKey), []byte(root)) || bytes.Count(c.trust(identity.CAKey), []byte("BEGIN")) < 2 {
		c.t.Fatalf("trusted are\n%s\nwant others besides\n%s", c.trust(identity.CAKey), root)
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]string{identity.CAKey: root}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.inSystem().kubectl("patch", "configmap", identity.TrustConfigMap, "--type=merge", "-p", string(patch))
	c.eventually("one trusted root", func() bool { return bytes.Count(c.trust(identity.CAKey), []byte("BEGIN")) == 1 })
}

// Statistics of a proxy about the control plane.
const (
	connectedState    = `envoy_control_plane_connected_state\{[^}]*\}`
	connectionsFailed = `envoy_cluster_upstream_cx_connect_fail\{[^}]*envoy_cluster_name="xds"[^}]*\}`
	connectionsMade   = `envoy_cluster_upstream_cx_total\{[^}]*envoy_cluster_name="xds"[^}]*\}`
)

// proxyStat returns the value of a proxy's statistic; empty when there is none.
func (c *cluster) proxyStat(pod corev1.Pod, pattern string) string {
	c.t.Helper()
	stats := c.kubectl("get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/stats/prometheus", c.namespace, pod.Name, sidecar.StatsPort))
	if found := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`).FindStringSubmatch(stats); found != nil {
		return found[1]
	}
	return ""
}

// admissions creates pods and Meshes, without storing them, for as long as a test wants to know whether one is refused.
type admissions struct {
	stop context.CancelFunc
	done sync.WaitGroup

	admitted int
	refused  []string
}

// admit starts to ask for admissions in the test's namespace.
func (c *cluster) admit() *admissions {
	c.t.Helper()
	ctx, stop := context.WithCancel(c.t.Context())
	a := &admissions{stop: stop}
	tick := time.NewTicker(100 * time.Millisecond)
	a.done.Go(func() {
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := c.admitOne(ctx, n); err != nil && ctx.Err() == nil {
				a.refused = append(a.refused, err.Error())
			} else if err == nil {
				a.admitted++
			}
		}
	})
	c.t.Cleanup(a.end)
	return a
}

func (a *admissions) end() {
	a.stop()
	a.done.Wait()
}

// admitOne asks for a pod, which must come back with a proxy, or for a Mesh.
func (c *cluster) admitOne(ctx context.Context, n int) error {
	meta := metav1.ObjectMeta{Namespace: c.namespace, Name: fmt.Sprintf("admitted-%d", n)}
	if n%2 == 1 {
		return c.client.Create(ctx, &v1alpha1.Mesh{ObjectMeta: meta}, client.DryRunAll)
	}
	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
	if err := c.client.Create(ctx, pod, client.DryRunAll); err != nil {
		return err
	}
	if !hasProxy(*pod) {
		return fmt.Errorf("pod %s was admitted without a proxy", pod.Name)
	}
	return nil
}

// wantNoRefusal ends asking.
func (a *admissions) wantNoRefusal(t *testing.T) {
	t.Helper()
	a.end()
	if len(a.refused) > 0 || a.admitted < 300 {
		t.Errorf("%d admissions, and %d refused, such as %q; want 300 or more, and none", a.admitted, len(a.refused), a.refused[:min(len(a.refused), 3)])
	}
}

// keyMarks are how private keys look, as PEM and as base64 of it.
var keyMarks = regexp.MustCompile(`PRIVATE KEY|LS0tLS1CRUdJTiBQUklWQVRFIEtFWS|LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS|LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVkt`)

// wantNoKeys looks for private keys in all that the API server stores and all that was logged. cert-manager keeps those of the CAs and
// of Tulle's two servers in Secrets of the operator's namespace; there is no other place for any.
func (c *cluster) wantNoKeys() {
	c.t.Helper()
	known := []string{identity.RootCertificate, identity.Intermediate, identity.WebhookCertificate, identity.ControlPlaneCertificate}
	for _, kind := range []string{"Secret", "ConfigMap", "Event", "Pod"} {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("v1")
		list.SetKind(kind + "List")
		c.wantNoKeysIn(list, known)
	}
	meshes := &unstructured.UnstructuredList{}
	meshes.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("MeshList"))
	c.wantNoKeysIn(meshes, nil)
	logs := map[string]string{"the operator": c.inSystem().kubectl("logs", "-l", "app.kubernetes.io/name=tulle", "--tail=-1")}
	for _, pod := range c.pods("") {
		logs["the proxy of "+pod.Name] = c.kubectl("logs", pod.Name, "-c", sidecar.ProxyContainer, "--tail=-1")
	}
	for whose, log := range logs {
		if mark := keyMarks.FindString(log); mark != "" || log == "" {
			c.t.Errorf("the log of %s has %d bytes and holds %q", whose, len(log), mark)
		}
	}
}

func (c *cluster) wantNoKeysIn(list *unstructured.UnstructuredList, known []string) {
	c.t.Helper()
	if err := c.client.List(c.t.Context(), list); err != nil {
		c.t.Fatal(err)
	}
	for _, item := range list.Items {
		text, err := json.Marshal(item.Object)
		if err != nil {
			c.t.Fatal(err)
		}
		expected := item.GetKind() == "Secret" && (item.GetNamespace() == "cert-manager" || item.GetNamespace() == system && slices.Contains(known, item.GetName()))
		if mark := keyMarks.Find(text); mark != nil && !expected {
			c.t.Errorf("%s %s/%s holds %q", item.GetKind(), item.GetNamespace(), item.GetName(), mark)
		}
	}
}

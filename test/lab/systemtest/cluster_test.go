//go:build lab && linux

package systemtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/lab/image"
	"github.com/tulle-mesh/tulle/test/lab/internal/cluster"
	"github.com/tulle-mesh/tulle/test/lab/internal/supervise"
)

// TestCluster uses one lab as its users do, from outside its namespaces unless
// a step says otherwise, and removes it.
func TestCluster(t *testing.T) {
	l := newLab(t)
	before := l.inventory()
	l.run("up")
	if said := l.run("up"); !strings.Contains(said, "already up") {
		t.Errorf("a second start: %s", said)
	}
	k := newKubectl(t, l)
	loadApp(t, l, k)
	for name, step := range map[string]func(*testing.T, *lab, kubectl){
		"addresses":    checkAddresses,
		"services":     checkServices,
		"streams":      checkStreams,
		"certificates": checkCertificates,
		"tokens":       checkTokens,
		"exec":         checkExec,
	} {
		t.Run(name, func(t *testing.T) { step(t, l, k) })
	}
	t.Run("restart", func(t *testing.T) { checkRestart(t, l, k) })
	l.run("down")
	l.wantUnchanged(before)
	if said := l.run("down"); !strings.Contains(said, "no lab in") {
		t.Errorf("removing what is not there: %s", said)
	}
}

// TestIPv4Only starts what a machine without IPv6 gets.
func TestIPv4Only(t *testing.T) {
	l := newLab(t)
	before := l.inventory()
	l.run("up", "--ipv4")
	k := newKubectl(t, l)
	if addresses := k.run("get", "service", "kube-dns", "--namespace=kube-system", "--output=jsonpath={.spec.clusterIPs}"); addresses != `["10.96.0.10"]` {
		t.Errorf("addresses of the cluster's DNS: %s", addresses)
	}
	l.run("down")
	l.wantUnchanged(before)
}

// kubectl runs kubectl with the environment that `lab env` prints.
type kubectl struct {
	t    *testing.T
	lab  *lab
	home string
}

func newKubectl(t *testing.T, l *lab) kubectl { return kubectl{t: t, lab: l, home: t.TempDir()} }

func (k kubectl) command(args ...string) *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-c", `eval "$("$0" env)" && exec kubectl "$@"`, k.lab.program}, args...)...)
	cmd.Env = append(os.Environ(), "TULLE_STATE="+k.lab.folder, "HOME="+k.home)
	return cmd
}

func (k kubectl) run(args ...string) string {
	k.t.Helper()
	output, err := k.command(args...).CombinedOutput()
	if err != nil {
		k.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(string(output))
}

// inPod runs the app in a pod.
func (k kubectl) inPod(pod string, args ...string) string {
	k.t.Helper()
	return k.run(append([]string{"exec", pod, "--", "/app"}, args...)...)
}

// loadApp makes the app's image, loads it and starts the pods.
func loadApp(t *testing.T, l *lab, k kubectl) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "app")
	if err := goBuild(program, "app"); err != nil {
		t.Fatal(err)
	}
	archive, digest, err := image.Save(image.Program("tulle.dev/systemtest:dev", program, "/app", 65532), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.run("load", archive)
	l.run("load", archive) // which finds it there
	manifest, err := os.ReadFile("testdata/app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(manifest), "DIGEST", digest.String())), 0o644); err != nil {
		t.Fatal(err)
	}
	k.run("apply", "--filename", file)
	k.run("wait", "--for=condition=Available", "--timeout=2m", "deployment/server")
	k.run("wait", "--for=condition=Ready", "--timeout=2m", "pod/client", "pod/token")
}

// families sorts addresses, as JSON, into IPv4 and IPv6.
func families(t *testing.T, list string) (v4, v6 string) {
	t.Helper()
	var addresses []string
	if err := json.Unmarshal([]byte(list), &addresses); err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	for _, address := range addresses {
		if strings.Contains(address, ":") {
			v6 = address
		} else {
			v4 = address
		}
	}
	return v4, v6
}

func checkAddresses(t *testing.T, _ *lab, k kubectl) {
	k.t = t
	if ranges := k.run("get", "node", "lab", "--output=jsonpath={.spec.podCIDRs}"); ranges != `["10.244.0.0/24","fd00:244::/64"]` {
		t.Errorf("the node's pod ranges: %s", ranges)
	}
	addresses := k.run("get", "node", "lab", `--output=jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	if addresses != "10.77.0.1 fd00:77::1" {
		t.Errorf("the node's addresses: %s", addresses)
	}
	pod := strings.Fields(k.run("get", "pod", "client", "--output=jsonpath={.status.podIPs[*].ip}"))
	if len(pod) != 2 || net.ParseIP(pod[0]).To4() == nil || net.ParseIP(pod[1]).To4() != nil {
		t.Errorf("the pod's addresses: %v", pod)
	}
}

// checkServices asks a Service by name and by each address, from a pod and
// from the node, and a pod by the node's port.
func checkServices(t *testing.T, l *lab, k kubectl) {
	k.t = t
	v4, v6 := families(t, k.run("get", "service", "server", "--output=jsonpath={.spec.clusterIPs}"))
	resolved := k.inPod("client", "lookup", "server.default.svc.cluster.local")
	if !strings.Contains(resolved, v4) || !strings.Contains(resolved, v6) {
		t.Errorf("the name stands for %s, want %s and %s", resolved, v4, v6)
	}
	for _, target := range []string{"http://server/", "http://" + v4 + "/", "http://[" + v6 + "]/", "http://10.77.0.1:18080/"} {
		if said := k.inPod("client", "get", target); !strings.HasPrefix(said, "hello ") {
			t.Errorf("%s from a pod: %s", target, said)
		}
	}
	program := filepath.Join(t.TempDir(), "app")
	if err := goBuild(program, "app"); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"http://" + v4 + "/", "http://[" + v6 + "]/"} {
		if said := l.run("exec", "--", program, "get", target); !strings.HasPrefix(said, "hello ") {
			t.Errorf("%s from the node: %s", target, said)
		}
	}
}

// checkStreams uses what goes through the API server to the kubelet.
func checkStreams(t *testing.T, _ *lab, k kubectl) {
	k.t = t
	if logs := k.run("logs", "deployment/server"); logs != "serving :8080" {
		t.Errorf("logs: %q", logs)
	}
	forward := k.command("port-forward", "deployment/server", ":8080")
	output, err := forward.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = forward.Process.Kill()
		_ = forward.Wait()
	}()
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	response, err := http.Get("http://" + port + "/")
	if err != nil {
		t.Fatalf("after %q: %v", line, err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("a forwarded port answers %s", response.Status)
	}
}

func checkCertificates(t *testing.T, _ *lab, k kubectl) {
	k.t = t
	k.run("wait", "--for=condition=Ready", "--timeout=1m", "certificate/root")
	refused, err := k.command("create", "--filename=-", "--dry-run=server").CombinedOutput()
	if err == nil {
		t.Errorf("nothing was created: %s", refused)
	}
	invalid := k.command("create", "--filename=-", "--dry-run=server")
	invalid.Stdin = strings.NewReader(`{"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "two"},
"spec": {"selfSigned": {}, "ca": {"secretName": "root"}}}`)
	said, err := invalid.CombinedOutput()
	if err == nil || !strings.Contains(string(said), `admission webhook "webhook.cert-manager.io" denied the request`) {
		t.Errorf("an issuer of two kinds: %v: %s", err, said)
	}
	bound := k.run("get", "clusterrolebindings", `--output=jsonpath={range .items[?(@.roleRef.name=="cluster-admin")]}{.subjects[*].name}{"\n"}{end}`)
	if bound != "system:masters" {
		t.Errorf("cluster-admin is bound to %q", bound)
	}
}

func checkTokens(t *testing.T, _ *lab, k kubectl) {
	k.t = t
	keys := k.run("get", "--raw", "/openid/v1/jwks")
	if !strings.Contains(keys, `"alg":"RS256"`) {
		t.Errorf("the cluster's keys: %s", keys)
	}
	token := k.run("create", "token", "default", "--audience=tulle", "--bound-object-kind=Pod", "--bound-object-name=token")
	review := k.command("create", "--filename=-", "--output=jsonpath={.status.authenticated} {.status.user.username}")
	review.Stdin = strings.NewReader(fmt.Sprintf(`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": %q, "audiences": ["tulle"]}}`, token))
	said, err := review.CombinedOutput()
	if err != nil || string(said) != "true system:serviceaccount:default:default" {
		t.Errorf("review of a token: %v: %s", err, said)
	}
}

// checkExec uses the lab's own way in.
func checkExec(t *testing.T, l *lab, _ kubectl) {
	cmd := l.command("exec", "--", "sh", "-c", "cat; hostname; pwd; exit 7")
	cmd.Stdin = strings.NewReader("input\n")
	cmd.Dir = t.TempDir()
	output, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit status: %v", err)
	}
	if want := "input\nlab\n" + cmd.Dir + "\n"; string(output) != want {
		t.Errorf("output %q, want %q", output, want)
	}
	if nodes := l.run("exec", "--", "kubectl", "get", "nodes", "--output=name"); nodes != "node/lab\n" {
		t.Errorf("kubectl inside: %q", nodes)
	}
	links := l.run("exec", "--", "ip", "-brief", "link")
	var names []string
	for line := range strings.Lines(links) {
		name, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(name, "veth") {
			names = append(names, name)
		}
	}
	if !slices.Equal(names, []string{"lo", "node0"}) {
		t.Errorf("the node has links besides its pods': %v", names)
	}
}

// checkRestart kills the kubelet and the API server, which come back, with
// every pod still running.
func checkRestart(t *testing.T, l *lab, k kubectl) {
	k.t = t
	pods := k.run("get", "pods", "--all-namespaces", "--output=jsonpath={.items[*].status.containerStatuses[*].containerID}")
	for _, name := range []string{"kubelet", "kube-apiserver"} {
		l.run("exec", "--", "kill", "-KILL", itoa(process(t, l, name).PID))
		eventually(t, "the restart of "+name, func() bool {
			p := process(t, l, name)
			return p.Restarts == 1 && p.State == supervise.StateReady
		})
	}
	k.run("wait", "--for=condition=Ready", "--timeout=1m", "node/lab")
	if said := k.inPod("client", "get", "http://server/"); !strings.HasPrefix(said, "hello ") {
		t.Errorf("after the restart: %s", said)
	}
	after := k.run("get", "pods", "--all-namespaces", "--output=jsonpath={.items[*].status.containerStatuses[*].containerID}")
	if after != pods {
		t.Errorf("containers were\n%s\nand are\n%s", pods, after)
	}
	if r := l.record(); r.Phase != cluster.PhaseReady {
		t.Errorf("phase %q", r.Phase)
	}
}

// process reads the state of one of the node's programs.
func process(t *testing.T, l *lab, name string) supervise.ProcessStatus {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(l.folder, "status.json"))
	if err != nil {
		t.Fatal(err)
	}
	var status supervise.Status
	if err := json.Unmarshal(content, &status); err != nil {
		t.Fatal(err)
	}
	found, ok := status.Process(name)
	if !ok {
		t.Fatalf("no program %s in %s", name, content)
	}
	return found
}

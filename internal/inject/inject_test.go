package inject_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/bootstrap"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

var update = flag.Bool("update", false, "write the golden files")

func settings() inject.Settings {
	return inject.Settings{
		Installation: inject.Installation{
			InitImage:        "tulle.example/operator:1",
			ControlPlaneHost: "tulle-control-plane.tulle-system.svc",
			ControlPlanePort: 15010,
		},
		ProxyImage:    "envoy.example/envoy:distroless-v1.40.0",
		Concurrency:   2,
		LogLevel:      "warning",
		DrainDuration: 5 * time.Second,
		SkipDetection: []uint16{3306, 5432},
	}
}

// input is a golden's input: a pod, and what its namespace sets.
type input struct {
	Settings struct {
		PodSelector   *metav1.LabelSelector
		Resources     *corev1.ResourceRequirements
		Concurrency   int32
		DrainDuration metav1.Duration
		LogLevel      string
	}
	Pod json.RawMessage
}

func (in input) settings(t *testing.T) inject.Settings {
	s := settings()
	if in.Settings.PodSelector != nil {
		selector, err := metav1.LabelSelectorAsSelector(in.Settings.PodSelector)
		if err != nil {
			t.Fatal(err)
		}
		s.Selects = func(pod *corev1.Pod) (bool, error) { return selector.Matches(labels.Set(pod.Labels)), nil }
	}
	s.Resources = in.Settings.Resources
	if in.Settings.Concurrency != 0 {
		s.Concurrency = in.Settings.Concurrency
		s.LogLevel = in.Settings.LogLevel
		s.DrainDuration = in.Settings.DrainDuration.Duration
	}
	return s
}

// output is what a golden shows of it.
type output struct {
	LeftOut  string         `json:"leftOut,omitempty"`
	Refused  string         `json:"refused,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`
	Pod      map[string]any `json:"pod,omitempty"`
}

func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no inputs in testdata", err)
	}
	plain := sidecarOfPlainPod(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := read(t, file)
			got := run(t, in.Pod, in.settings(t))
			if name != "plain" {
				got.abbreviate(plain)
			}
			compare(t, filepath.Join("testdata", name+".out.yaml"), got)
		})
	}
}

func read(t *testing.T, file string) input {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var in input
	if err := yaml.UnmarshalStrict(raw, &in); err != nil {
		t.Fatal(err)
	}
	return in
}

// run injects a pod and, if it changed, injects it again, which must change nothing.
func run(t *testing.T, pod []byte, s inject.Settings) output {
	t.Helper()
	result, err := inject.Inject(pod, s)
	var refused *inject.RefusedError
	if errors.As(err, &refused) {
		return output{Refused: refused.Reason}
	}
	if err != nil {
		t.Fatal(err)
	}
	out := output{LeftOut: result.LeftOut, Warnings: result.Warnings}
	if result.Patch == nil {
		return out
	}
	patched := apply(t, pod, result.Patch)
	again, err := inject.Inject(patched, s)
	if err != nil || again.Patch != nil {
		t.Errorf("injecting the injected pod: patch %s, error %v; want neither", again.Patch, err)
	}
	out.Pod = withoutBootstrap(t, withoutVersion(t, patched, s))
	return out
}

// withoutVersion shortens what changes with every change of the bootstrap.
func withoutVersion(t *testing.T, pod []byte, s inject.Settings) []byte {
	t.Helper()
	version, err := inject.Version(s)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(pod, []byte(version), []byte("<version>"))
}

// withoutBootstrap reads a pod and shortens the proxy's bootstrap, which has goldens of its own.
func withoutBootstrap(t *testing.T, pod []byte) map[string]any {
	t.Helper()
	config, err := bootstrap.JSON(bootstrap.Options{
		NodeID: "$(POD_NAME).$(POD_NAMESPACE)", NodeCluster: "$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
		ControlPlaneHost: settings().ControlPlaneHost, ControlPlanePort: settings().ControlPlanePort,
		CredentialsDir: sidecar.CredentialsDir, AdminSocket: sidecar.AdminSocket,
	})
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(bytes.ReplaceAll(pod, quoted, []byte(`"<bootstrap>"`))))
	// Numbers stay as they are written.
	decoder.UseNumber()
	if err := decoder.Decode(&object); err != nil {
		t.Fatal(err)
	}
	return object
}

func apply(t *testing.T, pod, patch []byte) []byte {
	t.Helper()
	decoded, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := decoded.Apply(pod)
	if err != nil {
		t.Fatalf("%v\n%s", err, patch)
	}
	return patched
}

func compare(t *testing.T, golden string, got output) {
	t.Helper()
	raw, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(raw)); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", golden, diff)
	}
}

// sidecarOfPlainPod returns the containers and volumes that plain.in.yaml gets, by name.
func sidecarOfPlainPod(t *testing.T) map[string]any {
	t.Helper()
	in := read(t, "testdata/plain.in.yaml")
	parts := map[string]any{}
	for _, item := range run(t, in.Pod, settings()).parts() {
		parts[item["name"].(string)] = maps.Clone(item)
	}
	return parts
}

func (o output) parts() []map[string]any {
	var parts []map[string]any
	spec, _ := o.Pod["spec"].(map[string]any)
	for _, field := range []string{"initContainers", "volumes"} {
		list, _ := spec[field].([]any)
		for _, item := range list {
			parts = append(parts, item.(map[string]any))
		}
	}
	return parts
}

// abbreviate shortens the parts that are the same as in plain.out.yaml.
func (o output) abbreviate(plain map[string]any) {
	for _, item := range o.parts() {
		name := item["name"].(string)
		if strings.HasPrefix(name, "tulle-") && reflect.DeepEqual(item, plain[name]) {
			clear(item)
			item["name"] = name + " as in plain.out.yaml"
		}
	}
}

// What others add to a pod between two calls of the webhook is served too, and what was there stays.
func TestReinvocation(t *testing.T) {
	t.Parallel()
	in := read(t, "testdata/probes.in.yaml")
	first, err := inject.Inject(in.Pod, settings())
	if err != nil {
		t.Fatal(err)
	}
	late := []byte(`[{"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "late",
		"livenessProbe": {"httpGet": {"port": 9000, "path": "/late"}}}}]`)
	pod := apply(t, apply(t, in.Pod, first.Patch), late)
	second, err := inject.Inject(pod, settings())
	if err != nil {
		t.Fatal(err)
	}
	before, after := decode(t, pod), decode(t, apply(t, pod, second.Patch))
	probe := after.Spec.Containers[len(after.Spec.Containers)-1].LivenessProbe.HTTPGet
	if probe.Port.IntVal != sidecar.ProbePort || probe.Path != "/late/liveness" {
		t.Errorf("the late container's probe goes to %s%s", probe.Port.String(), probe.Path)
	}
	was, is := probesOf(t, before), probesOf(t, after)
	want := append(was, sidecar.Probe{Path: "/late/liveness", Port: 9000, TargetPath: "/late", TimeoutSeconds: 1})
	if diff := cmp.Diff(want, is); diff != "" {
		t.Errorf("recorded probes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before.Spec.InitContainers, after.Spec.InitContainers); diff != "" {
		t.Errorf("init containers changed:\n%s", diff)
	}
}

func decode(t *testing.T, raw []byte) *corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	return &pod
}

func probesOf(t *testing.T, pod *corev1.Pod) []sidecar.Probe {
	t.Helper()
	var probes []sidecar.Probe
	if err := json.Unmarshal([]byte(pod.Annotations[sidecar.ProbesAnnotation]), &probes); err != nil {
		t.Fatal(err)
	}
	return probes
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ pod, want string }{
		"no JSON":           {`{"spec"`, "not a Pod in JSON: unexpected"},
		"empty":             {``, "not a Pod in JSON: unexpected end of JSON input"},
		"wrong type":        {`{"spec": {"containers": [{"name": 7}]}}`, "not a Pod in JSON: json: cannot unmarshal number into Go struct field"},
		"a list":            {`[]`, "not a Pod in JSON: json: cannot unmarshal array"},
		"null":              {`null`, "not a Pod: it has no metadata"},
		"another kind":      {`{"kind": "Service", "spec": {"ports": []}}`, `not a Pod: its kind is "Service"`},
		"no containers":     {`{"metadata": {}, "spec": {"containers": []}}`, "not a Pod: it has no containers"},
		"another letter":    {`{"metadata": {}, "spec": {"Containers": [{"name": "a"}]}}`, "not a Pod: it has no containers"},
		"a port above 2^31": {`{"spec": {"containers": [{"ports": [{"containerPort": 4294967296}]}]}}`, "not a Pod in JSON: json: cannot unmarshal number 4294967296"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result, err := inject.Inject([]byte(c.pod), settings())
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || result.Patch != nil {
				t.Errorf("got patch %s, error %v; want %q", result.Patch, err, c.want)
			}
		})
	}
}

// When nobody can tell which pods a Mesh selects, none is admitted.
func TestInvalidSelector(t *testing.T) {
	t.Parallel()
	s := settings()
	s.Selects = func(*corev1.Pod) (bool, error) { return false, errors.New("the selector is invalid") }
	_, err := inject.Inject(read(t, "testdata/plain.in.yaml").Pod, s)
	var refused *inject.RefusedError
	if !errors.As(err, &refused) || refused.Reason != "the selector is invalid" {
		t.Errorf("got %v", err)
	}
}

func TestSettingsThatEnvoyRefuses(t *testing.T) {
	t.Parallel()
	s := settings()
	s.ControlPlaneHost = ""
	in := read(t, "testdata/plain.in.yaml")
	if _, err := inject.Inject(in.Pod, s); err == nil || !strings.Contains(err.Error(), "Address") {
		t.Errorf("got %v; want Envoy's own validation error", err)
	}
	if _, err := inject.Version(s); err == nil {
		t.Error("a version for a sidecar that can't be")
	}
}

// Every setting that shapes a sidecar changes its version; the ports without detection do not.
func TestVersion(t *testing.T) {
	t.Parallel()
	version := func(change func(*inject.Settings)) string {
		s := settings()
		change(&s)
		v, err := inject.Version(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	base := version(func(*inject.Settings) {})
	seen := []string{base}
	for name, change := range map[string]func(*inject.Settings){
		"proxy image":   func(s *inject.Settings) { s.ProxyImage += "x" },
		"concurrency":   func(s *inject.Settings) { s.Concurrency++ },
		"log level":     func(s *inject.Settings) { s.LogLevel = "debug" },
		"drain":         func(s *inject.Settings) { s.DrainDuration += time.Second },
		"control plane": func(s *inject.Settings) { s.ControlPlaneHost += "x" },
		"resources":     func(s *inject.Settings) { s.Resources = &corev1.ResourceRequirements{} },
	} {
		v := version(change)
		if slices.Contains(seen, v) {
			t.Errorf("%s: the version does not change", name)
		}
		seen = append(seen, v)
	}
	if v := version(func(s *inject.Settings) { s.SkipDetection = nil }); v != base {
		t.Error("the ports without detection change the version: each new Service would outdate every proxy")
	}
	if v := version(func(s *inject.Settings) { s.InitImage += "x" }); v != base {
		t.Error("the operator's image changes the version: each new operator would outdate every proxy")
	}
	in := read(t, "testdata/plain.in.yaml")
	result, err := inject.Inject(in.Pod, settings())
	if err != nil {
		t.Fatal(err)
	}
	if got := decode(t, apply(t, in.Pod, result.Patch)).Annotations[sidecar.VersionAnnotation]; got != base {
		t.Errorf("the pod says version %s; want %s", got, base)
	}
}

func TestSupported(t *testing.T) {
	t.Parallel()
	for version, ok := range map[string]bool{
		"v1.28.15": false, "v1.9.0": false, "v1.29.0": true, "v1.29.0-alpha.1": true, "v1.37.2+k3s1": true, "v1.30.4-eks-a18cd3a": true, "v2.0.0": true,
	} {
		if err := inject.Supported(version); (err == nil) != ok {
			t.Errorf("%s: %v", version, err)
		}
	}
	err := inject.Supported("v1.28.3")
	want := "kubernetes v1.28.3 has no native sidecars (init containers with restartPolicy Always), so no pod is injected: upgrade the cluster to 1.29 or newer"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if inject.Supported("nonsense") == nil {
		t.Error("nonsense is supported")
	}
}

// FuzzInject holds of any JSON: nothing panics; a patch fits its pod, leaves a pod to which there is nothing to add, and changes
// nothing that is not the mesh's, known field or not.
func FuzzInject(f *testing.F) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var in input
		if err := yaml.Unmarshal(raw, &in); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(in.Pod))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Like the API server, which never sends a key twice.
		var object map[string]any
		if json.Unmarshal(raw, &object) != nil {
			return
		}
		pod, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		result, err := inject.Inject(pod, settings())
		if err != nil || result.Patch == nil {
			return
		}
		patched := apply(t, pod, result.Patch)
		if again, err := inject.Inject(patched, settings()); err != nil || again.Patch != nil {
			t.Fatalf("not idempotent: %s, %v", again.Patch, err)
		}
		if err := inject.RefuseEphemeral(patched); err != nil && !strings.Contains(err.Error(), "container ") {
			t.Fatalf("an ephemeral container: %v", err)
		}
		if diff := cmp.Diff(withoutOurs(t, pod), withoutOurs(t, patched)); diff != "" {
			t.Fatalf("changed what is not the mesh's:\n%s", diff)
		}
	})
}

// withoutOurs is a pod without what injection adds, and without where its HTTP probes and hooks go and its metrics are.
func withoutOurs(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var pod map[string]any
	if err := json.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	metadata, _ := pod["metadata"].(map[string]any)
	if annotations, _ := metadata["annotations"].(map[string]any); annotations != nil {
		for _, key := range []string{sidecar.VersionAnnotation, sidecar.SkipDetectionAnnotation, sidecar.ProbesAnnotation,
			sidecar.MetricsAnnotation, "prometheus.io/port", "prometheus.io/path"} {
			delete(annotations, key)
		}
	}
	spec, _ := pod["spec"].(map[string]any)
	for _, list := range []string{"initContainers", "containers"} {
		items, _ := spec[list].([]any)
		for _, item := range items {
			if c, ok := item.(map[string]any); ok {
				lifecycle, _ := c["lifecycle"].(map[string]any)
				for _, call := range []any{c["startupProbe"], c["livenessProbe"], c["readinessProbe"], lifecycle["postStart"], lifecycle["preStop"]} {
					call, _ := call.(map[string]any)
					get, _ := call["httpGet"].(map[string]any)
					for _, key := range []string{"path", "port", "scheme"} {
						delete(get, key)
					}
				}
			}
		}
	}
	for _, list := range []string{"initContainers", "volumes"} {
		items, _ := spec[list].([]any)
		spec[list] = slices.DeleteFunc(items, func(item any) bool {
			part, _ := item.(map[string]any)
			name, _ := part["name"].(string)
			return strings.HasPrefix(name, "tulle-")
		})
	}
	prune(pod)
	return pod
}

// prune removes what is empty: no list and an empty one mean the same.
func prune(m map[string]any) {
	for key, value := range m {
		if inner, ok := value.(map[string]any); ok {
			prune(inner)
		}
		switch v := value.(type) {
		case nil:
			delete(m, key)
		case []any:
			if len(v) == 0 {
				delete(m, key)
			}
		case map[string]any:
			if len(v) == 0 {
				delete(m, key)
			}
		}
	}
}

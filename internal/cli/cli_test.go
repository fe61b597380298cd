package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/plan"
)

const (
	deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n" +
		"spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web}]}}}\n"
	ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web, namespace: shop}\n"
	shop    = "apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: shop, namespace: shop}\n"
	strict  = shop + "spec: {mtls: {mode: Strict}}\n"
	typo    = shop + "spec: {mtls: {mode: Stricct}}\n"
	nowhere = "apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: shop}\n"
)

// result is what a run of the program gave.
type result struct {
	code     int
	out, err string
}

// tulle runs the program in a folder with the given files.
func tulle(t *testing.T, files map[string]string, stdin string, args ...string) result {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("KUBECONFIG", filepath.Join(dir, "no-kubeconfig"))
	var out, errs bytes.Buffer
	code := Run(context.Background(), "/usr/bin/tulle", args, Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return result{code, out.String(), errs.String()}
}

// TestPlan runs plan without a cluster.
func TestPlan(t *testing.T) {
	repository := map[string]string{"deploy/web.yaml": deployment + "---\n" + ingress, "deploy/mesh.yaml": shop, "strict.yaml": strict, "typo.yaml": typo}
	tests := []struct {
		name  string
		files map[string]string
		stdin string
		args  string
		code  int
		want  []string // in the output, or in the message of an error
	}{
		{name: "a file of the directory itself counts as what is applied", files: repository, args: "-f deploy/mesh.yaml --dir deploy",
			want: []string{"Plan: create Mesh shop/shop: 1 object made, 2 objects changed, 1 pod to restart.", "kubectl -n shop rollout restart deploy/web", "ignored: 1 Ingress"}},
		{name: "a change of what is in the directory", files: repository, args: "-f strict.yaml --dir deploy",
			want: []string{"Plan: update Mesh shop/shop: 1 proxy touched.", "mTLS Permissive → Strict"}},
		{name: "standard input", files: repository, stdin: strict, args: "-f - --dir deploy --exit-code", code: exitChanges,
			want: []string{"Plan: update Mesh shop/shop"}},
		{name: "nothing changes", files: repository, stdin: shop, args: "-f - --dir deploy --exit-code", want: []string{"Nothing would change."}},
		{name: "all at once from nothing", files: repository, args: "-f deploy --offline",
			want: []string{"Plan: create Mesh shop/shop: 1 object made, 2 objects changed.", "the one pod has a current proxy"}},
		{name: "deletion of a file", files: repository, args: "--delete -f strict.yaml --dir deploy", want: []string{"- Mesh shop/shop would be deleted."}},
		{name: "deletion by name", files: repository, args: "--delete mesh/shop -n shop --dir deploy", want: []string{"- Mesh shop/shop would be deleted."}},
		{name: "deletion of what is not there", files: repository, args: "--delete mesh/shop --dir deploy", code: exitError,
			want: []string{"tulle: Mesh default/shop does not exist, so it can't be deleted"}},
		{name: "pruned", files: map[string]string{"old/a.yaml": deployment, "old/b.yaml": shop, "new/a.yaml": deployment}, args: "--dir old -f new --prune",
			want: []string{"- Mesh shop/shop would be deleted."}},
		{name: "namespace", files: map[string]string{"m.yaml": nowhere}, args: "-f m.yaml --offline -n mine", want: []string{"Plan: create Mesh mine/shop"}},
		{name: "refused", files: repository, args: "-f typo.yaml --dir deploy", code: exitRefused,
			want: []string{"Plan: nothing can be applied: 1 object refused.", `spec.mtls.mode: Unsupported value: "Stricct"`}},
		{name: "envoy", files: repository, args: "-f strict.yaml --dir deploy --envoy=inbound --envoy-lines=20",
			want: []string{"~ listener inbound (1 of the proxies of shop)", "--envoy=NAME chooses, --envoy-lines=0 shows all"}},
		{name: "not YAML", files: map[string]string{"d/chart.yaml": "a: {{ .b }}\n", "m.yaml": shop}, args: "-f m.yaml --dir d", code: exitError,
			want: []string{"can't read the manifests of --dir (render charts and overlays first):", "d/chart.yaml, document 1: "}},
		{name: "a namespace that is never meshed", files: map[string]string{"m.yaml": strings.ReplaceAll(shop, "shop", "cert-manager")}, args: "-f m.yaml --offline",
			want: []string{"SystemNamespace"}},
		{name: "no file", files: repository, args: "-f none.yaml --dir deploy", code: exitError, want: []string{"none.yaml: no such file"}},
		{name: "an empty directory", files: map[string]string{"d/README.md": ""}, args: "-f d --offline", code: exitError, want: []string{"d: it has no .yaml, .yml or .json file"}},
		{name: "no request", files: repository, args: "--dir deploy", code: exitError, want: []string{"nothing to plan: name a file with -f, or a Mesh with --delete mesh/NAME"}},
		{name: "an argument", args: "mesh.yaml", code: exitError, want: []string{`unexpected argument "mesh.yaml": name files with -f`}},
		{name: "prune alone", args: "-f x --prune", code: exitError, want: []string{"--prune needs --dir"}},
		{name: "output", args: "-f x -o xml", code: exitError, want: []string{"-o xml: give text, json or yaml"}},
		{name: "no cluster", files: repository, args: "-f strict.yaml", code: exitError, want: []string{"find the cluster (--dir or --offline need none)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := tulle(t, tt.files, tt.stdin, append([]string{"plan"}, strings.Fields(tt.args)...)...)
			text := r.out
			if tt.code == exitError {
				text = r.err
			}
			if r.code != tt.code {
				t.Errorf("exit code %d, want %d; output:\n%s%s", r.code, tt.code, r.out, r.err)
			}
			for _, want := range tt.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q is missing in:\n%s", want, text)
				}
			}
		})
	}
}

// TestMachineForm: JSON and YAML hold the same plan, in the documented form.
func TestMachineForm(t *testing.T) {
	files := map[string]string{"deploy/web.yaml": deployment, "mesh.yaml": strict}
	asJSON := tulle(t, files, "", "plan", "-f", "mesh.yaml", "--dir", "deploy", "-o", "json")
	asYAML := tulle(t, files, "", "plan", "-f", "mesh.yaml", "--dir", "deploy", "-o", "yaml")
	var a, b plan.Plan
	if err := json.Unmarshal([]byte(asJSON.out), &a); err != nil {
		t.Fatalf("%v\n%s%s", err, asJSON.out, asJSON.err)
	}
	if err := yaml.UnmarshalStrict([]byte(asYAML.out), &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("-json +yaml:\n%s", diff)
	}
	if a.APIVersion != "plan.tulle.dev/v1alpha1" || a.Kind != "Plan" || !a.Changes || a.Summary.Restarts != 1 || len(a.Envoy) != 0 {
		t.Errorf("got %+v", a)
	}
}

// TestPlugin: as kubectl-tulle it calls itself what people type.
func TestPlugin(t *testing.T) {
	var out, errs bytes.Buffer
	if code := Run(context.Background(), "/opt/bin/kubectl-tulle", []string{"plan", "--help"}, Streams{Out: &out, Err: &errs}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	for _, want := range []string{"kubectl tulle plan (-f FILE...", "kubectl tulle plan -f mesh.yaml --envoy=reviews"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	if code := Run(context.Background(), "/opt/bin/kubectl-tulle", []string{"plan"}, Streams{Out: &out, Err: &errs}); code != exitError || !strings.HasPrefix(errs.String(), "kubectl tulle: nothing to plan") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}

func TestVersion(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}}
	if got := version(info, true); got != "v1.2.3 (commit abc, with changes)" {
		t.Errorf("got %q", got)
	}
}

// TestStarted reads what the operator was started with from the Deployment that is installed.
func TestStarted(t *testing.T) {
	raw, err := os.ReadFile("../../config/manager/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// Without the flag it is the operator's own default, in the program and here.
	const excluded = "--excluded-namespaces=cert-manager,vault"
	text := strings.NewReplacer("args:", "args:\n        - "+excluded, "value: tulle.dev/operator:dev", "value: registry.example/tulle:v1", "distroless-v1.40.0", "distroless-v1.39.3").Replace(string(raw))
	var d appsv1.Deployment
	if err := yaml.UnmarshalStrict([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	operatorImage, envoyImage, never := started(&d)
	if operatorImage != "registry.example/tulle:v1" || envoyImage != "docker.io/envoyproxy/envoy:distroless-v1.39.3" || !slices.Equal(never, []string{"cert-manager", "vault"}) {
		t.Errorf("got %s, %s and %s", operatorImage, envoyImage, never)
	}
	flags := (&planOptions{operatorNamespace: "mesh", operatorImage: "mine:v2"}).settings(&d)
	if flags.Installation.InitImage != "mine:v2" || flags.Model.EnvoyImage != envoyImage || !slices.Equal(flags.Model.Excluded, never) || flags.Installation.ControlPlaneHost != "tulle-control-plane.mesh.svc" {
		t.Errorf("with flags: %+v", flags)
	}
}

package plan_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/manifest"
	"github.com/tulle-mesh/tulle/internal/meshschema"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/plan"
	"github.com/tulle-mesh/tulle/internal/plan/render"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden compares what is told of testdata/*.in.yaml with testdata/*.out.txt. Each input has what there is, and after the lines
// "# apply" and "# delete" what would be done; "# envoy: NAME" asks for differences of Envoy's configuration; "# monitoring: KIND..." are those that the cluster has.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no inputs", err)
	}
	for _, input := range inputs {
		base := strings.TrimSuffix(input, ".in.yaml")
		t.Run(filepath.Base(base), func(t *testing.T) {
			raw, err := os.ReadFile(input) //nolint:gosec // a test's input
			if err != nil {
				t.Fatal(err)
			}
			in, filter := read(t, string(raw))
			p, err := plan.Make(in)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := render.Text(&got, p, render.Options{Envoy: filter}); err != nil {
				t.Fatal(err)
			}
			golden := base + ".out.txt"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden) //nolint:gosec // a golden file
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got; -update writes it):\n%s", golden, diff)
			}
		})
	}
}

func settings() plan.Settings {
	return plan.Settings{
		Model: model.Config{OperatorNamespace: "tulle-system", EnvoyImage: "envoyproxy/envoy:distroless-v1.40.0"},
		Installation: inject.Installation{
			InitImage: "tulle.dev/operator:dev", ControlPlaneHost: "tulle-control-plane.tulle-system.svc", ControlPlanePort: 15010,
		},
	}
}

// read takes an input apart.
func read(t *testing.T, text string) (in plan.Input, filter string) {
	t.Helper()
	in = plan.Input{Settings: settings(), Now: time.Unix(1_700_000_000, 0)}
	world, rest, _ := strings.Cut(text, "\n# apply\n")
	apply, deleted, _ := strings.Cut(rest, "\n# delete\n")
	if before, after, ok := strings.Cut(text, "\n# delete\n"); ok && rest == "" {
		world, deleted = before, after
	}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# envoy: "); ok {
			in.Envoy, filter = true, strings.TrimSpace(name)
		}
		if kinds, ok := strings.CutPrefix(line, "# monitoring: "); ok {
			in.Monitoring = strings.Fields(kinds)
		}
	}
	in.World, _ = load(t, world)
	in.Apply, in.Refused = load(t, apply)
	in.Delete, _ = load(t, deleted)
	return in, filter
}

func load(t *testing.T, text string) ([]client.Object, []plan.Refusal) {
	t.Helper()
	manifests, err := manifest.Read("input", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	schema, err := meshschema.New()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := plan.Load(manifests, "default", admission{schema})
	if err != nil {
		t.Fatal(err)
	}
	return loaded.Objects, loaded.Refused
}

// admission is that of an API server that has nothing but the schema.
type admission struct{ *meshschema.Schema }

func (a admission) Admit(mesh map[string]any) (string, []error) {
	return "the API server, by the schema of Mesh", a.Schema.Admit(mesh)
}

package bootstrap_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/bootstrap"
)

var update = flag.Bool("update", false, "write the golden files")

func options() bootstrap.Options {
	return bootstrap.Options{
		NodeID:           "$(POD_NAME).$(POD_NAMESPACE)",
		NodeCluster:      "$(POD_NAMESPACE)",
		ControlPlaneHost: "tulle-control-plane.tulle-system.svc",
		ControlPlanePort: 15010,
		CredentialsDir:   "/var/run/secrets/tulle",
		AdminSocket:      "/run/tulle/admin.sock",
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	o := options()
	for name, make := range map[string]func() (string, error){
		"bootstrap": func() (string, error) { return bootstrap.JSON(o) },
		"token-sds": func() (string, error) { return bootstrap.TokenSDS(o.CredentialsDir) },
		"ca-sds":    func() (string, error) { return bootstrap.CASDS(o.CredentialsDir, o.ControlPlaneHost) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := make()
			if err != nil {
				t.Fatal(err)
			}
			got, err := yaml.JSONToYAML([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".out.yaml")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got; -update writes it):\n%s", golden, diff)
			}
		})
	}
}

// Every fetch must be waited for without a limit: Envoy's readiness turns LIVE when one runs out.
func TestNoFetchTimesOut(t *testing.T) {
	t.Parallel()
	raw, err := bootstrap.JSON(options())
	if err != nil {
		t.Fatal(err)
	}
	var document any
	if err := json.Unmarshal([]byte(raw), &document); err != nil {
		t.Fatal(err)
	}
	sources := 0
	walk(document, func(m map[string]any) {
		if _, ok := m["resource_api_version"]; !ok {
			return
		}
		sources++
		if m["initial_fetch_timeout"] != "0s" {
			t.Errorf("a configuration source with initial_fetch_timeout %v, want 0s: %v", m["initial_fetch_timeout"], m)
		}
	})
	if sources != 4 { // listeners, clusters, token, CA bundle
		t.Errorf("found %d configuration sources, want 4", sources)
	}
}

func TestOptionsAreValidated(t *testing.T) {
	t.Parallel()
	o := options()
	o.ControlPlaneHost = ""
	if _, err := bootstrap.JSON(o); err == nil {
		t.Error("no error for an empty control plane host")
	}
}

func walk(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v)
		for _, child := range v {
			walk(child, visit)
		}
	case []any:
		for _, child := range v {
			walk(child, visit)
		}
	}
}

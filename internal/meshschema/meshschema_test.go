package meshschema

import (
	"errors"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestAdmit(t *testing.T) {
	schema, err := New()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, spec string
		want       []string // in the errors, in this order
	}{
		{"empty", "{}", nil},
		{"null", "null", nil},
		{"typing error", "{mtls: {mod: Strict}}", []string{"spec.mtls.mod: unknown field"}},
		{"enum", "{mtls: {mode: Stricct}}", []string{`spec.mtls.mode: Unsupported value: "Stricct": supported values: "Strict", "Permissive", "Disabled"`}},
		{"type", "{proxy: {concurrency: many}}", []string{"spec.proxy.concurrency: Invalid value"}},
		{"bound", "{proxy: {concurrency: 65}}", []string{"spec.proxy.concurrency"}},
		{"required", "{services: [{name: a, routes: [{name: r}]}]}", []string{"spec.services[0].routes[0].to: Required value"}},
		{"map list", "{services: [{name: a}, {name: a}]}", []string{"spec.services[1]: Duplicate value"}},
		{"rule in CEL", "{services: [{name: a, routes: [{name: r, to: [{weight: 0}]}]}]}", []string{"at least one weight must be above 0"}},
		{"rule in CEL on a string", "{meshWide: {network: {podRanges: [ten]}}}", []string{"must be a CIDR range"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := errors.Join(schema.Admit(mesh(t, tt.spec))...)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if len(tt.want) == 0 && err != nil {
				t.Errorf("refused: %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(text, want) {
					t.Errorf("got %q, want %q in it", text, want)
				}
			}
		})
	}
}

// TestDefaults: what the file leaves out is what the API server stores.
func TestDefaults(t *testing.T) {
	schema, err := New()
	if err != nil {
		t.Fatal(err)
	}
	m := mesh(t, "{services: [{name: a, routes: [{name: r, match: [{headers: [{name: x, value: z}]}], to: [{}]}]}]}")
	if errs := schema.Admit(m); len(errs) > 0 {
		t.Fatal(errs)
	}
	raw, err := yaml.Marshal(m["spec"])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"weight: 1", "type: Exact"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is missing in\n%s", want, raw)
		}
	}
}

func mesh(t *testing.T, spec string) map[string]any {
	t.Helper()
	m := map[string]any{}
	text := "{apiVersion: mesh.tulle.dev/v1alpha1, kind: Mesh, metadata: {name: m, namespace: ns}, spec: " + spec + "}"
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestMetadata: what no object's metadata has is told too.
func TestMetadata(t *testing.T) {
	schema, err := New()
	if err != nil {
		t.Fatal(err)
	}
	m := mesh(t, "{}")
	m["metadata"].(map[string]any)["lables"] = map[string]any{"a": "b"}
	if errs := schema.Admit(m); len(errs) != 1 || errs[0].Error() != "metadata.lables: unknown field" {
		t.Errorf("got %v", errs)
	}
	m = mesh(t, "{}")
	m["metadata"].(map[string]any)["labels"] = "b"
	if errs := schema.Admit(m); len(errs) != 1 {
		t.Errorf("got %v", errs)
	}
}

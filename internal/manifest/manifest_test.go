package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string // kind, namespace/name, document
		errs       []string // in the error
	}{
		{name: "documents", text: "# nothing\n---\n{apiVersion: v1, kind: Service, metadata: {name: a, namespace: ns}}\n---\n\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n",
			want: []string{"Service ns/a 2", "Pod /b 4"}},
		{name: "JSON", text: `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}`,
			want: []string{"Service /a 1", "Pod /b 2"}},
		{name: "List", text: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n",
			want: []string{"Service /a 1", "Pod /b 1"}},
		{name: "list of the API server", text: "apiVersion: mesh.tulle.dev/v1alpha1\nkind: MeshList\nitems:\n- {metadata: {name: a}}\n",
			want: []string{"Mesh /a 1"}},
		{name: "not YAML", text: "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\na: {{ .Values.b }}\n",
			want: []string{"Pod /a 1"}, errs: []string{"x.yaml, document 2: "}},
		{name: "twice the same field", text: "apiVersion: v1\nkind: Pod\nkind: Service\nmetadata: {name: a}\n", errs: []string{`x.yaml, document 1: `, `"kind" already set`}},
		{name: "no kind", text: "replicas: 3\n", errs: []string{"x.yaml, document 1: it is no Kubernetes object: apiVersion or kind is missing"}},
		{name: "an item that is none", text: "apiVersion: v1\nkind: List\nitems: [3]\n", errs: []string{"document 1: items[0]: it is no Kubernetes object"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects, err := Read("x.yaml", strings.NewReader(tt.text))
			var got []string
			for _, o := range objects {
				got = append(got, o.Kind+" "+o.Namespace()+"/"+o.Name()+" "+strings.TrimPrefix(o.Where(), "x.yaml, document "))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if (err != nil) != (len(tt.errs) > 0) {
				t.Fatalf("error: %v", err)
			}
			for _, want := range tt.errs {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}

// TestPaths: a directory is read as a whole, but for what is hidden and what is no manifest.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yaml", "a/c.yml", "a/d.json", "README.md", ".git/e.yaml"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Paths(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "a/c.yml"), filepath.Join(dir, "a/d.json"), filepath.Join(dir, "b.yaml")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := Paths(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v for a file that does not exist", err)
	}
}

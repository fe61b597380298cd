package webhooks_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/webhooks"
)

var update = flag.Bool("update", false, "write the golden files")

func TestConfigurations(t *testing.T) {
	t.Parallel()
	for name, namespaces := range map[string][]string{
		"no-namespaces": nil,
		// Neither order nor repetition counts, and what must never be injected stays out.
		"two-namespaces": {"shop", "bank", "shop", "kube-system", operatorNamespace, "cert-manager"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			for _, o := range webhooks.Configurations(namespaces, webhooks.Target{
				Service:  types.NamespacedName{Namespace: operatorNamespace, Name: "tulle-webhook"},
				CABundle: []byte("a bundle"),
				Never:    model.Config{OperatorNamespace: operatorNamespace, Excluded: []string{"cert-manager"}}.NeverMeshed(),
				Owner:    &metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: operatorNamespace, UID: "7"},
			}) {
				raw, err := yaml.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString("---\n")
				got.Write(raw)
			}
			golden := filepath.Join("testdata", name+".out.yaml")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got; -update writes it):\n%s", golden, diff)
			}
		})
	}
}

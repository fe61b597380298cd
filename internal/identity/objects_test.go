package identity

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files")

func TestDesired(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]Options{
		"own-root": {Namespace: "tulle-system", CertificateDuration: 24 * time.Hour},
		"issuer-ref": {
			Namespace: "tulle-system", CertificateDuration: 30 * 24 * time.Hour,
			IssuerRef: &v1alpha1.IssuerRef{Name: "corporate", Kind: "ClusterIssuer", Group: "cert-manager.io"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			for _, o := range Desired(options) {
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

package metrics_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/features/metrics"
)

func TestGolden(t *testing.T) { compiletest.Golden(t) }

// TestDocumented: docs/metrics.md names what Envoys are told to count, and nothing else. Rules and dashboards are held to that page.
func TestDocumented(t *testing.T) {
	t.Parallel()
	found := func(file, expression, prefix string) []string {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, m := range regexp.MustCompile(expression).FindAllSubmatch(raw, -1) {
			names[prefix+string(m[1])] = true
		}
		return slices.Sorted(maps.Keys(names))
	}
	documented := found("../../../docs/metrics.md", "`(envoy_"+metrics.Prefix+"_[a-z_]+)`", "")
	counted := found("testdata/receives.out.yaml", `(?m)name: ([a-z_]+_(?:total|milliseconds))$`, "envoy_"+metrics.Prefix+"_")
	if diff := cmp.Diff(counted, documented); diff != "" || len(counted) < 8 {
		t.Errorf("(-counted +documented):\n%s", diff)
	}
}

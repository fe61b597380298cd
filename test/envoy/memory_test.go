package envoy_test

import (
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// A sidecar costs what it uses: with 2,000 Services in the mesh its heap is within 1 MB of what it is with 10, if it calls
// the same 5. Each figure is the median of five fresh Envoys after the same traffic.
func TestHeapDependsOnWhatIsUsed(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		var few, many int64
		t.Run("10", func(t *testing.T) { few = heap(t, v, 10) })
		t.Run("2000", func(t *testing.T) { many = heap(t, v, 2000) })
		t.Logf("heap with 10 Services in the mesh: %d kB, with 2,000: %d kB", few>>10, many>>10)
		if d := many - few; d > limit || d < -limit {
			t.Errorf("heap with 10 Services: %d bytes, with 2,000: %d: they differ by %d, more than %d", few, many, d, limit)
		}
	})
}

func heap(t *testing.T, v envoy.Version, inMesh int) int64 {
	w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
	w.Apply(services(inMesh) + meshWithRules(inMesh/2))
	client := w.Pod("client")
	var figures []int64
	for range 5 {
		client.RestartProxy()
		for i := range 5 {
			for range 20 {
				client.MustCall(echo.HTTP1, echo.Request{Address: serviceIP(i*inMesh/5) + ":80"})
			}
		}
		figures = append(figures, client.SettledHeap())
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}

package cluster

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Histogram is how often each bucket of one of the operator's histograms was observed, by the bucket's upper bound, with those below.
type Histogram map[float64]uint64

// Histogram returns one without labels, as the operator exports it.
func (m *Manager) Histogram(name string) (Histogram, error) {
	response, err := http.Get("http://" + m.cluster.Host + ":8080/metrics")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return nil, err
	}
	family := families[name]
	if family == nil || len(family.GetMetric()) != 1 {
		return nil, fmt.Errorf("the operator exports no histogram %s", name)
	}
	h := Histogram{}
	for _, b := range family.GetMetric()[0].GetHistogram().GetBucket() {
		h[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	return h, nil
}

// Since returns what was observed since an earlier state.
func (h Histogram) Since(before Histogram) Histogram {
	out := maps.Clone(h)
	for bound, n := range before {
		out[bound] -= n
	}
	return out
}

// Count returns how often it was observed.
func (h Histogram) Count() uint64 { return h[math.Inf(1)] }

// AtMost returns the bound that a quantile (0 to 1) of the observations is not above; 0 when there are none.
func (h Histogram) AtMost(quantile float64) float64 {
	for _, bound := range slices.Sorted(maps.Keys(h)) {
		if n := h[bound]; n > 0 && float64(n) >= quantile*float64(h.Count()) {
			return bound
		}
	}
	return 0
}

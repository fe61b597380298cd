package cluster

import (
	"math"
	"testing"
)

func TestHistogram(t *testing.T) {
	before := Histogram{0.001: 5, 0.002: 5, 0.004: 6, math.Inf(1): 6}
	h := Histogram{0.001: 5, 0.002: 14, 0.004: 105, math.Inf(1): 106}.Since(before)
	if h.Count() != 100 {
		t.Errorf("%d observations, want 100", h.Count())
	}
	for quantile, want := range map[float64]float64{0.05: 0.002, 0.09: 0.002, 0.1: 0.004, 0.99: 0.004, 1: math.Inf(1)} {
		if got := h.AtMost(quantile); got != want {
			t.Errorf("quantile %v is at most %v, want %v", quantile, got, want)
		}
	}
	if got := h.Since(h).AtMost(0.5); got != 0 {
		t.Errorf("of nothing, %v", got)
	}
}

package main

import (
	"math"
	"time"
)

// Buckets of a histogram: the first ends at histogramStart, each next one is wider by histogramGrowth. So a quantile is
// at most 2 % too high, and 800 of them reach beyond a minute.
const (
	histogramStart   = 10 * time.Microsecond
	histogramGrowth  = 1.02
	histogramBuckets = 800
)

// histogram counts durations in bounded memory.
type histogram struct {
	counts [histogramBuckets]int64
	total  int64
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	bucket := 0
	if d > histogramStart {
		bucket = int(math.Ceil(math.Log(float64(d)/float64(histogramStart)) / math.Log(histogramGrowth)))
	}
	h.counts[min(bucket, histogramBuckets-1)]++
	h.total++
	h.max = max(h.max, d)
}

// quantile returns a duration that the share q of all durations does not exceed; 0 when there is none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int64(math.Ceil(q * float64(h.total)))
	var seen int64
	for bucket, count := range h.counts {
		seen += count
		if count > 0 && seen >= rank {
			bound := float64(histogramStart) * math.Pow(histogramGrowth, float64(bucket))
			return min(time.Duration(bound), h.max)
		}
	}
	return 0
}

package main

import (
	"testing"
)

// Of several turns the best counts; one benchmark's units are apart; what the baseline lacks has no ratio.
func TestCompare(t *testing.T) {
	now, before := measurements{}, measurements{}
	for m, turns := range map[string][]string{
		"now":    {"goos: linux\nBenchmarkBuild/of-100-2  50  2000 ns/op  64 B/op  4 allocs/op\n", "BenchmarkBuild/of-100-2 60 1500 ns/op 64 B/op 5 allocs/op\nBenchmarkNew-2 1 7 ns/op\nPASS\n"},
		"before": {"BenchmarkBuild/of-100-2 60 3000 ns/op 64 B/op 4 allocs/op\n"},
	} {
		into := now
		if m == "before" {
			into = before
		}
		for _, out := range turns {
			if err := into.read(out); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := figures("internal/model", now, before, "0123456789abcdef")
	if len(got) != 4 {
		t.Fatalf("%d figures: %+v", len(got), got)
	}
	first := got[0]
	if ratio, ok := first.Ratio(); first.Case != "5. internal/model" || first.Name != "Build/of-100" || first.Unit != "ns/op" || first.Is != 1500 || !ok || ratio != 0.5 || first.Of != "0123456789ab" {
		t.Errorf("time: %+v", first)
	}
	if allocs := got[1]; allocs.Unit != "allocs/op" || allocs.Is != 4 {
		t.Errorf("allocations: %+v", allocs)
	}
	if _, ok := got[3].Ratio(); ok || got[3].Name != "New" {
		t.Errorf("a benchmark that the baseline lacks: %+v", got[3])
	}
	if err := now.read("BenchmarkBuild-2 1 many ns/op\n"); err == nil {
		t.Error("a line that is no measurement is taken for one")
	}
}

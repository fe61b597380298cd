package main

import (
	"testing"

	"github.com/tulle-mesh/tulle/test/bench/result"
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

// A regression is named, the worst first; what is within noise is not.
func TestWorse(t *testing.T) {
	figures := []result.Figure{
		{Case: "5. internal/model", Name: "Build", Unit: "ns/op", Is: 120, Baseline: new(100.0)},
		{Case: "5. internal/model", Name: "Build", Unit: "allocs/op", Is: 11, Baseline: new(10.0)},
		{Case: "5. internal/compile", Name: "Compile", Unit: "ns/op", Is: 300, Baseline: new(100.0)},
		{Case: "5. internal/compile", Name: "Free", Unit: "allocs/op", Is: 2, Baseline: new(0.0)},
		{Case: "5. internal/xds", Name: "New", Unit: "ns/op", Is: 9},
	}
	want := "Costs more than at the baseline:\n  3.00×  internal/compile Compile, ns/op: 300 instead of 100\n" +
		"  2.00×  internal/compile Free, allocs/op: 2 instead of 0\n  1.10×  internal/model Build, allocs/op: 11 instead of 10\n"
	if got := worse(figures); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := worse(figures[:1]); got != "Nothing costs more than at the baseline, but for noise." {
		t.Errorf("got %q", got)
	}
}

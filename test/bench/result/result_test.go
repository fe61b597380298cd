package result

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// A figure that misses its goal stands out in its row and is listed with the reason that is known for it, or says that none is.
func TestMarkdown(t *testing.T) {
	r := &Run{Name: "control plane", Commit: "abc", LoadBefore: "0.10 0.20 0.30", Conditions: []string{"etcd writes without fsync"}}
	r.Add(Figure{Case: "1. First", Name: "time", Unit: "s", Is: 0.5, Below: new(1.0), Baseline: new(10.0), Of: "another"})
	r.Add(Figure{Case: "1. First", Name: "memory", Unit: "MB", Is: 238, Below: new(120.0)})
	r.Add(Figure{Case: "2. Change", Name: "memory", Unit: "MB", Is: 300, Below: new(120.0), Note: "a|b"})
	r.Plot("cost", "one", "n", "ms", 1, 2)
	page := r.Markdown([]Reason{{Case: "1.", Name: "memory", Reason: "informers."}}, func(plot string) string { return plot + ".svg" })
	for _, want := range []string{
		"## Control plane", "Load averages before: 0.10 0.20 0.30.", "- etcd writes without fsync",
		"| time, s | < 1 | 0.5 | 10 (another) | 0.05 |  |", "| memory, MB | < 120 | **238** |  |  |  |", `a\|b`,
		"- 1. First: memory is 238 MB instead of 120: informers.\n", "- 2. Change: memory is 300 MB instead of 120: the reason is not found yet.\n",
		"![cost](cost.svg)",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "time is") {
		t.Errorf("a goal that was met is listed as missed:\n%s", page)
	}
}

// A plot is well-formed whatever its names, and has every point inside its axes.
func TestSVG(t *testing.T) {
	r := &Run{}
	for i, x := range []float64{10_000, 10, 1000, 100} { // not in order
		r.Plot("a < b & c", "one", "services", "ms", x, float64(i))
		r.Plot("a < b & c", "another", "services", "ms", x, x/10)
	}
	r.Plot("other", "elsewhere", "n", "n", 1, 1)
	svg := r.SVG("a < b & c")
	circles := 0
	for decoder := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, svg)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "circle" {
			circles++
		}
	}
	if circles != 8 {
		t.Errorf("%d points, want 8:\n%s", circles, svg)
	}
	if strings.Contains(svg, "elsewhere") || strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("a line of another plot, or a point that is nowhere:\n%s", svg)
	}
}

// An axis places its ends at its ends, and names few values between them.
func TestAxis(t *testing.T) {
	for name, tc := range map[string]struct {
		values      []float64
		logarithmic bool
	}{
		"near":     {[]float64{10, 11, 19}, false},
		"far":      {[]float64{10, 5000}, true},
		"zero":     {[]float64{0, 5000}, false},
		"one":      {[]float64{3}, false},
		"all zero": {[]float64{0, 0}, false},
		"negative": {[]float64{-5, 5}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAxis(tc.values, 0, 100)
			if a.logarithmic != tc.logarithmic {
				t.Errorf("logarithmic: %v", a.logarithmic)
			}
			if a.at(a.low) != 0 || a.at(a.high) != 100 {
				t.Errorf("%+v ends at %v and %v", a, a.at(a.low), a.at(a.high))
			}
			for _, v := range tc.values {
				if at := a.at(v); at < 0 || at > 100 {
					t.Errorf("%v is at %v", v, at)
				}
			}
			if n := len(a.ticks()); n < 2 || n > 9 {
				t.Errorf("ticks %v", a.ticks())
			}
		})
	}
}

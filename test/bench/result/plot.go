package result

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The plot's size and the space around its axes, in pixels.
const (
	width, height                    = 720, 360
	left, right, top, bottom         = 70, 20, 40, 50
	logarithmicFrom          float64 = 20 // an axis whose values differ by more has powers of ten
)

// colours are told apart also by those who don't see red or green.
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// Plots returns the names of a run's plots, in the order of their first points.
func (r *Run) Plots() []string {
	var names []string
	for _, s := range r.Series {
		if !slices.Contains(names, s.Plot) {
			names = append(names, s.Plot)
		}
	}
	return names
}

// SVG draws a plot: a line for each series of that name.
func (r *Run) SVG(plot string) string {
	var lines []Series
	var xs, ys []float64
	for _, s := range r.Series {
		if s.Plot != plot {
			continue
		}
		s.Points = slices.SortedFunc(slices.Values(s.Points), func(a, b Point) int { return cmp.Compare(a.X, b.X) })
		lines = append(lines, s)
		for _, p := range s.Points {
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="18" font-size="14">%s</text>`+"\n", left, html.EscapeString(plot))
	if len(xs) == 0 {
		return b.String() + "</svg>\n"
	}
	x := newAxis(xs, left, width-right)
	y := newAxis(ys, height-bottom, top)
	for _, tick := range x.ticks() {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x.at(tick), x.at(tick), top, height-bottom, x.at(tick), height-bottom+16, Number(tick))
	}
	for _, tick := range y.ticks() {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, width-right, y.at(tick), y.at(tick), left-6, y.at(tick)+4, Number(tick))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-12, html.EscapeString(lines[0].X))
	fmt.Fprintf(&b, `<text transform="translate(14 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+height-bottom)/2, html.EscapeString(lines[0].Y))
	for i, s := range lines {
		colour := colours[i%len(colours)]
		var path []string
		for _, p := range s.Points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x.at(p.X), y.at(p.Y)))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %s</title></circle>`+"\n", x.at(p.X), y.at(p.Y), colour, Number(p.X), Number(p.Y))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), colour)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", left+8, top+14+16*i, colour, html.EscapeString(s.Line))
	}
	return b.String() + "</svg>\n"
}

// axis places values between two pixels: by their logarithm when they differ much, else from zero.
type axis struct {
	low, high   float64
	from, to    float64
	logarithmic bool
}

func newAxis(values []float64, from, to float64) axis {
	a := axis{low: slices.Min(values), high: slices.Max(values), from: from, to: to}
	a.logarithmic = a.low > 0 && a.high/a.low > logarithmicFrom
	if a.logarithmic {
		a.low, a.high = math.Pow(10, math.Floor(math.Log10(a.low))), math.Pow(10, math.Ceil(math.Log10(a.high)))
		return a
	}
	a.low, a.high = min(0, a.low), a.high*1.1
	if a.high <= a.low {
		a.high = a.low + 1
	}
	return a
}

// at returns the pixel of a value.
func (a axis) at(value float64) float64 {
	share := (value - a.low) / (a.high - a.low)
	if a.logarithmic {
		share = math.Log(value/a.low) / math.Log(a.high/a.low)
	}
	return a.from + share*(a.to-a.from)
}

// ticks returns the values that the axis names: powers of ten, or round ones.
func (a axis) ticks() []float64 {
	var ticks []float64
	if a.logarithmic {
		for exponent := math.Round(math.Log10(a.low)); exponent <= math.Round(math.Log10(a.high)); exponent++ {
			ticks = append(ticks, math.Pow(10, exponent))
		}
		return ticks
	}
	step := math.Pow(10, math.Floor(math.Log10((a.high-a.low)/2)))
	for (a.high-a.low)/step > 8 {
		step *= 2
	}
	for n := math.Ceil(a.low / step); n*step <= a.high; n++ {
		ticks = append(ticks, n*step)
	}
	return ticks
}

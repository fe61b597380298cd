// Package result is what a benchmark leaves behind: figures with their goals and baselines, and the conditions under which they were
// measured. It is written as JSON, from which the tables and plots in the documentation are made.
package result

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Run is one run of a benchmark.
type Run struct {
	Name    string    `json:"name"`
	Commit  string    `json:"commit"`
	Began   time.Time `json:"began"`
	Machine Machine   `json:"machine"`
	// LoadBefore are the machine's load averages over 1, 5 and 15 minutes when the run began: what else it did.
	LoadBefore string `json:"loadBefore"`
	// Conditions are sentences: sizes, what ran where, what else ran.
	Conditions []string `json:"conditions,omitempty"`
	Figures    []Figure `json:"figures"`
	Series     []Series `json:"series,omitempty"`
}

// Machine is what it ran on.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// Figure is one thing that was measured.
type Figure struct {
	Case string  `json:"case"`
	Name string  `json:"name"`
	Unit string  `json:"unit"`
	Is   float64 `json:"is"`
	// Rounds are the values that Is is the median of.
	Rounds []float64 `json:"rounds,omitempty"`
	// Below is the goal: to measure less than this. Nil: there is none.
	Below *float64 `json:"below,omitempty"`
	// Baseline is the same of something else, named by Of: of another program, another commit or the other way in the same run.
	Baseline *float64 `json:"baseline,omitempty"`
	Of       string   `json:"of,omitempty"`
	// Note says what a reader must know: the reason of a miss, or how it was measured.
	Note string `json:"note,omitempty"`
}

// Met says whether a figure meets its goal; one without a goal does.
func (f *Figure) Met() bool { return f.Below == nil || f.Is < *f.Below }

// Ratio returns the figure as a part of its baseline; false when there is none.
func (f *Figure) Ratio() (float64, bool) {
	if f.Baseline == nil || *f.Baseline == 0 {
		return 0, false
	}
	return f.Is / *f.Baseline, true
}

// Series is a line of a plot.
type Series struct {
	Plot   string  `json:"plot"`
	Line   string  `json:"line"`
	X      string  `json:"x"`
	Y      string  `json:"y"`
	Points []Point `json:"points"`
}

// Point is one of a series.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// New returns a run that begins now, on this machine, of the commit that is checked out.
func New(name string) *Run {
	return &Run{Name: name, Commit: commit(), Began: time.Now().UTC().Truncate(time.Second), Machine: machine(), LoadBefore: load()}
}

// Add notes a figure.
func (r *Run) Add(f Figure) { r.Figures = append(r.Figures, f) }

// Plot notes a point of a line.
func (r *Run) Plot(plot, line, xName, yName string, x, y float64) {
	i := slices.IndexFunc(r.Series, func(s Series) bool { return s.Plot == plot && s.Line == line })
	if i < 0 {
		i = len(r.Series)
		r.Series = append(r.Series, Series{Plot: plot, Line: line, X: xName, Y: yName})
	}
	r.Series[i].Points = append(r.Series[i].Points, Point{x, y})
}

// Condition notes a sentence about how it was measured.
func (r *Run) Condition(format string, args ...any) {
	r.Conditions = append(r.Conditions, fmt.Sprintf(format, args...))
}

// Write writes the run as JSON.
func (r *Run) Write(path string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644) //nolint:gosec // meant to be read by everybody
}

// Read reads a run.
func Read(path string) (*Run, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Run
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// Table returns the figures as aligned text: goal, measured, baseline, ratio.
func (r *Run) Table() string {
	var b strings.Builder
	last := ""
	for _, f := range r.Figures {
		if f.Case != last {
			fmt.Fprintf(&b, "\n%s\n%-58s %14s %14s %14s %8s\n", f.Case, "", "goal", "measured", "baseline", "ratio")
			last = f.Case
		}
		goal, baseline, ratio, mark := "", "", "", ""
		if f.Below != nil {
			goal = "< " + Number(*f.Below)
			if !f.Met() {
				mark = "  MISSED"
			}
		}
		if f.Baseline != nil {
			baseline = Number(*f.Baseline)
		}
		if n, ok := f.Ratio(); ok {
			ratio = Number(n)
		}
		fmt.Fprintf(&b, "  %-56s %14s %14s %14s %8s%s\n", f.Name+", "+f.Unit, goal, Number(f.Is), baseline, ratio, mark)
	}
	return b.String()
}

// Number writes a number with three significant digits.
func Number(n float64) string {
	s := strconv.FormatFloat(n, 'g', 3, 64)
	if strings.ContainsAny(s, "e") || n >= 1000 {
		return strconv.FormatFloat(n, 'f', 0, 64)
	}
	return s
}

func commit() string {
	out, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	id := strings.TrimSpace(string(out))
	if dirty, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no").Output(); err != nil || len(dirty) > 0 {
		id += " with changes"
	}
	return id
}

func machine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	m.CPU = field("/proc/cpuinfo", "model name")
	m.Memory = field("/proc/meminfo", "MemTotal")
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err == nil {
		m.Kernel = strings.TrimSpace(string(kernel))
	}
	return m
}

// load returns the load averages.
func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	fields := strings.Fields(string(raw))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// field returns the value of the first line of a file that begins with a name and a colon.
func field(path, name string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(raw)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// Quantile returns the q-th part of sorted durations in milliseconds; 0 of none.
func Quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i].Microseconds()) / 1000
}

package result

import (
	"fmt"
	"strings"
)

// Reason says why figures miss their goals: those of this name in the cases that begin so.
type Reason struct {
	Case   string `json:"case"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Markdown returns a run as a section of a page: its conditions, the figures by case, what misses its goal and why. image returns the path
// of a plot's image, as the page links it.
func (r *Run) Markdown(reasons []Reason, image func(plot string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", strings.ToUpper(r.Name[:1])+r.Name[1:])
	fmt.Fprintf(&b, "Commit `%s`, %s. %s, %d cores, %s, Linux %s, %s. Load averages before: %s.\n\n", r.Commit, r.Began.Format("2006-01-02 15:04 MST"),
		r.Machine.CPU, r.Machine.Cores, r.Machine.Memory, r.Machine.Kernel, r.Machine.Go, r.LoadBefore)
	for _, c := range r.Conditions {
		fmt.Fprintf(&b, "- %s\n", c)
	}
	last := ""
	for _, f := range r.Figures {
		if f.Case != last {
			fmt.Fprintf(&b, "\n### %s\n\n| measured | goal | is | baseline | ratio | |\n|---|---:|---:|---:|---:|---|\n", f.Case)
			last = f.Case
		}
		b.WriteString(f.row())
	}
	if misses := r.misses(reasons); misses != "" {
		fmt.Fprintf(&b, "\n### Missed\n\n%s", misses)
	}
	for _, plot := range r.Plots() {
		fmt.Fprintf(&b, "\n![%s](%s)\n", plot, image(plot))
	}
	return b.String()
}

// row is the figure's line of the table.
func (f *Figure) row() string {
	name, goal, is, baseline, ratio := f.Name, "", Number(f.Is), "", ""
	if f.Unit != "" {
		name += ", " + f.Unit
	}
	if f.Below != nil {
		goal = "< " + Number(*f.Below)
		if !f.Met() {
			is = "**" + is + "**"
		}
	}
	if f.Baseline != nil {
		baseline = Number(*f.Baseline)
		if f.Of != "" {
			baseline += " (" + f.Of + ")"
		}
	}
	if n, ok := f.Ratio(); ok {
		ratio = Number(n)
	}
	note := strings.NewReplacer("|", "\\|", "\n", " ").Replace(f.Note)
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |\n", name, goal, is, baseline, ratio, note)
}

// misses lists the figures that miss their goals.
func (r *Run) misses(reasons []Reason) string {
	var b strings.Builder
	for _, f := range r.Figures {
		if f.Met() {
			continue
		}
		why := "the reason is not found yet."
		for _, reason := range reasons {
			if strings.HasPrefix(f.Case, reason.Case) && f.Name == reason.Name {
				why = reason.Reason
			}
		}
		fmt.Fprintf(&b, "- %s: %s is %s %s instead of %s: %s\n", f.Case, f.Name, Number(f.Is), f.Unit, Number(*f.Below), why)
	}
	return b.String()
}

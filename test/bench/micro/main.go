// Command micro runs the micro-benchmarks of this tree and of a baseline commit in turn (A B A B), built by the same command, and compares.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/result"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "micro:", err)
		os.Exit(1)
	}
}

// options are what a run is told.
type options struct {
	baseline, out, benchtime, filter string
	rounds                           int
	timeout                          time.Duration
}

func run(ctx context.Context, args []string) error {
	o := options{}
	flags := flag.NewFlagSet("micro", flag.ContinueOnError)
	flags.StringVar(&o.baseline, "baseline", "", "commit to compare with; when empty, the one that docs/performance/baseline names")
	flags.StringVar(&o.out, "out", "", "file to write the results to, as JSON")
	flags.StringVar(&o.benchtime, "benchtime", "200ms", "how long each benchmark goes on, each time")
	flags.StringVar(&o.filter, "bench", ".", "which benchmarks, as of go test")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each commit has its turn; the best counts, since others on the machine only add")
	flags.DurationVar(&o.timeout, "timeout", 20*time.Minute, "when the run is given up")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if o.baseline == "" {
		recorded, err := os.ReadFile("docs/performance/baseline")
		if err != nil {
			return fmt.Errorf("the baseline commit: %w: run it in the repository's root", err)
		}
		o.baseline = strings.TrimSpace(string(recorded))
	}
	dir, err := os.MkdirTemp("", "tulle-micro-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "baseline")
	if err := command(ctx, ".", "git", "worktree", "add", "--quiet", "--detach", tree, o.baseline); err != nil {
		return err
	}
	run := result.New("parts of the control plane")
	err = compare(ctx, &o, run, tree, dir)
	err = errors.Join(err, command(context.WithoutCancel(ctx), ".", "git", "worktree", "remove", "--force", tree))
	if err != nil {
		return err
	}
	fmt.Println(run.Table())
	fmt.Println(worse(run.Figures))
	if o.out == "" {
		return nil
	}
	return run.Write(o.out)
}

// compare fills in the run.
func compare(ctx context.Context, o *options, run *result.Run, baseline, dir string) error {
	run.Condition("the best of %d turns of %s each, this commit and the baseline in turn, built by the same command", o.rounds, o.benchtime)
	packages, err := benchmarked(".")
	if err != nil {
		return err
	}
	for _, p := range packages {
		this, err := build(ctx, ".", p, filepath.Join(dir, "this.test"))
		if err != nil {
			return err
		}
		that := ""
		if _, err := os.Stat(filepath.Join(baseline, p)); err == nil {
			if that, err = build(ctx, baseline, p, filepath.Join(dir, "that.test")); err != nil {
				return err
			}
		}
		now, before := measurements{}, measurements{}
		for range o.rounds {
			if that != "" {
				if err := before.turn(ctx, o, that, filepath.Join(baseline, p)); err != nil {
					return err
				}
			}
			if err := now.turn(ctx, o, this, p); err != nil {
				return err
			}
		}
		for _, f := range figures(p, now, before, o.baseline) {
			run.Add(f)
		}
	}
	return nil
}

// benchmarked returns the packages with benchmarks of the control plane's parts.
func benchmarked(root string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(root, "internal", "*", "*_test.go"))
	if err != nil {
		return nil, err
	}
	var packages []string
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if p := filepath.Dir(file); bytes.Contains(raw, []byte("\nfunc Benchmark")) && !slices.Contains(packages, p) {
			packages = append(packages, p)
		}
	}
	if len(packages) == 0 {
		return nil, errors.New("no package in internal has benchmarks: run it in the repository's root")
	}
	return packages, nil
}

func build(ctx context.Context, tree, p, to string) (string, error) {
	return to, command(ctx, tree, "go", "test", "-c", "-trimpath", "-o", to, "./"+p)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // as the operator's program is built
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(append([]string{name}, args...), " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// measurement is of one benchmark, in one unit.
type measurement struct{ benchmark, unit string }

// measurements are the best of each so far.
type measurements map[measurement]float64

// turn runs a test binary's benchmarks once, in its package's directory.
func (m measurements) turn(ctx context.Context, o *options, binary, dir string) error {
	c := exec.CommandContext(ctx, binary, "-test.run", "^$", "-test.bench", o.filter, "-test.benchmem", "-test.benchtime", o.benchtime)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("benchmarks in %s: %w: %s", dir, err, bytes.TrimSpace(out))
	}
	return m.read(string(out))
}

// read takes in what a test binary printed: lines of a name, a number of rounds, and pairs of value and unit.
func (m measurements) read(out string) error {
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of CPUs
			name = name[:i]
		}
		for i := 2; i+1 < len(fields); i += 2 {
			var value float64
			if _, err := fmt.Sscan(fields[i], &value); err != nil {
				return fmt.Errorf("%q: %w", strings.TrimSpace(line), err)
			}
			key := measurement{name, fields[i+1]}
			if best, known := m[key]; !known || value < best {
				m[key] = value
			}
		}
	}
	return nil
}

// What is noise on a machine with other work: times are the best of few turns, allocations are hardly ever different without a reason.
const (
	noiseOfTime        = 1.25
	noiseOfAllocations = 1.05
)

// worse names what costs more than at the baseline, by more than noise, the worst first.
func worse(figures []result.Figure) string {
	type loss struct {
		result.Figure
		ratio float64
	}
	var losses []loss
	for _, f := range figures {
		if f.Baseline == nil || f.Is == 0 {
			continue
		}
		noise := noiseOfAllocations
		if f.Unit == "ns/op" {
			noise = noiseOfTime
		}
		if ratio := f.Is / max(*f.Baseline, 1); ratio > noise {
			losses = append(losses, loss{f, ratio})
		}
	}
	if len(losses) == 0 {
		return "Nothing costs more than at the baseline, but for noise."
	}
	slices.SortStableFunc(losses, func(a, b loss) int { return cmp.Compare(b.ratio, a.ratio) })
	out := "Costs more than at the baseline:\n"
	for _, l := range losses {
		out += fmt.Sprintf("  %.2f×  %s %s, %s: %.4g instead of %.4g\n", l.ratio, strings.TrimPrefix(l.Case, "5. "), l.Name, l.Unit, l.Is, *l.Baseline)
	}
	return out
}

// figures are those of a package, by benchmark; one that the baseline does not have comes without.
func figures(p string, now, before measurements, commit string) []result.Figure {
	keys := make([]measurement, 0, len(now))
	for key := range now {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b measurement) int {
		return cmp.Or(strings.Compare(a.benchmark, b.benchmark), strings.Compare(b.unit, a.unit)) // ns/op first
	})
	var figures []result.Figure
	for _, key := range keys {
		f := result.Figure{Case: "5. " + filepath.ToSlash(p), Name: key.benchmark, Unit: key.unit, Is: now[key]}
		if value, known := before[key]; known {
			f.Baseline, f.Of = &value, commit[:min(12, len(commit))]
		}
		figures = append(figures, f)
	}
	return figures
}

// Command report makes docs/performance.md, and the plots that it shows, from the results in docs/performance. It measures nothing.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/tulle-mesh/tulle/test/bench/result"
)

// reasonsFile says, beside the results, why figures miss their goals.
const reasonsFile = "reasons.json"

const preamble = `# Performance

Made by ` + "`make bench-report`" + ` from the results in [performance](performance), which the commands of [test/bench](../test/bench/README.md) write. Don't edit it.
A figure holds for the commit, the machine and the conditions that are given with it. **Bold** misses its goal. A ratio is what was measured
as a part of the baseline.
`

func main() {
	if err := report("docs"); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// report writes performance.md and the plots into a directory of documentation.
func report(docs string) error {
	results, err := filepath.Glob(filepath.Join(docs, "performance", "*.json"))
	if err != nil {
		return err
	}
	reasons, err := readReasons(filepath.Join(docs, "performance", reasonsFile))
	if err != nil {
		return err
	}
	page, runs := preamble, 0
	for _, file := range results {
		if filepath.Base(file) == reasonsFile {
			continue
		}
		run, err := result.Read(file)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		image := func(plot string) string {
			return path.Join("performance", name+"-"+strings.ReplaceAll(plot, " ", "-")+".svg")
		}
		for _, plot := range run.Plots() {
			if err := write(filepath.Join(docs, image(plot)), run.SVG(plot)); err != nil {
				return err
			}
		}
		page += "\n" + run.Markdown(reasons, image)
		runs++
	}
	if runs == 0 {
		return fmt.Errorf("%s has no results: run make bench-controlplane", filepath.Join(docs, "performance"))
	}
	return write(filepath.Join(docs, "performance.md"), page)
}

func readReasons(file string) ([]result.Reason, error) {
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var reasons []result.Reason
	if err := json.Unmarshal(raw, &reasons); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return reasons, nil
}

func write(file, content string) error {
	return os.WriteFile(file, []byte(content), 0o644) //nolint:gosec // meant to be read by everybody
}

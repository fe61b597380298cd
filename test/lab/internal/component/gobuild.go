package component

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// goRecipe builds static programs from a Go module of the lab.
type goRecipe struct {
	module   string            // folder of the go.mod, relative to the lab's source folder
	packages []string          // what to build
	ldflags  string            // beyond -s -w
	tags     string            // separated by commas
	rename   map[string]string // names that Go gives to names that they should have
	copies   []moduleFiles     // files of modules to put beside the programs
	links    string            // component whose programs belong here too
}

// moduleFiles are files of a Go module in the module cache.
type moduleFiles struct{ module, pattern, to string }

func (r goRecipe) identity() string {
	parts := []string{"go", r.module, strings.Join(r.packages, " "), r.flags(), fmt.Sprint(r.copies), r.links}
	for _, name := range slices.Sorted(maps.Keys(r.rename)) {
		parts = append(parts, name+"="+r.rename[name])
	}
	if r.tags != "" {
		parts = append(parts, "tags="+r.tags)
	}
	return strings.Join(parts, "\n")
}

func (r goRecipe) flags() string { return strings.TrimSpace("-s -w " + r.ldflags) }

func (r goRecipe) make(ctx context.Context, job job) error {
	if err := r.build(ctx, job); err != nil {
		return err
	}
	for from, to := range r.rename {
		if err := os.Rename(filepath.Join(job.dir, from), filepath.Join(job.dir, to)); err != nil {
			return err
		}
	}
	for _, files := range r.copies {
		if err := files.copy(ctx, filepath.Join(job.source, r.module), job.dir); err != nil {
			return fmt.Errorf("files of %s: %w", files.module, err)
		}
	}
	if r.links != "" {
		return linkAll(job, r.links)
	}
	return nil
}

// build runs the compiler and counts the packages it reports.
func (r goRecipe) build(ctx context.Context, job job) error {
	folder := filepath.Join(job.source, r.module)
	job.step.Set("resolving modules")
	total, err := r.count(ctx, folder)
	if err != nil {
		return err
	}
	args := append([]string{"build", "-v", "-buildvcs=false", "-tags", r.tags, "-ldflags", r.flags(), "-o", job.dir + "/"}, r.packages...)
	cmd := goCommand(ctx, folder, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	messages := followBuild(stderr, func(compiled int) {
		job.step.Set("%d packages compiled, %d in all when none is cached", compiled, total)
	})
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", folder, err, messages)
	}
	return nil
}

// count returns how many packages a cold build compiles. It also downloads
// what is missing of the modules.
func (r goRecipe) count(ctx context.Context, folder string) (int, error) {
	cmd := goCommand(ctx, folder, append([]string{"list", "-deps", "-tags", r.tags}, r.packages...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go list in %s: %w\n%s(the first build downloads Go modules: check GOPROXY and the network)", folder, err, stderr.String())
	}
	return bytes.Count(out, []byte("\n")), nil
}

// followBuild reads what `go build -v` writes to stderr: the path of each
// package as its compilation starts, mixed with messages, which it returns.
func followBuild(stderr io.Reader, compiled func(int)) string {
	var messages strings.Builder
	count := 0
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line != "" && !strings.ContainsAny(line, " :\t#") {
			count++
			compiled(count)
			continue
		}
		if !strings.HasPrefix(line, "go: downloading ") {
			messages.WriteString(line + "\n")
		}
	}
	return messages.String()
}

func goCommand(ctx context.Context, folder string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = folder
	// What the user's own flags would change is not in the key.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	return cmd
}

// copy puts the module's matching files into dir/to.
func (m moduleFiles) copy(ctx context.Context, folder, dir string) error {
	out, err := goCommand(ctx, folder, "list", "-m", "-f", "{{.Dir}}", m.module).Output()
	if err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), m.pattern))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("no file matches %s", m.pattern)
	}
	target := filepath.Join(dir, m.to)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(target, filepath.Base(name)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// linkAll makes another component's files appear in this one's folder.
func linkAll(job job, name string) error {
	other, err := job.cache.Path(name)
	if err != nil {
		return err
	}
	part, err := job.cache.find(name)
	if err != nil {
		return err
	}
	for _, file := range part.Files {
		if err := os.Link(filepath.Join(other, file), filepath.Join(job.dir, file)); err != nil {
			return err
		}
	}
	return nil
}

// Package component builds or fetches, once, the programs that the lab and
// the test suites run, into a cache outside the checkout. An entry's name
// holds a hash of everything that defines it, so a changed go.mod, flag or
// toolchain makes a new entry and an old checkout still finds its own.
package component

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
)

// Component is a set of programs that is built or fetched as one.
type Component struct {
	// Name is what `lab build` and `lab path` call it, Version its upstream's.
	Name, Version string
	// Cost says how long a cold build takes, for people who wait for it.
	Cost string
	// Files are the programs in its directory.
	Files []string
	// sources are files and folders, relative to the lab's source folder,
	// whose content is part of the key.
	sources []string
	// recipe is how it is made: part of the key, and run by make.
	recipe recipe
	// needs names components that must be built before.
	needs []string
	// extra says that no lab is made of it: only who names it gets it.
	extra bool
}

// recipe fills dir with a component's files.
type recipe interface {
	// identity is everything about the recipe, apart from its source files,
	// that changes the result.
	identity() string
	make(ctx context.Context, job job) error
}

// job is what a recipe gets to work with.
type job struct {
	cache  *Cache
	dir    string // to be filled
	source string // the lab's source folder
	step   *progress.Step
}

// Cache finds components in a folder and fills it.
type Cache struct {
	root      string
	source    string
	goVersion string
	parts     []Component
	report    *progress.Reporter
}

// Open returns the cache in root for the lab whose source folder (test/lab of
// a checkout) is source.
func Open(root, source string, report *progress.Reporter) (*Cache, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("cache folder: %w (set TULLE_CACHE to a folder that can be written)", err)
	}
	version, err := goVersion()
	if err != nil {
		return nil, err
	}
	return &Cache{root: root, source: source, goVersion: version, parts: catalogue(), report: report}, nil
}

func goVersion() (string, error) {
	out, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("running `go env GOVERSION`: %w (the lab builds Kubernetes with Go: put `go` on PATH; under sudo, use `sudo env PATH=$PATH ...`)", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Root is the cache's folder.
func (c *Cache) Root() string { return c.root }

// Components lists every component in the order in which they are built.
func (c *Cache) Components() []Component { return slices.Clone(c.parts) }

// Select returns the components that the names stand for, in build order and
// with those they need; all that a lab is made of when there is no name. The
// start of names, up to a dash, stands for all of them: "envoy" for every
// "envoy-…".
func (c *Cache) Select(names []string) ([]Component, error) {
	if len(names) == 0 {
		return slices.DeleteFunc(c.Components(), func(part Component) bool { return part.extra }), nil
	}
	wanted := map[string]bool{}
	for _, name := range names {
		parts := c.named(name)
		if len(parts) == 0 {
			return nil, fmt.Errorf("unknown component %q: there are %s", name, strings.Join(c.names(), ", "))
		}
		for _, part := range parts {
			wanted[part.Name] = true
			for _, need := range part.needs {
				wanted[need] = true
			}
		}
	}
	var selected []Component
	for _, part := range c.parts {
		if wanted[part.Name] {
			selected = append(selected, part)
		}
	}
	return selected, nil
}

// named returns the component of this name, or else those whose names start
// with it.
func (c *Cache) named(name string) []Component {
	if part, err := c.find(name); err == nil {
		return []Component{part}
	}
	return slices.DeleteFunc(c.Components(), func(part Component) bool { return !strings.HasPrefix(part.Name, name+"-") })
}

func (c *Cache) names() []string {
	var names []string
	for _, part := range c.parts {
		names = append(names, part.Name)
	}
	return names
}

// find returns the component with exactly this name.
func (c *Cache) find(name string) (Component, error) {
	for _, part := range c.parts {
		if part.Name == name {
			return part, nil
		}
	}
	return Component{}, fmt.Errorf("unknown component %q: there are %s", name, strings.Join(c.names(), ", "))
}

// Built returns the folder of a component and whether it is there.
func (c *Cache) Built(part Component) (dir string, built bool, err error) {
	key, err := c.key(part)
	if err != nil {
		return "", false, err
	}
	dir = filepath.Join(c.root, part.Name+"-"+key[:12])
	if part.Version != "" && !strings.HasSuffix(part.Name, part.Version) {
		dir = filepath.Join(c.root, part.Name+"-"+part.Version+"-"+key[:12])
	}
	_, err = os.Stat(dir)
	switch {
	case err == nil:
		return dir, true, nil
	case os.IsNotExist(err):
		return dir, false, nil
	default:
		return "", false, fmt.Errorf("cache entry: %w", err)
	}
}

// Path returns the folder of a component that has been built.
func (c *Cache) Path(name string) (string, error) {
	part, err := c.find(name)
	if err != nil {
		return "", err
	}
	dir, built, err := c.Built(part)
	if err != nil {
		return "", err
	}
	if !built {
		return "", fmt.Errorf("%s is not built: run `lab build %s` (%s)", name, name, part.Cost)
	}
	return dir, nil
}

// Ensure builds what is missing of the named components; of all that a lab is
// made of when there is no name. Two processes that want the same component build it once.
func (c *Cache) Ensure(ctx context.Context, names ...string) error {
	parts, err := c.Select(names)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if err := c.ensure(ctx, part); err != nil {
			return fmt.Errorf("%s: %w", part.Name, err)
		}
	}
	return nil
}

func (c *Cache) ensure(ctx context.Context, part Component) error {
	if _, built, err := c.Built(part); err != nil || built {
		return err
	}
	unlock, err := c.lock(part)
	if err != nil {
		return err
	}
	defer unlock()
	dir, built, err := c.Built(part)
	if err != nil || built {
		return err
	}
	if err := checkSpace(c.root, 2<<30); err != nil {
		return err
	}
	temp := filepath.Join(c.root, "tmp-"+part.Name)
	// A build that was killed leaves its folder behind; the lock says it is ours now.
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	title := strings.TrimSpace(fmt.Sprintf("building %s %s", part.Name, part.Version))
	err = c.report.Run(fmt.Sprintf("%s (%s)", title, part.Cost), func(step *progress.Step) error {
		return part.recipe.make(ctx, job{cache: c, dir: temp, source: c.source, step: step})
	})
	if err != nil {
		return err
	}
	for _, file := range part.Files {
		if _, err := os.Stat(filepath.Join(temp, file)); err != nil {
			return fmt.Errorf("the build made no %s: %w", file, err)
		}
	}
	return os.Rename(temp, dir)
}

// lock waits until no other process builds the component.
func (c *Cache) lock(part Component) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(c.root, part.Name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		c.report.Printf("another process is building %s: waiting for it", part.Name)
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			file.Close()
			return nil, fmt.Errorf("locking %s: %w", file.Name(), err)
		}
	}
	return func() { file.Close() }, nil
}

// checkSpace fails when fewer than need bytes are free at path.
func checkSpace(path string, need uint64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return fmt.Errorf("free space of %s: %w", path, err)
	}
	free := stat.Bavail * uint64(stat.Bsize)
	if free < need {
		return fmt.Errorf("only %.1f GB free in %s, at least %.1f GB are needed: free some, or set TULLE_CACHE to a folder on another disk",
			float64(free)/1e9, path, float64(need)/1e9)
	}
	return nil
}

// key hashes what defines a component.
func (c *Cache) key(part Component) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n%s %s/%s\n%s\n", part.Name, part.Version, c.goVersion, runtime.GOOS, runtime.GOARCH, part.recipe.identity())
	for _, source := range part.sources {
		if err := hashTree(h, c.source, source); err != nil {
			return "", fmt.Errorf("source of %s: %w", part.Name, err)
		}
	}
	for _, need := range part.needs {
		other, err := c.find(need)
		if err != nil {
			return "", err
		}
		key, err := c.key(other)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %s\n", need, key)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashTree adds the names and contents of all regular files at or below
// root/path, in lexical order.
func hashTree(h io.Writer, root, path string) error {
	return filepath.WalkDir(filepath.Join(root, path), func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", relative, len(content))
		_, err = h.Write(content)
		return err
	})
}

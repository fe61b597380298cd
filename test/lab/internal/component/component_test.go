package component

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
)

// fakeRecipe writes one file and counts how often it is asked to.
type fakeRecipe struct {
	name  string
	fail  error
	count *atomic.Int32
}

func (r fakeRecipe) identity() string { return r.name }

func (r fakeRecipe) make(_ context.Context, job job) error {
	r.count.Add(1)
	if err := os.WriteFile(filepath.Join(job.dir, r.name), nil, 0o755); err != nil {
		return err
	}
	return r.fail
}

// cacheOf returns a cache of these components, with one source file.
func cacheOf(t *testing.T, parts ...Component) *Cache {
	t.Helper()
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "go.mod"), []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &Cache{root: t.TempDir(), source: source, goVersion: "go1", parts: parts, report: progress.New(t.Output())}
}

func fake(name string, count *atomic.Int32, needs ...string) Component {
	return Component{Name: name, Version: "1", Files: []string{name}, sources: []string{"go.mod"}, recipe: fakeRecipe{name: name, count: count}, needs: needs}
}

func TestEnsureBuildsOnce(t *testing.T) {
	var count atomic.Int32
	cache := cacheOf(t, fake("a", &count))
	var starting sync.WaitGroup
	for range 4 {
		starting.Go(func() {
			if err := cache.Ensure(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	if count.Load() != 1 {
		t.Errorf("built %d times", count.Load())
	}
	dir, err := cache.Path("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
		t.Error(err)
	}
}

func TestKeyFollowsWhatDefinesAComponent(t *testing.T) {
	var count atomic.Int32
	cache := cacheOf(t, fake("a", &count), fake("b", &count, "a"))
	path := func() string {
		t.Helper()
		if err := cache.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		dir, err := cache.Path("b")
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	first := path()
	if again := path(); again != first {
		t.Errorf("nothing changed, but %s became %s", first, again)
	}
	if err := os.WriteFile(filepath.Join(cache.source, "go.mod"), []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	second := path()
	cache.goVersion = "go2"
	third := path()
	cache.parts[0].recipe = fakeRecipe{name: "a", count: new(atomic.Int32)}
	cache.parts[0].Version = "2"
	fourth := path()
	if all := []string{first, second, third, fourth}; len(slices.Compact(slices.Sorted(slices.Values(all)))) != 4 {
		t.Errorf("a changed source, Go or need must change the entry: %v", all)
	}
	if _, err := os.Stat(first); err != nil {
		t.Errorf("an older entry must stay for older checkouts: %v", err)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	var count atomic.Int32
	part := fake("a", &count)
	part.recipe = fakeRecipe{name: "a", count: &count, fail: errors.New("no compiler")}
	cache := cacheOf(t, part)
	if err := cache.Ensure(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "a: no compiler") {
		t.Errorf("error %v", err)
	}
	if _, err := cache.Path("a"); err == nil || !strings.Contains(err.Error(), "run `lab build a`") {
		t.Errorf("path of what is not built: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(cache.root, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || filepath.Base(left[0]) != "a.lock" {
		t.Errorf("left: %v", left)
	}
	part = fake("a", &count)
	part.Files = append(part.Files, "absent")
	cache.parts[0] = part
	if err := cache.Ensure(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "made no absent") {
		t.Errorf("error %v", err)
	}
}

func TestSelect(t *testing.T) {
	cache := cacheOf(t, catalogue()...)
	for _, test := range []struct{ names, want string }{
		{"envoy", "envoy-1.40.0 envoy-1.39.3 envoy-1.38.3"},
		{"envoy-1.39.3", "envoy-1.39.3"},
		{"kubernetes", "apiserver kubernetes"},
		{"coredns apiserver", "apiserver coredns"},
		{"prometheus", "prometheus"},
		{"flagger prometheus-operator", "prometheus-operator flagger"},
		// What a lab is made of: not what only runs in some.
		{"", "envoy-1.40.0 envoy-1.39.3 envoy-1.38.3 apiserver certmanager kubernetes coredns pause"},
	} {
		parts, err := cache.Select(strings.Fields(test.names))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, part := range parts {
			names = append(names, part.Name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%s: got %s, want %s", test.names, got, test.want)
		}
	}
	if _, err := cache.Select([]string{"istio"}); err == nil || !strings.Contains(err.Error(), `unknown component "istio": there are envoy-1.40.0,`) {
		t.Errorf("error %v", err)
	}
}

// TestCatalogueNamesFilesThatExist keeps the catalogue and build/ in step.
func TestCatalogueNamesFilesThatExist(t *testing.T) {
	for _, part := range catalogue() {
		for _, source := range part.sources {
			if _, err := os.Stat(filepath.Join("../..", source)); err != nil {
				t.Errorf("%s: %v", part.Name, err)
			}
		}
	}
	for file, want := range map[string]string{
		"kubernetes": "k8s.io/kubernetes v" + KubernetesVersion, "coredns": "coredns/coredns v" + CoreDNSVersion,
		"certmanager": "cert-manager/cert-manager v" + CertManagerVersion, "flagger": "fluxcd/flagger v" + FlaggerVersion,
		"prometheus":          "prometheus/prometheus v0." + prometheusModule(t),
		"prometheus-operator": "prometheus-operator/prometheus-operator v" + PrometheusOperatorVersion,
	} {
		content, err := os.ReadFile(filepath.Join("../../build", file, "go.mod"))
		if err != nil || !strings.Contains(string(content), want) {
			t.Errorf("%s/go.mod has no %q: %v", file, want, err)
		}
	}
}

// prometheusModule is the minor and patch version of the module of a release: that of 3.11.3 is v0.311.3.
func prometheusModule(t *testing.T) string {
	t.Helper()
	parts := strings.Split(PrometheusVersion, ".")
	if len(parts) != 3 {
		t.Fatalf("version %s", PrometheusVersion)
	}
	return fmt.Sprintf("%s%02s.%s", parts[0], parts[1], parts[2])
}

func TestFollowBuild(t *testing.T) {
	last := 0
	messages := followBuild(strings.NewReader("go: downloading k8s.io/api v1\nk8s.io/api/core/v1\nfmt\n# k8s.io/broken\nbroken.go:1:2: undefined: x\n"),
		func(compiled int) { last = compiled })
	if last != 2 {
		t.Errorf("%d packages counted", last)
	}
	if want := "# k8s.io/broken\nbroken.go:1:2: undefined: x\n"; messages != want {
		t.Errorf("messages %q, want %q", messages, want)
	}
}

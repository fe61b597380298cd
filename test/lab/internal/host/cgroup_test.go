//go:build linux

package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseMount(t *testing.T) {
	for _, test := range []struct{ line, point, kind string }{
		{"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate", "/sys/fs/cgroup", "cgroup2"},
		{"31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", "/sys/fs/cgroup/cpu", "cgroup"},
		{"nonsense", "", ""},
	} {
		if point, kind := parseMount(test.line); point != test.point || kind != test.kind {
			t.Errorf("%q: got %q, %q", test.line, point, kind)
		}
	}
}

// group makes a folder that looks like a control group with these files.
func group(t *testing.T, path string, files map[string]string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestVersion1CPUsAreInherited(t *testing.T) {
	root := group(t, t.TempDir(), map[string]string{"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n"})
	child := group(t, filepath.Join(root, "lab"), map[string]string{"cpuset.cpus": "\n", "cpuset.mems": "\n"})
	if err := inheritCPUs(child); err != nil {
		t.Fatal(err)
	}
	if got := read(t, child, "cpuset.cpus") + read(t, child, "cpuset.mems"); got != "0-1\n0\n" {
		t.Errorf("got %q", got)
	}
}

func TestVersion2ControllersAreHandedDownAndTakenBack(t *testing.T) {
	root := group(t, t.TempDir(), map[string]string{"cgroup.controllers": "cpuset cpu io memory pids rdma\n", "cgroup.subtree_control": "cpu memory\n"})
	groups := Cgroups{Unified: true, Mounts: []string{root}}
	before, err := groups.RootControllers()
	if err != nil || before != "cpu memory" {
		t.Fatalf("%q, %v", before, err)
	}
	if err := enableControllers(root); err != nil {
		t.Fatal(err)
	}
	// A file keeps the last write only; the kernel would add each to the list.
	if got := read(t, root, "cgroup.subtree_control"); got != "+io" {
		t.Errorf("the last controller handed down: %q", got)
	}
	group(t, root, map[string]string{"cgroup.subtree_control": "cpuset cpu memory\n"})
	if err := restoreControllers(root, before); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root, "cgroup.subtree_control"); got != "-cpuset" {
		t.Errorf("the controller taken back: %q", got)
	}
}

func TestRemoveGoesDeepestFirstAndTwice(t *testing.T) {
	root := t.TempDir()
	group(t, filepath.Join(root, "lab", "kubepods", "pod"), nil)
	group(t, filepath.Join(root, "lab", "system"), nil)
	group(t, filepath.Join(root, "others"), nil)
	groups := Cgroups{Mounts: []string{root}}
	for range 2 {
		if err := groups.Remove(t.Context(), "lab", ""); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "others" {
		t.Errorf("left: %v", entries)
	}
	if err := groups.Remove(t.Context(), "", ""); err == nil || !strings.Contains(err.Error(), "without a name") {
		t.Errorf("removing the root: %v", err)
	}
}

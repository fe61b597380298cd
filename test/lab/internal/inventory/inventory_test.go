//go:build linux

package inventory

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestDifferences(t *testing.T) {
	before := Inventory{"link a": "up", "mount /x": "", "sysctl y": "1"}
	after := Inventory{"link a": "up", "sysctl y": "2", "sysctl new": "1", "cgroup z": ""}
	want := []string{"new: cgroup z ", `changed: sysctl y from "1" to "2"`, "gone: mount /x"}
	if got := Differences(before, after); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTakeSeesThisMachine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "left")
	before, err := Take(nil, []string{file})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := before["sysctl vm/overcommit_memory"]; !there {
		t.Error("no kernel settings")
	}
	if _, there := before["link lo"]; !there {
		t.Error("no links")
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	after, err := Take(nil, []string{file})
	if err != nil {
		t.Fatal(err)
	}
	if got := Differences(before, after); !slices.Contains(got, "new: path "+file+" ") {
		t.Errorf("a new file is not seen: %q", got)
	}
}

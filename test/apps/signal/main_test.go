package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	proc := t.TempDir()
	for pid, line := range map[string]string{"7": "envoy\x00id: a.shop", "8": "envoy\x00id: b.shop", "self": "a.shop"} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "cmdline"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := find(proc, "a.shop"); err != nil || len(pids) != 1 || pids[0] != 7 {
		t.Errorf("found %v %v, want 7", pids, err)
	}
}

func TestRefused(t *testing.T) {
	for _, args := range []string{"", "STOP", "-process=a.shop", "-process=a.shop KILL", "-process=a.shop STOP CONT"} {
		if err := run(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), "give -process") {
			t.Errorf("%q: got %v", args, err)
		}
	}
	if err := run([]string{"-process=no process has this text in its command line", "STOP"}); err == nil || !strings.Contains(err.Error(), "want just one") {
		t.Errorf("no such process: got %v", err)
	}
}

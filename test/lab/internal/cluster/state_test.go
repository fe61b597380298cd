//go:build linux

package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateIsKept(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "lab"))
	if state, err := dir.load(); state != nil || err != nil {
		t.Errorf("state of no lab: %v, %v", state, err)
	}
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.claim(&State{Version: stateVersion, Boot: boot, Phase: PhaseClaimed, Init: &self}); err != nil {
		t.Fatal(err)
	}
	state, err := dir.running()
	if err != nil {
		t.Fatal(err)
	}
	if *state.Init != self || state.Phase != PhaseClaimed {
		t.Errorf("state %+v", state)
	}
	state.Init.Start++ // another process that got the same number
	if state.live() {
		t.Error("another process is taken for the node's")
	}
	state.Init, state.Boot = &self, "another boot"
	if state.live() {
		t.Error("a process of another boot is taken for the node's")
	}
}

func TestStateOfAnotherVersionIsRefused(t *testing.T) {
	dir := Dir(t.TempDir())
	if err := dir.save(&State{Version: stateVersion + 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.load(); err == nil || !strings.Contains(err.Error(), "another version of the lab") {
		t.Errorf("error %v", err)
	}
}

func TestClearRemovesOnlyWhatIsOurs(t *testing.T) {
	dir := Dir(t.TempDir())
	if err := dir.save(&State{Version: stateVersion}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"data/etcd", "log", "precious"} {
		if err := os.MkdirAll(dir.file(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.clear(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "precious" {
		t.Errorf("left: %v", entries)
	}
	if err := dir.claim(&State{}); err == nil || !strings.Contains(err.Error(), `"precious", which is no lab's`) {
		t.Errorf("claiming a folder of somebody else: %v", err)
	}
}

func TestLockIsExclusiveAndLeavesNoFile(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "lab"))
	unlock, err := dir.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.lock(); err == nil || !strings.Contains(err.Error(), "is starting or removing the lab") {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	if _, err := os.Stat(string(dir) + ".lock"); !os.IsNotExist(err) {
		t.Errorf("the lock's file is left: %v", err)
	}
	again, err := dir.lock()
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestLongFoldersAreRefused(t *testing.T) {
	if _, err := OpenDir("/" + strings.Repeat("x", maxStateBytes)); err == nil || !strings.Contains(err.Error(), "TULLE_STATE") {
		t.Errorf("error %v", err)
	}
}

func TestQuote(t *testing.T) {
	if got := quote("it's"); got != `'it'\''s'` {
		t.Errorf("got %s", got)
	}
}

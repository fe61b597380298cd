//go:build linux

package host

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestCheckSpace(t *testing.T) {
	dir := t.TempDir()
	if err := CheckSpace(dir, 1); err != nil {
		t.Error(err)
	}
	err := CheckSpace(dir, 1<<62)
	if err == nil || !strings.Contains(err.Error(), "are free in "+dir+", the lab needs") || !strings.Contains(err.Error(), "set TULLE_STATE") {
		t.Errorf("got %v, want what is free, what is needed and the remedy", err)
	}
}

// A kernel that lacks something is told from one that allows no namespaces, and what it lacks has its remedy. The trial is played: echo says what a
// kernel without bridges would have the trial say.
func TestCheckFeatures(t *testing.T) {
	said, err := json.Marshal(Features{IPv6: true, Missing: []string{"bridge links: operation not supported; `modprobe bridge` (CONFIG_BRIDGE)"}})
	if err != nil {
		t.Fatal(err)
	}
	features, err := CheckFeatures(t.Context(), []string{"echo", string(said)})
	want := "this kernel lacks what the lab needs:\nbridge links: operation not supported; `modprobe bridge` (CONFIG_BRIDGE)"
	if os.Geteuid() != 0 {
		want = "is this a container without --privileged?"
	} else if !features.IPv6 {
		t.Error("what the kernel has is lost")
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// A folder that takes no files stands for a file system without overlays.
func TestTryOverlay(t *testing.T) {
	if err := tryOverlay("/proc"); err == nil {
		t.Error("an overlay was made in /proc")
	}
}

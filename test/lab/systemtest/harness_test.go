//go:build lab && linux

// Package systemtest starts and kills real labs. It needs root.
package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/lab/internal/inventory"
)

// patience bounds every wait for a lab. It is for machines that are busy with
// other things; a start takes 15 to 40 seconds.
const patience = 4 * time.Minute

// lab is a lab in a folder of its own, beside any that the user has up.
type lab struct {
	t       *testing.T
	program string
	folder  string
}

// newLab returns a lab that is not up and that is removed with the test.
func newLab(t *testing.T) *lab {
	t.Helper()
	program := filepath.Join(t.TempDir(), "lab")
	build(t, program, "..")
	// t.TempDir makes paths that are too long for sockets.
	parent, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, program: program, folder: filepath.Join(parent, "state")}
	t.Cleanup(func() {
		if output, err := l.command("down").CombinedOutput(); err != nil {
			t.Errorf("lab down: %v\n%s", err, output)
		}
		if err := os.Remove(parent); err != nil { // fails when the lab left a file
			t.Error(err)
		}
	})
	return l
}

func build(t *testing.T, target, folder string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", target, ".")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build in %s: %v\n%s", folder, err, output)
	}
}

func (l *lab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(l.program, args...)
	cmd.Env = append(os.Environ(), "TULLE_STATE="+l.folder)
	return cmd
}

// run runs a command of the lab, which must end well, and returns its output.
func (l *lab) run(args ...string) string {
	l.t.Helper()
	output, err := l.command(args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// refuse runs a command of the lab, which must fail, and returns what it says.
func (l *lab) refuse(args ...string) string {
	l.t.Helper()
	output, err := l.command(args...).CombinedOutput()
	if err == nil {
		l.t.Fatalf("lab %s ended well:\n%s", strings.Join(args, " "), output)
	}
	return string(output)
}

// record is what the tests read of a lab's state file.
type record struct {
	Phase  string `json:"phase"`
	Cgroup string `json:"cgroup"`
	Init   struct {
		PID int `json:"pid"`
	} `json:"init"`
}

func (l *lab) record() record {
	l.t.Helper()
	var r record
	content, err := os.ReadFile(filepath.Join(l.folder, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// start begins `lab up` and returns when it is in the phase.
func (l *lab) start(phase string) *exec.Cmd {
	l.t.Helper()
	up := l.command("up")
	var output bytes.Buffer
	up.Stdout, up.Stderr = &output, &output
	if err := up.Start(); err != nil {
		l.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- up.Wait() }()
	for l.record().Phase != phase {
		select {
		case err := <-ended:
			if l.record().Phase != phase {
				l.t.Fatalf("lab up ended before phase %q: %v\n%s", phase, err, output.String())
			}
		case <-time.After(time.Millisecond):
		}
	}
	return up
}

// inventory lists the machine, with the lab's own traces.
func (l *lab) inventory() inventory.Inventory {
	l.t.Helper()
	found, err := inventory.Take([]string{l.folder, "tulle-lab-" + hash(l.folder)}, []string{
		l.folder, l.folder + ".lock",
		"/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/var/log/pods", "/usr/libexec/kubernetes",
		"/run/containerd", "/run/netns", "/run/tulle-lab", "/etc/cni/net.d", filepath.Join(os.Getenv("HOME"), ".kube"),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return found
}

// wantUnchanged fails for everything that differs from an earlier inventory.
func (l *lab) wantUnchanged(before inventory.Inventory) {
	l.t.Helper()
	for _, difference := range inventory.Differences(before, l.inventory()) {
		l.t.Error(difference)
	}
}

// kill ends a process at once and waits until it is gone.
func kill(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
	eventually(t, "the end of the process", func() bool {
		content, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
		return err != nil || strings.Contains(string(content), ") Z ")
	})
}

// eventually fails the test when the condition does not come true.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not come: %v", what, ctx.Err())
		case <-ticker.C:
		}
	}
}

//go:build lab && linux

// Package systemtest starts and kills real labs. It needs root.
package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
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

// programVariable tells the tests where TestMain put the program.
const programVariable = "LAB_UNDER_TEST"

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "lab-program")
	if err != nil {
		log.Fatal(err)
	}
	program := filepath.Join(folder, "lab")
	if err := errors.Join(goBuild(program, ".."), os.Setenv(programVariable, program)); err != nil {
		log.Fatal(err)
	}
	status := m.Run()
	if err := os.RemoveAll(folder); err != nil {
		log.Fatal(err)
	}
	os.Exit(status)
}

// goBuild builds the main package in a folder, without C.
func goBuild(target, folder string) error {
	cmd := exec.Command("go", "build", "-o", target, ".")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", folder, err, output)
	}
	return nil
}

// lab is a lab in a folder of its own, beside any that the user has up.
type lab struct {
	t       *testing.T
	program string
	folder  string
}

// newLab returns a lab that is not up and that is removed with the test.
func newLab(t *testing.T) *lab {
	t.Helper()
	// t.TempDir makes paths that are too long for sockets.
	parent, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, program: os.Getenv(programVariable), folder: filepath.Join(parent, "state")}
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

// starting is a `lab up` that runs.
type starting struct {
	t      *testing.T
	cmd    *exec.Cmd
	output bytes.Buffer
	ended  chan struct{}
}

// start begins `lab up` and returns when it is in the phase.
func (l *lab) start(phase string) *starting {
	l.t.Helper()
	s := &starting{t: l.t, cmd: l.command("up"), ended: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // the tests kill it, or look at what it has made
		close(s.ended)
	}()
	l.t.Cleanup(func() { s.signal(syscall.SIGKILL) })
	for l.record().Phase != phase {
		select {
		case <-s.ended:
			if l.record().Phase != phase {
				l.t.Fatalf("lab up ended before phase %q:\n%s", phase, s.output.String())
			}
		case <-time.After(time.Millisecond):
		}
	}
	return s
}

// signal sends a signal and waits for the end.
func (s *starting) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
	s.wait()
}

// wait waits until `lab up` has ended by itself.
func (s *starting) wait() {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Fatalf("lab up does not end:\n%s", s.output.String())
	}
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

// killNode kills the node's first process and waits until the kernel has
// ended all others with it.
func (l *lab) killNode() {
	l.t.Helper()
	pid := l.record().Init.PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
	eventually(l.t, "the end of the node", func() bool {
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

//go:build lab && linux

package systemtest

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tulle-mesh/tulle/test/lab/internal/cluster"
)

func itoa(n int) string { return strconv.Itoa(n) }

// hash is the part of a control group's name that tells labs apart.
func hash(folder string) string {
	sum := sha256.Sum256([]byte(folder))
	return hex.EncodeToString(sum[:4])
}

// TestKilledStartLeavesNothing kills `lab up` as each phase begins.
func TestKilledStartLeavesNothing(t *testing.T) {
	for _, phase := range cluster.Phases() {
		t.Run(phase, func(t *testing.T) {
			l := newLab(t)
			before := l.inventory()
			up := l.start(phase)
			if phase == cluster.PhaseReady {
				up.wait()
			} else {
				up.signal(syscall.SIGKILL)
			}
			l.run("down")
			l.wantUnchanged(before)
		})
	}
}

// TestKilledNodeLeavesNothing kills the node's first process, while it
// prepares the namespaces, while the programs start, and when all is ready.
func TestKilledNodeLeavesNothing(t *testing.T) {
	for _, phase := range []string{cluster.PhaseStarted, cluster.PhaseAddons, cluster.PhaseReady} {
		t.Run(phase, func(t *testing.T) {
			l := newLab(t)
			before := l.inventory()
			up := l.start(phase)
			l.killNode()
			up.wait()
			if status := l.run("status"); !strings.Contains(status, "nothing of it runs") {
				t.Errorf("status of a dead lab:\n%s", status)
			}
			l.run("down")
			l.wantUnchanged(before)
		})
	}
}

// TestBothKilledLeaveNothing kills the starter and the node together.
func TestBothKilledLeaveNothing(t *testing.T) {
	l := newLab(t)
	before := l.inventory()
	up := l.start(cluster.PhaseRunning)
	up.signal(syscall.SIGKILL)
	l.killNode()
	l.run("down")
	l.wantUnchanged(before)
}

// TestInterruptedStartRemovesItself sends what Ctrl-C sends.
func TestInterruptedStartRemovesItself(t *testing.T) {
	l := newLab(t)
	before := l.inventory()
	up := l.start(cluster.PhaseRunning)
	up.signal(syscall.SIGINT)
	l.wantUnchanged(before)
}

// TestKilledStartCanBeContinued starts again over what a killed start left.
func TestKilledStartCanBeContinued(t *testing.T) {
	l := newLab(t)
	up := l.start(cluster.PhaseRunning)
	up.signal(syscall.SIGKILL)
	first := l.record().Init.PID
	l.run("up")
	if r := l.record(); r.Phase != cluster.PhaseReady || r.Init.PID != first {
		t.Errorf("phase %q, first process %d; want it ready with %d", r.Phase, r.Init.PID, first)
	}
	l.killNode()
	l.run("up")
	if r := l.record(); r.Phase != cluster.PhaseReady || r.Init.PID == first {
		t.Errorf("phase %q, first process %d; want a new one", r.Phase, r.Init.PID)
	}
}

func TestRefusals(t *testing.T) {
	l := newLab(t)
	for _, args := range [][]string{{"env"}, {"exec", "--", "true"}, {"load", "/dev/null"}} {
		if said := l.refuse(args...); !strings.Contains(said, "no lab is up in "+l.folder) {
			t.Errorf("lab %v: %s", args, said)
		}
	}
	up := l.start(cluster.PhaseFiles)
	if said := l.refuse("up"); !strings.Contains(said, "process "+itoa(up.cmd.Process.Pid)+" is starting or removing the lab") {
		t.Errorf("a second start: %s", said)
	}
	if said := l.refuse("down"); !strings.Contains(said, "process "+itoa(up.cmd.Process.Pid)+" is starting or removing the lab") {
		t.Errorf("removing during the start: %s", said)
	}
	up.signal(syscall.SIGKILL)
}

func TestRefusesAFolderOfSomebodyElse(t *testing.T) {
	l := newLab(t)
	precious := filepath.Join(l.folder, "precious")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if said := l.refuse("up"); !strings.Contains(said, `holds "precious", which is no lab's`) {
		t.Errorf("starting in a folder of somebody else: %s", said)
	}
	l.run("down")
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("down removed what was not the lab's: %v", err)
	}
	if err := os.RemoveAll(l.folder); err != nil {
		t.Fatal(err)
	}
}

func TestRefusesOtherUsers(t *testing.T) {
	l := newLab(t)
	// The folder of the test is root's alone.
	program := filepath.Join(filepath.Dir(l.folder), "lab")
	if err := exec.Command("cp", l.program, program).Run(); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(program)
	if err := os.Chmod(filepath.Dir(l.folder), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"up", "down"} {
		cmd := exec.Command(program, command)
		cmd.Dir = filepath.Dir(l.folder)
		cmd.Env = []string{"TULLE_STATE=" + l.folder, "PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		output, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(output), "must run as root") {
			t.Errorf("lab %s as nobody: %v\n%s", command, err, output)
		}
	}
}

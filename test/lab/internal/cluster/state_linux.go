// Package cluster starts, uses and removes a lab.
package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/test/lab/internal/host"
)

// Phases of a start, in order. Each is recorded before its first step, so that
// Down knows what may be there.
const (
	PhaseClaimed  = "claimed"
	PhaseFiles    = "files"
	PhaseCgroups  = "cgroups"
	PhaseStarted  = "started"
	PhaseRunning  = "running"
	PhaseAddons   = "addons"
	PhaseReady    = "ready"
	stateVersion  = 1
	stateFile     = "state.json"
	maxStateBytes = 72 // kubelet's sockets below it must stay under 108 bytes

	// lockPatience is for a holder that was killed: its lock goes a little later.
	lockPatience = time.Second
)

// Phases lists the phases of a start in order.
func Phases() []string {
	return []string{PhaseClaimed, PhaseFiles, PhaseCgroups, PhaseStarted, PhaseRunning, PhaseAddons, PhaseReady}
}

// State is what a lab has left, or is about to leave, on the machine. It is on
// disk before the step that it describes.
type State struct {
	Version int `json:"version"`
	// Boot identifies the kernel's start: after another one, only files are left.
	Boot  string `json:"boot"`
	Phase string `json:"phase"`
	// Init is the node's first process.
	Init *Process `json:"init,omitempty"`
	// Cgroup is the lab's group in each hierarchy; RootControllers is what the
	// root of a version 2 hierarchy gave its children before.
	Cgroup          string       `json:"cgroup,omitempty"`
	Cgroups         host.Cgroups `json:"cgroups"`
	RootControllers string       `json:"rootControllers,omitempty"`
	// APIServer is where the API server is reached from outside.
	APIServer string `json:"apiServer,omitempty"`
	// Components are the folders of the built programs.
	Components map[string]string `json:"components,omitempty"`
	IPv6       bool              `json:"ipv6"`
}

// Process identifies a process beyond the reuse of its number.
type Process struct {
	PID int `json:"pid"`
	// Start is its start time in clock ticks since boot.
	Start uint64 `json:"start"`
}

// Dir is a lab's folder.
type Dir string

// OpenDir checks a path for a lab's folder.
func OpenDir(path string) (Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if len(path) > maxStateBytes {
		return "", fmt.Errorf("the lab's folder %s has more than %d characters, which makes socket paths too long: set TULLE_STATE to a shorter one", path, maxStateBytes)
	}
	return Dir(path), nil
}

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// cgroup is the name of the lab's control group: each folder has its own.
func (d Dir) cgroup() string {
	sum := sha256.Sum256([]byte(d))
	return "tulle-lab-" + hex.EncodeToString(sum[:4])
}

// load returns the recorded state, or nil when there is no lab.
func (d Dir) load() (*State, error) {
	content, err := os.ReadFile(d.file(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var state State
	if err := json.Unmarshal(content, &state); err != nil {
		return nil, fmt.Errorf("%s: %w", d.file(stateFile), err)
	}
	if state.Version != stateVersion {
		return nil, fmt.Errorf("%s was written by another version of the lab (%d, this one is %d): use that one's `lab down`", d.file(stateFile), state.Version, stateVersion)
	}
	return &state, nil
}

// save puts the state on disk before it returns.
func (d Dir) save(state *State) error {
	content, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	temp := d.file(stateFile + ".new")
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(temp, d.file(stateFile))
}

// claim makes the folder a lab's. A folder with anything else in it is refused.
func (d Dir) claim(state *State) error {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !isOurs(entry.Name()) {
			return fmt.Errorf("%s holds %q, which is no lab's: set TULLE_STATE to a folder of its own", d, entry.Name())
		}
	}
	return d.save(state)
}

// isOurs tells a lab's files from others: only these are ever removed.
func isOurs(name string) bool {
	switch name {
	case stateFile, stateFile + ".new", "status.json", "status.json.new", "spec.json", "kubeconfig", "pki", "conf", "log", "data", "home", "trial":
		return true
	}
	return false
}

// clear removes a lab's files and, when nothing else is in it, the folder.
func (d Dir) clear() error {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		// The record goes last: a removal that is cut short can be repeated.
		if entry.Name() == stateFile || !isOurs(entry.Name()) {
			continue
		}
		if err := os.RemoveAll(d.file(entry.Name())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(d.file(stateFile)); err != nil {
		return err
	}
	if err := os.Remove(string(d)); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lock keeps other commands from starting or removing the lab meanwhile. The
// lock file is beside the folder and goes with the lock.
func (d Dir) lock() (unlock func(), err error) {
	path := string(d) + ".lock"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	for patience := lockPatience; ; {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			holder := make([]byte, 32)
			n, _ := file.Read(holder)
			file.Close()
			if patience > 0 {
				patience -= pollInterval
				time.Sleep(pollInterval)
				continue
			}
			return nil, fmt.Errorf("process %s is starting or removing the lab in %s: wait for it, or end it and run `lab down`", strings.TrimSpace(string(holder[:n])), d)
		}
		// The previous holder may have removed the file between open and lock.
		var opened, current unix.Stat_t
		if unix.Fstat(int(file.Fd()), &opened) != nil || unix.Stat(path, &current) != nil || opened.Ino != current.Ino {
			file.Close()
			continue
		}
		if err := file.Truncate(0); err == nil {
			fmt.Fprintf(file, "%d", os.Getpid())
		}
		return func() {
			_ = os.Remove(path) // what stays is an empty file that the next lock takes over
			file.Close()
		}, nil
	}
}

// live reports whether the lab's node runs.
func (s *State) live() bool {
	boot, err := bootID()
	return err == nil && s.Boot == boot && s.Init != nil && s.Init.alive()
}

// running returns the state of a lab whose node runs.
func (d Dir) running() (*State, error) {
	state, err := d.load()
	if err != nil {
		return nil, err
	}
	if state == nil || !state.live() {
		return nil, fmt.Errorf("no lab is up in %s: start one with `lab up` (or `make lab`)", d)
	}
	return state, nil
}

// bootID identifies the kernel's start.
func bootID() (string, error) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(content)), err
}

// identify returns the process with this number as it is now.
func identify(pid int) (Process, error) {
	start, ended, err := processStat(pid)
	if err != nil {
		return Process{}, err
	}
	if ended {
		return Process{}, fmt.Errorf("process %d has ended", pid)
	}
	return Process{PID: pid, Start: start}, nil
}

// alive reports whether this very process still runs.
func (p Process) alive() bool {
	start, ended, err := processStat(p.PID)
	return err == nil && !ended && start == p.Start
}

// processStat reads a process's start time and whether it has ended and only
// waits for its parent to notice.
func processStat(pid int) (start uint64, ended bool, err error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	// The name, in parentheses, may hold anything.
	end := strings.LastIndexByte(string(content), ')')
	fields := strings.Fields(string(content[end+1:]))
	if len(fields) < 20 {
		return 0, false, fmt.Errorf("process %d: unexpected stat %q", pid, content)
	}
	// Fields are counted from 1 in proc(5); the state is the third.
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0] == "Z" || fields[0] == "X", err
}

// Package host deals with the machine that a lab runs on: what it must offer,
// and the control groups that a lab adds to it.
package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// systemGroup is the group, inside a lab's, of everything but pods. On version
// 2 a group with children has no processes of its own.
const systemGroup = "system"

// removalTimeout bounds how long the kernel may take to empty groups whose
// processes were killed.
const removalTimeout = 20 * time.Second

// Cgroups are the control group hierarchies of the machine.
type Cgroups struct {
	// Unified is true for version 2, false for version 1 and hybrids.
	Unified bool `json:"unified"`
	// Mounts are the hierarchies' mount points.
	Mounts []string `json:"mounts"`
}

// DetectCgroups reads which hierarchies are mounted.
func DetectCgroups() (Cgroups, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Cgroups{}, err
	}
	defer file.Close()
	var groups Cgroups
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		point, kind := parseMount(lines.Text())
		switch {
		case kind == "cgroup2" && point == "/sys/fs/cgroup":
			return Cgroups{Unified: true, Mounts: []string{point}}, nil
		case (kind == "cgroup" || kind == "cgroup2") && strings.HasPrefix(point, "/sys/fs/cgroup/"):
			groups.Mounts = append(groups.Mounts, point)
		}
	}
	if err := lines.Err(); err != nil {
		return Cgroups{}, err
	}
	if len(groups.Mounts) == 0 {
		return Cgroups{}, errors.New("no control groups are mounted at /sys/fs/cgroup: the kubelet needs them; mount cgroup2 there, as systemd does")
	}
	return groups, nil
}

// parseMount returns mount point and file system type of a line of mountinfo:
//
//	36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/root rw
func parseMount(line string) (point, kind string) {
	before, after, found := strings.Cut(line, " - ")
	fields := strings.Fields(before)
	if !found || len(fields) < 5 {
		return "", ""
	}
	kind, _, _ = strings.Cut(after, " ")
	return fields[4], kind
}

// RootControllers returns the controllers that the root of a version 2
// hierarchy hands to its children. Making a lab's group may add to them.
func (c Cgroups) RootControllers() (string, error) {
	if !c.Unified {
		return "", nil
	}
	content, err := os.ReadFile(filepath.Join(c.Mounts[0], "cgroup.subtree_control"))
	return strings.TrimSpace(string(content)), err
}

// Create makes the named group, and its group for the lab's own programs, in
// every hierarchy.
func (c Cgroups) Create(name string) error {
	for _, mount := range c.Mounts {
		if c.Unified {
			if err := enableControllers(mount); err != nil {
				return err
			}
		}
		group := filepath.Join(mount, name)
		for _, folder := range []string{group, filepath.Join(group, systemGroup)} {
			if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("control group: %w (in a container, run it with --privileged)", err)
			}
			if err := inheritCPUs(folder); err != nil {
				return err
			}
		}
		if c.Unified {
			if err := enableControllers(group); err != nil {
				return err
			}
		}
	}
	return nil
}

// enableControllers hands every controller that the kubelet uses to the
// children of a version 2 group.
func enableControllers(group string) error {
	available, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	control := filepath.Join(group, "cgroup.subtree_control")
	current, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"} {
		if !slices.Contains(strings.Fields(string(available)), controller) || slices.Contains(strings.Fields(string(current)), controller) {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("handing the %s controller to the children of %s: %w (the lab must run in the root control group or one that systemd delegated to it)", controller, group, err)
		}
	}
	return nil
}

// inheritCPUs fills in what a new version 1 cpuset group lacks: it has no CPU
// and no memory node, and takes no process before it has.
func inheritCPUs(group string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own := filepath.Join(group, file)
		content, err := os.ReadFile(own)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(content)) != "" || isUnified(group) {
			continue
		}
		inherited, err := os.ReadFile(filepath.Join(filepath.Dir(group), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(own, inherited, 0); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

func isUnified(group string) bool {
	_, err := os.Stat(filepath.Join(group, "cgroup.controllers"))
	return err == nil
}

// Join puts a process into the named group's part for the lab's own programs.
func (c Cgroups) Join(name string, pid int) error {
	for _, mount := range c.Mounts {
		procs := filepath.Join(mount, name, systemGroup, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
	}
	return nil
}

// Remove removes the named group with everything below it, and restores what
// the root of a version 2 hierarchy handed to its children. It waits for
// processes that are ending; it ends none itself.
func (c Cgroups) Remove(ctx context.Context, name, rootControllers string) error {
	if name == "" {
		return errors.New("control group without a name")
	}
	ctx, cancel := context.WithTimeout(ctx, removalTimeout)
	defer cancel()
	for _, mount := range c.Mounts {
		for {
			err := removeTree(filepath.Join(mount, name))
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
				return fmt.Errorf("control group: %w", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond): // version 1 has no event for "empty"
			}
		}
	}
	if c.Unified {
		return restoreControllers(c.Mounts[0], rootControllers)
	}
	return nil
}

// removeTree removes a group and those below it, deepest first. Groups' files
// are the kernel's and go with the folder.
func removeTree(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: group, Err: err}
	}
	return nil
}

func restoreControllers(root, before string) error {
	control := filepath.Join(root, "cgroup.subtree_control")
	now, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(now)) {
		if slices.Contains(strings.Fields(before), controller) {
			continue
		}
		// Somebody else may use it by now; then it is theirs.
		if err := os.WriteFile(control, []byte("-"+controller), 0); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("taking the %s controller back: %w", controller, err)
		}
	}
	return nil
}

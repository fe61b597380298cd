// Package inventory lists what a program can leave behind on a machine, so
// that two lists can be compared.
package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Inventory maps each thing found to its state. Keys begin with its kind.
type Inventory map[string]string

const settingKind = "sysctl "

// Take lists the machine's mounts, links, control groups and kernel settings,
// the named paths, and the processes that have to do with one of the marks: in
// their command line, control group or mounts. Other processes come and go.
func Take(marks, paths []string) (Inventory, error) {
	found := Inventory{}
	for _, list := range []func(Inventory) error{
		mounts, links, settings,
		func(i Inventory) error { return cgroups(i, marks) },
		func(i Inventory) error { return processes(i, marks) },
		func(i Inventory) error { return exists(i, paths) },
	} {
		if err := list(found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Differences describes what was added, removed or changed between two
// inventories, sorted. New kernel settings are none: they come with modules
// that the kernel loads when they are first used.
func Differences(before, after Inventory) []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(after)) {
		was, there := before[key]
		switch {
		case !there && strings.HasPrefix(key, settingKind):
		case !there:
			list = append(list, fmt.Sprintf("new: %s %s", key, after[key]))
		case was != after[key]:
			list = append(list, fmt.Sprintf("changed: %s from %q to %q", key, was, after[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, there := after[key]; !there {
			list = append(list, "gone: "+key)
		}
	}
	return list
}

func mounts(found Inventory) error {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		// The first two fields are numbers that a remount changes.
		fields := strings.SplitN(strings.TrimSpace(line), " ", 3)
		found["mount "+fields[len(fields)-1]] = ""
	}
	return nil
}

func links(found Inventory) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, link := range interfaces {
		addresses, err := link.Addrs()
		if err != nil {
			return err
		}
		found["link "+link.Name] = fmt.Sprint(link.Flags, addresses)
	}
	return nil
}

// cgroups lists the groups, and what a version 2 root hands to its children.
// Groups of systemd and of other labs come and go with what is in them.
func cgroups(found Inventory, marks []string) error {
	return filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it ended while it was listed
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if foreign(entry.Name()) && !mentions([]byte(path), marks) {
				return fs.SkipDir
			}
			found["cgroup "+path] = ""
		}
		if path == "/sys/fs/cgroup/cgroup.subtree_control" {
			content, err := os.ReadFile(path)
			found["cgroup controllers"] = string(content)
			return err
		}
		return nil
	})
}

func foreign(group string) bool {
	switch filepath.Ext(group) {
	case ".scope", ".service", ".slice":
		return true
	}
	return strings.HasPrefix(group, "tulle-lab-")
}

// volatile are settings that change by themselves, and folders whose entries
// are listed as links.
func volatile(setting string) bool {
	for _, prefix := range []string{
		"fs/aio-nr", "fs/dentry-state", "fs/file-nr", "fs/inode-nr", "fs/inode-state", "fs/quota/",
		"kernel/ns_last_pid", "kernel/pty/nr", "kernel/random/", "kernel/sched_domain",
		"net/ipv4/conf/", "net/ipv6/conf/", "net/ipv4/neigh/", "net/ipv6/neigh/", "net/netfilter/nf_conntrack_count",
		"vm/stat_refresh", "net/mptcp/",
	} {
		if strings.HasPrefix(setting, prefix) && !strings.HasPrefix(setting, "net/ipv4/conf/all/") && !strings.HasPrefix(setting, "net/ipv6/conf/all/") {
			return true
		}
	}
	return false
}

func settings(found Inventory) error {
	const root = "/proc/sys/"
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		setting := strings.TrimPrefix(path, root)
		if errors.Is(err, fs.ErrNotExist) || volatile(setting) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		if content, err := os.ReadFile(path); err == nil { // some can only be written
			found[settingKind+setting] = strings.TrimSpace(string(content))
		}
		return nil
	})
}

func processes(found Inventory, marks []string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		folder := filepath.Join("/proc", entry.Name())
		for _, file := range []string{"cmdline", "cgroup", "mountinfo"} {
			// A process that has ended meanwhile, or that only waits for its parent
			// to notice and has no command line any more, is none.
			content, err := os.ReadFile(filepath.Join(folder, file))
			command, _ := os.ReadFile(filepath.Join(folder, "cmdline"))
			if err == nil && len(command) > 0 && mentions(content, marks) {
				found["process "+entry.Name()] = string(bytes.ReplaceAll(command, []byte{0}, []byte{' '}))
			}
		}
	}
	return nil
}

func mentions(content []byte, marks []string) bool {
	for _, mark := range marks {
		if bytes.Contains(content, []byte(mark)) {
			return true
		}
	}
	return false
}

func exists(found Inventory, paths []string) error {
	for _, path := range paths {
		_, err := os.Lstat(path)
		if err == nil {
			found["path "+path] = ""
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

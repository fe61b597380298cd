package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// scratch is where, inside the private /run, overlays and shields keep what is
// written to them.
const scratch = "/run/tulle-lab"

// mountAll gives the node its own view of the file system. Nothing that it
// mounts is seen outside, and nothing outside Keep can be left behind.
func mountAll(spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making all mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	kept, err := openAll(spec.Keep)
	if err != nil {
		return err
	}
	defer closeAll(kept)
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a tmpfs on /run: %w", err)
	}
	for i, target := range spec.Overlays {
		if err := overlay(target, filepath.Join(scratch, "overlay", fmt.Sprint(i))); err != nil {
			return err
		}
	}
	for _, file := range kept {
		if err := reveal(file); err != nil {
			return err
		}
	}
	for i, setting := range spec.Shields {
		if err := shield(setting, filepath.Join(scratch, "shield", fmt.Sprint(i))); err != nil {
			return err
		}
	}
	for _, folder := range spec.Folders {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	// The kubelet's mounts must reach the containers' namespaces.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("making all mounts shared: %w", err)
	}
	return nil
}

func openAll(paths []string) ([]*os.File, error) {
	var files []*os.File
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
		if err != nil {
			closeAll(files)
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		files = append(files, os.NewFile(uintptr(fd), path))
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// reveal makes the folder reachable again under its own name if a mount hides it.
func reveal(folder *os.File) error {
	path := folder.Name()
	var want, have unix.Stat_t
	if err := unix.Fstat(int(folder.Fd()), &want); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	// An overlay shows the same folder with another device number.
	if unix.Stat(path, &have) == nil && have.Dev == want.Dev && have.Ino == want.Ino {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	from := fmt.Sprintf("/proc/self/fd/%d", folder.Fd())
	if err := unix.Mount(from, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounting %s back: %w", path, err)
	}
	return nil
}

// overlay lets the node write to a folder of the machine without changing it.
func overlay(target, work string) error {
	upper, workdir := filepath.Join(work, "upper"), filepath.Join(work, "work")
	for _, folder := range []string{upper, workdir} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", target, upper, workdir)
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mounting an overlay on %s: %w", target, err)
	}
	return nil
}

// shield hides a kernel setting of the whole machine behind a file with the
// same content. A setting that this kernel lacks needs no shield.
func shield(setting, private string) error {
	path := filepath.Join("/proc/sys", setting)
	value, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(private), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(private, value, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(private, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("shielding %s: %w", path, err)
	}
	return nil
}

// connect makes the node's network: its bridge, addresses and default routes.
func connect(spec Spec) error {
	for _, sysctl := range spec.Sysctls {
		err := os.WriteFile(filepath.Join("/proc/sys", sysctl.Path), []byte(sysctl.Value), 0o644)
		if err != nil {
			return fmt.Errorf("setting %s to %s: %w (%s)", strings.ReplaceAll(sysctl.Path, "/", "."), sysctl.Value, err, sysctl.Why)
		}
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: spec.Network.Bridge}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("bridge %s: %w", bridge.Name, err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("bridge %s: %w", bridge.Name, err)
	}
	for _, prefix := range spec.Network.Addresses {
		address, err := netlink.ParseAddr(prefix.String())
		if err != nil {
			return err
		}
		if prefix.Addr().Is6() {
			// There is nobody to detect a duplicate, and the address is needed at once.
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(bridge, address); err != nil {
			return fmt.Errorf("address %s: %w", prefix, err)
		}
		everywhere := &net.IPNet{IP: make(net.IP, prefix.Addr().BitLen()/8), Mask: net.CIDRMask(0, prefix.Addr().BitLen())}
		route := &netlink.Route{LinkIndex: bridge.Index, Dst: everywhere, Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("default route beside %s: %w", prefix, err)
		}
	}
	return nil
}

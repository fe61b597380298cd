package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Features is what the kernel offers.
type Features struct {
	// IPv6 is whether a dual-stack lab is possible; NoIPv6 says why not.
	IPv6   bool   `json:"ipv6"`
	NoIPv6 string `json:"noIPv6,omitempty"`
	// Missing lists what a lab can't do without, with the remedy.
	Missing []string `json:"missing,omitempty"`
}

// CheckRoot fails unless the process may make namespaces, mounts and groups.
func CheckRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return errors.New("the lab must run as root: it makes namespaces, mounts and control groups; use `sudo env PATH=$PATH HOME=$HOME make lab`")
}

// CheckSpace fails when fewer bytes are free at path than a lab needs.
func CheckSpace(path string, need uint64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return fmt.Errorf("free space of %s: %w", path, err)
	}
	free := stat.Bavail * uint64(stat.Bsize)
	if free < need {
		return fmt.Errorf("only %.1f GB are free in %s, the lab needs %.0f GB: free some, or set TULLE_STATE to a folder on another disk",
			float64(free)/1e9, path, float64(need)/1e9)
	}
	return nil
}

// CheckFeatures tries out what the kernel offers, in namespaces that end with
// the trial: command must be this program in its preflight mode.
func CheckFeatures(ctx context.Context, command []string) (Features, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return Features{}, fmt.Errorf("new namespaces: %w %s(the lab needs mount, network, process, UTS and IPC namespaces: is this a container without --privileged?)", err, stderr.String())
	}
	var features Features
	if err := json.Unmarshal(output, &features); err != nil {
		return Features{}, fmt.Errorf("trial of kernel features: %w", err)
	}
	if len(features.Missing) > 0 {
		var list []error
		for _, missing := range features.Missing {
			list = append(list, errors.New(missing))
		}
		return features, fmt.Errorf("this kernel lacks what the lab needs:\n%w", errors.Join(list...))
	}
	return features, nil
}

// Preflight tries each feature, in namespaces of its own, with folder for the
// trial of overlays.
func Preflight(folder string) Features {
	var features Features
	try := func(feature, remedy string, err error) {
		if err != nil {
			features.Missing = append(features.Missing, fmt.Sprintf("%s: %v; %s", feature, err, remedy))
		}
	}
	try("mounts", "run with all capabilities", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	try("overlayfs", "`modprobe overlay`, and keep TULLE_STATE on ext4, xfs or btrfs", tryOverlay(folder))
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "trial0"}}
	try("bridge links", "`modprobe bridge` (CONFIG_BRIDGE)", netlink.LinkAdd(bridge))
	try("veth links", "`modprobe veth` (CONFIG_VETH)", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "trial1"}, PeerName: "trial2"}))
	try("nf_tables", "`modprobe nf_tables` (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_NUMGEN)", tryRules("ip", "192.0.2.1"))
	if err := tryIPv6(bridge); err != nil {
		features.NoIPv6 = err.Error()
	} else if err := tryRules("ip6", "2001:db8::1"); err != nil {
		features.NoIPv6 = err.Error()
	} else {
		features.IPv6 = true
	}
	return features
}

func tryOverlay(folder string) error {
	trial, err := os.MkdirTemp(folder, "overlay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(trial)
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(trial, name), 0o755); err != nil {
			return err
		}
	}
	merged := filepath.Join(trial, "merged")
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", trial, trial, trial)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return err
	}
	return unix.Unmount(merged, 0)
}

// tryRules loads rules of the kinds that kube-proxy writes.
func tryRules(family, address string) error {
	rules := fmt.Sprintf(`table %[1]s trial {
  chain target { dnat to %[2]s; }
  chain services {
    type nat hook prerouting priority dstnat; policy accept;
    %[1]s daddr %[2]s numgen random mod 1 vmap { 0 : goto target }
  }
  chain masquerading {
    type nat hook postrouting priority srcnat; policy accept;
    %[1]s saddr %[2]s masquerade fully-random
  }
}`, family, address)
	nft, err := Program("nft")
	if err != nil {
		return err
	}
	cmd := exec.Command(nft, "-f", "-")
	cmd.Stdin = bytes.NewReader([]byte(rules))
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s rules: %w: %s", family, err, bytes.TrimSpace(output))
	}
	return nil
}

func tryIPv6(bridge netlink.Link) error {
	for _, scope := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("0"), 0); err != nil {
			return fmt.Errorf("the kernel has no IPv6 (is ipv6.disable=1 on its command line?): %w", err)
		}
	}
	address, err := netlink.ParseAddr("2001:db8::2/64")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return fmt.Errorf("adding an IPv6 address: %w", err)
	}
	return nil
}

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
)

// dependency is a program that the lab takes from the distribution.
type dependency struct{ program, pkg, why string }

// dependencies lists what a node needs besides what the lab builds.
func dependencies() []dependency {
	return []dependency{
		{"containerd", "containerd", "runs containers"},
		{"ctr", "containerd", "imports images"},
		{"runc", "runc", "starts containers"},
		{"ptp", "containernetworking-plugins", "connects pods"},
		{"host-local", "containernetworking-plugins", "gives pods addresses"},
		{"portmap", "containernetworking-plugins", "serves hostPort"},
		{"loopback", "containernetworking-plugins", "sets up pods' loopback"},
		{"nft", "nftables", "kube-proxy writes its rules with it"},
		{"iptables", "iptables", "serves hostPort"},
		{"conntrack", "conntrack", "kube-proxy forgets connections with it"},
		{"ip", "iproute2", "shows a node's network to people"},
		{"mount", "mount", "the kubelet mounts volumes with it"},
		{"ldd", "libc-bin", "lists the libraries of Envoy's image"},
	}
}

// pluginFolders are where distributions put CNI plug-ins.
func pluginFolders() []string { return []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} }

// find returns where a program is.
func find(program string) (string, bool) {
	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/bin") {
		path := filepath.Join(folder, program)
		if isProgram(path) {
			return path, true
		}
	}
	for _, folder := range pluginFolders() {
		path := filepath.Join(folder, program)
		if isProgram(path) {
			return path, true
		}
	}
	return "", false
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Program returns the path of a program that EnsurePrograms has seen.
func Program(name string) (string, error) {
	path, found := find(name)
	if !found {
		return "", fmt.Errorf("%s is not installed: run `lab build system`", name)
	}
	return path, nil
}

// EnsurePrograms installs with apt-get what is missing. It says what, and why.
func EnsurePrograms(ctx context.Context, report *progress.Reporter) error {
	var missing []string
	packages := map[string]bool{}
	for _, dep := range dependencies() {
		if _, found := find(dep.program); !found {
			missing = append(missing, fmt.Sprintf("%s (%s; Debian package %s)", dep.program, dep.why, dep.pkg))
			packages[dep.pkg] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("missing programs: %s. There is no apt-get here to install them with: install them by this system's own means", strings.Join(missing, ", "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing programs: %s. Run `lab build system` as root to install them", strings.Join(missing, ", "))
	}
	report.Printf("missing on this machine: %s", strings.Join(missing, ", "))
	var names []string
	for name := range packages {
		names = append(names, name)
	}
	slices.Sort(names)
	return report.Run("installing "+strings.Join(names, " ")+" with apt-get", func(step *progress.Step) error {
		return install(ctx, apt, names, step)
	})
}

// install refreshes apt's lists only when they are too old or absent.
func install(ctx context.Context, apt string, packages []string, step *progress.Step) error {
	args := append([]string{"install", "--yes", "--no-install-recommends"}, packages...)
	step.Set("installing")
	first := aptGet(ctx, apt, args...)
	if first == nil {
		return nil
	}
	step.Set("refreshing the package lists")
	if err := aptGet(ctx, apt, "update"); err != nil {
		return errors.Join(first, err)
	}
	step.Set("installing")
	return aptGet(ctx, apt, args...)
}

func aptGet(ctx context.Context, apt string, args ...string) error {
	cmd := exec.CommandContext(ctx, apt, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, output.String())
	}
	return nil
}

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/test/lab/internal/addons"
	"github.com/tulle-mesh/tulle/test/lab/internal/component"
	"github.com/tulle-mesh/tulle/test/lab/internal/host"
	"github.com/tulle-mesh/tulle/test/lab/internal/plan"
	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

// spaceNeeded is what a lab may write: images unpacked, etcd, logs.
const spaceNeeded = 8 << 30

// startTimeout bounds each wait of a start. It is generous: cold and on two
// busy cores, the slowest takes a minute.
const startTimeout = 5 * time.Minute

// Options are what Up needs to know.
type Options struct {
	Dir    Dir
	Cache  *component.Cache
	Report *progress.Reporter
	// IPv4Only makes a lab without IPv6 even where the machine has it.
	IPv4Only bool
}

// Up starts a lab and waits until it is ready. A lab that is up already is
// left as it is; one whose start was cut short is continued if its node still
// runs, and else removed first.
func Up(ctx context.Context, o Options) error {
	if err := host.EnsurePrograms(ctx, o.Report); err != nil {
		return err
	}
	if err := o.Cache.Ensure(ctx); err != nil {
		return err
	}
	unlock, err := o.Dir.lock()
	if err != nil {
		return err
	}
	defer unlock()
	components, err := componentFolders(o.Cache)
	if err != nil {
		return err
	}
	state, err := o.Dir.load()
	if err != nil {
		return err
	}
	if state != nil && state.live() {
		if !maps.Equal(state.Components, components) {
			return fmt.Errorf("a lab of other versions is up in %s: remove it first with `lab down`", o.Dir)
		}
		if state.Phase == PhaseReady {
			o.Report.Printf("the lab is already up")
			return nil
		}
		o.Report.Printf("continuing a start that was cut short in phase %q", state.Phase)
	} else {
		if state != nil {
			o.Report.Printf("a lab was left behind in phase %q: removing it first", state.Phase)
			if err := down(ctx, o.Dir, o.Report); err != nil {
				return err
			}
		}
		if state, err = start(ctx, o, components); err != nil {
			return err
		}
	}
	if err := finish(ctx, o, state); err != nil {
		return fmt.Errorf("%w\n(logs: %s; `lab status` shows what runs, `lab down` removes it)", err, plan.Paths{State: string(o.Dir)}.Logs())
	}
	return nil
}

func componentFolders(cache *component.Cache) (map[string]string, error) {
	parts, err := cache.Select(nil)
	if err != nil {
		return nil, err
	}
	folders := map[string]string{}
	for _, part := range parts {
		folder, err := cache.Path(part.Name)
		if err != nil {
			return nil, err
		}
		folders[part.Name] = folder
	}
	return folders, nil
}

// start brings the node's first process to life, phase by phase.
func start(ctx context.Context, o Options, components map[string]string) (*State, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	state := &State{Version: stateVersion, Boot: boot, Phase: PhaseClaimed, Components: components}
	if err := o.Dir.claim(state); err != nil {
		return nil, err
	}
	features, err := preflight(ctx, o)
	if err != nil {
		return nil, errors.Join(err, o.Dir.clear())
	}
	state.IPv6 = features.IPv6 && !o.IPv4Only
	groups, err := host.DetectCgroups()
	if err != nil {
		return nil, errors.Join(err, o.Dir.clear())
	}
	if err := record(o.Dir, state, PhaseFiles); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("port for the API server: %w", err)
	}
	defer listener.Close()
	state.APIServer = listener.Addr().String()
	if err := prepareFiles(o, state); err != nil {
		return nil, err
	}
	state.Cgroup, state.Cgroups = o.Dir.cgroup(), groups
	if state.RootControllers, err = groups.RootControllers(); err != nil {
		return nil, err
	}
	if err := record(o.Dir, state, PhaseCgroups); err != nil {
		return nil, err
	}
	if err := groups.Create(state.Cgroup); err != nil {
		return nil, err
	}
	return state, launch(o.Dir, state, listener.(*net.TCPListener))
}

func record(dir Dir, state *State, phase string) error {
	state.Phase = phase
	return dir.save(state)
}

// preflight checks the machine before anything but the lab's folder is made.
func preflight(ctx context.Context, o Options) (host.Features, error) {
	if err := host.CheckSpace(string(o.Dir), spaceNeeded); err != nil {
		return host.Features{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return host.Features{}, err
	}
	trial := o.Dir.file("trial")
	if err := os.MkdirAll(trial, 0o755); err != nil {
		return host.Features{}, err
	}
	features, err := host.CheckFeatures(ctx, []string{self, "preflight", trial})
	if err != nil {
		return host.Features{}, err
	}
	if features.NoIPv6 != "" {
		o.Report.Printf("no IPv6 on this machine, so the lab is IPv4 only: %s", features.NoIPv6)
	}
	return features, os.RemoveAll(trial)
}

// prepareFiles makes images, certificates and configuration.
func prepareFiles(o Options, state *State) error {
	images, err := BuildImages(o.Cache)
	if err != nil {
		return err
	}
	paths, err := pathsOf(o, state, images)
	if err != nil {
		return err
	}
	network := topology.New(state.IPv6)
	planned, err := plan.ControlPlane(network, paths)
	if err != nil {
		return err
	}
	for _, folder := range []string{paths.Logs(), paths.Data(), o.Dir.file("home")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	// etcd refuses a data folder that others may read.
	if err := os.Mkdir(filepath.Join(paths.Data(), "etcd"), 0o700); err != nil {
		return err
	}
	if err := writePKI(network, paths, "https://"+state.APIServer); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	spec, err := json.MarshalIndent(planned.Spec, "", "  ")
	if err != nil {
		return err
	}
	planned.Files[o.Dir.file("spec.json")] = spec
	for path, content := range planned.Files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func pathsOf(o Options, state *State, images []Image) (plan.Paths, error) {
	self, err := os.Executable()
	if err != nil {
		return plan.Paths{}, err
	}
	plugin, err := host.Program("ptp")
	if err != nil {
		return plan.Paths{}, err
	}
	containerd, err := host.Program("containerd")
	if err != nil {
		return plan.Paths{}, err
	}
	paths := plan.Paths{
		State:      string(o.Dir),
		Kubernetes: state.Components["kubernetes"],
		Containerd: containerd,
		CNI:        filepath.Dir(plugin),
		Lab:        self,
		CgroupRoot: "/" + o.Dir.cgroup(),
		Keep:       []string{o.Cache.Root()},
	}
	for _, image := range images {
		paths.Images = append(paths.Images, image.Archive)
	}
	return paths, nil
}

// launch starts the node's first process in namespaces of its own. The process
// does nothing before it is on record: if this one dies in between, it ends too.
func launch(dir Dir, state *State, listener *net.TCPListener) error {
	inherited, err := listener.File()
	if err != nil {
		return err
	}
	defer inherited.Close()
	wait, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer release.Close()
	defer wait.Close()
	log, err := os.OpenFile(filepath.Join(dir.file("log"), "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "init", dir.file("spec.json"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = wait, log, log
	cmd.ExtraFiles = []*os.File{inherited}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the node's first process: %w", err)
	}
	// It outlives this process; until then its end must not leave a zombie.
	go func() { _ = cmd.Wait() }()
	process, err := identify(cmd.Process.Pid)
	if err != nil {
		return err
	}
	state.Init = &process
	if err := record(dir, state, PhaseStarted); err != nil {
		return err
	}
	if err := state.Cgroups.Join(state.Cgroup, process.PID); err != nil {
		return err
	}
	_, err = release.Write([]byte("g"))
	return err
}

// finish waits for the node, gives the cluster what it needs to be useful, and
// waits for that.
func finish(ctx context.Context, o Options, state *State) error {
	if err := record(o.Dir, state, PhaseRunning); err != nil {
		return err
	}
	if err := waitForProcess(ctx, o, state, "kube-apiserver"); err != nil {
		return err
	}
	if err := record(o.Dir, state, PhaseAddons); err != nil {
		return err
	}
	network := topology.New(state.IPv6)
	manifests, err := addons.Manifests(network, addons.Images{CoreDNS: CoreDNSImage, CertManager: CertManagerImage})
	if err != nil {
		return err
	}
	api := kubectl{dir: o.Dir, program: filepath.Join(state.Components["kubernetes"], "kubectl")}
	err = o.Report.Run("installing CoreDNS and cert-manager", func(step *progress.Step) error {
		step.Set("applying manifests")
		return api.apply(ctx, filepath.Join(state.Components["certmanager"], "crds"), manifests)
	})
	if err != nil {
		return err
	}
	for _, name := range []string{"images", "kubelet"} {
		if err := waitForProcess(ctx, o, state, name); err != nil {
			return err
		}
	}
	for _, wait := range addons.Waits(network) {
		err := o.Report.Run("waiting for "+wait.What, func(step *progress.Step) error {
			return api.waitFor(ctx, step, wait)
		})
		if err != nil {
			return err
		}
	}
	return record(o.Dir, state, PhaseReady)
}

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/test/lab/internal/addons"
	"github.com/tulle-mesh/tulle/test/lab/internal/plan"
	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
	"github.com/tulle-mesh/tulle/test/lab/internal/supervise"
)

// pollInterval is how often a status that can't be watched is read.
const pollInterval = 100 * time.Millisecond

// status reads what the node's first process reports.
func (d Dir) status() (supervise.Status, error) {
	content, err := os.ReadFile(plan.Paths{State: string(d)}.Status())
	if errors.Is(err, fs.ErrNotExist) {
		return supervise.Status{}, nil
	}
	if err != nil {
		return supervise.Status{}, err
	}
	var status supervise.Status
	if err := json.Unmarshal(content, &status); err != nil {
		return supervise.Status{}, fmt.Errorf("status of the node: %w", err)
	}
	return status, nil
}

// waitForProcess waits until a program of the node is ready, or has done its
// work, and fails as soon as the node does.
func waitForProcess(ctx context.Context, o Options, state *State, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return o.Report.Run("waiting for "+name, func(step *progress.Step) error {
		ticker := time.NewTicker(pollInterval)
		defer ticker.Stop()
		for {
			alive := state.Init.alive() // before the status: the last one is final
			status, err := o.Dir.status()
			if err != nil {
				return err
			}
			process, _ := status.Process(name)
			switch {
			case process.State == supervise.StateReady || process.State == supervise.StateDone:
				return nil
			case status.Phase == supervise.PhaseFailed:
				return fmt.Errorf("the node failed: %s", status.Error)
			case !alive:
				return fmt.Errorf("the node's first process ended: %s", o.Dir.lastLines("init"))
			}
			step.Set("%s", describe(status))
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready: %w; its log ends with:\n%s", name, ctx.Err(), o.Dir.lastLines(name))
			case <-ticker.C:
			}
		}
	})
}

// describe lists the programs that are not ready.
func describe(status supervise.Status) string {
	var pending []string
	for _, process := range status.Processes {
		if process.State != supervise.StateReady && process.State != supervise.StateDone {
			pending = append(pending, process.Name+" "+process.State)
		}
	}
	return strings.Join(pending, ", ")
}

// lastLines returns the end of a program's log.
func (d Dir) lastLines(name string) string {
	content, err := os.ReadFile(filepath.Join(d.file("log"), name+".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// kubectl talks to the lab's API server, as its administrator, from outside.
type kubectl struct {
	dir     Dir
	program string
}

func (k kubectl) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, k.program, args...)
	// Nothing of it belongs into the user's home.
	paths := plan.Paths{State: string(k.dir)}
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+paths.Kubeconfig(), "HOME="+k.dir.file("home"), "KUBECACHEDIR="+paths.KubectlCache())
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// apply applies a folder of CRDs and then manifests.
func (k kubectl) apply(ctx context.Context, crds string, manifests []byte) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err := k.run(ctx, manifests, "apply", "--server-side", "--force-conflicts", "--filename", crds, "--filename", "-")
	return err
}

// waitFor blocks until the wait's commands succeed; the API server is watched.
func (k kubectl) waitFor(ctx context.Context, step *progress.Step, wait addons.Wait) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	step.Set("waiting")
	for {
		_, err := k.run(ctx, wait.Stdin, append(wait.Args, "--request-timeout=0")...)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !wait.Retry {
			return errors.Join(err, k.explain())
		}
		step.Set("%v", err)
		select {
		case <-ctx.Done():
		case <-time.After(5 * pollInterval):
		}
	}
}

// explain returns, as an error, what the pods of the cluster are doing.
func (k kubectl) explain() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	pods, err := k.run(ctx, nil, "get", "pods", "--all-namespaces")
	if err != nil {
		return err
	}
	events, err := k.run(ctx, nil, "get", "events", "--all-namespaces", "--field-selector=type=Warning")
	if err != nil {
		return err
	}
	return fmt.Errorf("pods:\n%swarnings:\n%s", pods, events)
}

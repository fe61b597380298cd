package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// kubectl runs kubectl against one cluster.
type kubectl struct {
	program    string
	kubeconfig string
	// cache is where kubectl keeps what it learned of the cluster; empty: in the user's home.
	cache string
}

// run returns what kubectl printed. An error has what it complained about.
func (k kubectl) run(ctx context.Context, args ...string) (string, error) {
	return k.runWith(ctx, nil, args...)
}

// runWith is run with something on the standard input.
func (k kubectl) runWith(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, k.program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig)
	if k.cache != "" {
		cmd.Env = append(cmd.Env, "KUBECACHEDIR="+k.cache)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("kubectl is not on PATH: install it, see https://kubernetes.io/docs/tasks/tools")
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// get decodes objects.
func (k kubectl) get(ctx context.Context, out any, args ...string) error {
	text, err := k.run(ctx, append([]string{"get", "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), out)
}

// exists says whether an object is there.
func (k kubectl) exists(ctx context.Context, args ...string) (bool, error) {
	text, err := k.run(ctx, append([]string{"get", "--ignore-not-found", "-o", "name"}, args...)...)
	return strings.TrimSpace(text) != "", err
}

// apply applies manifests.
func (k kubectl) apply(ctx context.Context, manifests string) error {
	_, err := k.runWith(ctx, strings.NewReader(manifests), "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}

// rollout waits until the Deployments of a namespace run what they should.
func (k kubectl) rollout(ctx context.Context, namespace string, timeout time.Duration) error {
	names, err := k.run(ctx, "-n", namespace, "get", "deployments", "-o", "name")
	if err != nil {
		return err
	}
	deadline := time.Now().Add(timeout)
	for name := range strings.FieldsSeq(names) {
		left := max(time.Until(deadline), time.Second).Round(time.Second)
		if _, err := k.run(ctx, "-n", namespace, "rollout", "status", name, "--timeout="+left.String()); err != nil {
			return fmt.Errorf("%w\n%s", err, k.unready(ctx, namespace))
		}
	}
	return nil
}

// unready describes the pods of a namespace that are not ready, for an error.
func (k kubectl) unready(ctx context.Context, namespace string) string {
	pods, err := k.run(ctx, "-n", namespace, "get", "pods")
	if err != nil {
		return err.Error()
	}
	events, err := k.run(ctx, "-n", namespace, "get", "events", "--field-selector=type=Warning", "--sort-by=.lastTimestamp",
		"-o", "custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message")
	if err != nil {
		events = err.Error()
	}
	lines := strings.Split(strings.TrimSpace(events), "\n")
	return pods + "\n" + strings.Join(lines[max(0, len(lines)-8):], "\n")
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// target is the cluster that the demo runs on.
type target interface {
	describe() string
	// intent says what will be done to the cluster, where that needs saying.
	intent() string
	// start makes the cluster usable.
	start(ctx context.Context) (kubectl, error)
	imagePrefix() string
	// provideImage makes the image in an archive available to the cluster's nodes under its reference.
	provideImage(ctx context.Context, archive, reference string) error
	imagesOutcome() string
	// bringsPartners says whether the demo installs what Tulle works with there, such as Prometheus.
	bringsPartners() bool
	// images returns what stands for images that are not built here, by their names in manifests.
	images() map[string]string
	// shell is what points a shell at the cluster; nothing when it is.
	shell() string
	down(ctx context.Context, d *demo) (string, error)
}

// labProgram is the lab's command, which also makes and pushes images.
func labProgram(root string) string { return filepath.Join(root, "bin", "lab") }

// lab is the one-node Kubernetes on this machine.
type lab struct {
	root       string
	console    *console
	envoyImage string // that the lab's nodes have
}

// envoyImage is what dist/install.yaml runs as proxies.
const envoyImage = "docker.io/envoyproxy/envoy:distroless-v1.40.0"

func (l *lab) describe() string { return "the lab, a one-node Kubernetes on this machine" }

func (l *lab) intent() string { return "" }

func (l *lab) start(ctx context.Context) (kubectl, error) {
	if err := l.run(ctx, "up"); err != nil {
		return kubectl{}, err
	}
	var lines bytes.Buffer
	cmd := exec.CommandContext(ctx, labProgram(l.root), "env")
	cmd.Stdout, cmd.Stderr = &lines, os.Stderr
	if err := cmd.Run(); err != nil {
		return kubectl{}, fmt.Errorf("lab env: %w", err)
	}
	settings, err := shellSettings(ctx, lines.String())
	if err != nil {
		return kubectl{}, err
	}
	l.envoyImage = settings.envoyImage
	return kubectl{program: settings.kubectl, kubeconfig: settings.kubeconfig, cache: settings.cache}, nil
}

// labSettings are what the demo needs of the lab's environment.
type labSettings struct{ kubeconfig, cache, envoyImage, kubectl string }

// shellSettings reads what `lab env` prints: shell lines. A shell reads those best.
func shellSettings(ctx context.Context, lines string) (labSettings, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-euc", lines+`
printf '%s\n' "$KUBECONFIG" "$KUBECACHEDIR" "$TULLE_ENVOY_IMAGE" "$(command -v kubectl)"`)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return labSettings{}, fmt.Errorf("lab env: %w: %s", err, output)
	}
	values := strings.Split(strings.TrimSpace(string(output)), "\n")
	if len(values) != 4 || values[3] == "" {
		return labSettings{}, fmt.Errorf("lab env sets no KUBECONFIG, KUBECACHEDIR, TULLE_ENVOY_IMAGE or kubectl: %s", lines)
	}
	return labSettings{kubeconfig: values[0], cache: values[1], envoyImage: values[2], kubectl: values[3]}, nil
}

// run runs a command of the lab; what it says is what the running step is doing.
func (l *lab) run(ctx context.Context, args ...string) error {
	return runProgram(ctx, &status{console: l.console}, labProgram(l.root), args...)
}

// runProgram runs a program. What it says goes to out, and the end of that into the error.
func runProgram(ctx context.Context, out io.Writer, program string, args ...string) error {
	var all bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	// An interrupt reaches the program itself too: let it clean up.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	both := io.MultiWriter(out, &all)
	cmd.Stdout, cmd.Stderr = both, both
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(all.String()), "\n")
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, strings.Join(lines[max(0, len(lines)-10):], "\n"))
	}
	return nil
}

// images of the lab: it can't pull, and has a build of the same Envoy under a name of its own.
func (l *lab) images() map[string]string { return map[string]string{envoyImage: l.envoyImage} }

func (l *lab) imagePrefix() string { return "tulle.dev/" }

func (l *lab) provideImage(ctx context.Context, archive, _ string) error {
	return runProgram(ctx, io.Discard, labProgram(l.root), "load", archive)
}

func (l *lab) imagesOutcome() string { return ": built and loaded" }

func (l *lab) bringsPartners() bool { return true }

func (l *lab) shell() string { return `eval "$(make -s lab-env)"` }

func (l *lab) down(ctx context.Context, _ *demo) (string, error) {
	if err := l.run(ctx, "down"); err != nil {
		return "", err
	}
	return "the lab is gone; what was built stays cached", nil
}

// givenCluster is the cluster of KUBECONFIG.
type givenCluster struct {
	root       string // of the checkout
	kubeconfig string
	registry   string
}

func (g *givenCluster) describe() string { return "the cluster of KUBECONFIG=" + g.kubeconfig }

func (g *givenCluster) intent() string {
	return `It builds three images and pushes them to REGISTRY (` + cmp.Or(g.registry, "not set") + `), and makes, unless they are there,
the namespaces cert-manager, tulle-system and bookinfo, with CRDs and webhooks. make demo-down removes what it made.

`
}

func (g *givenCluster) start(context.Context) (kubectl, error) {
	if g.registry == "" {
		return kubectl{}, fmt.Errorf("REGISTRY is not set: the cluster must pull images that are built here; " +
			"name a registry that you may push to and the cluster may pull from, such as REGISTRY=registry.example/team " +
			"(or unset KUBECONFIG to use the lab)")
	}
	return kubectl{program: "kubectl", kubeconfig: g.kubeconfig}, nil
}

func (g *givenCluster) images() map[string]string { return map[string]string{} }

func (g *givenCluster) imagePrefix() string { return strings.TrimSuffix(g.registry, "/") + "/" }

func (g *givenCluster) provideImage(ctx context.Context, archive, reference string) error {
	return runProgram(ctx, io.Discard, labProgram(g.root), "image", "push", archive, reference)
}

func (g *givenCluster) imagesOutcome() string { return ": built and pushed to " + g.registry }

// bringsPartners implements target: which monitoring a cluster has is its owner's choice.
func (g *givenCluster) bringsPartners() bool { return false }

func (g *givenCluster) shell() string { return "" }

func (g *givenCluster) down(ctx context.Context, d *demo) (string, error) {
	d.kubectl = kubectl{program: "kubectl", kubeconfig: g.kubeconfig}
	return d.removeFrom(ctx)
}

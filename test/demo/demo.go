package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/prometheus"
)

const sampleNamespace = "bookinfo"

// demo is one run of the demo and what it found.
type demo struct {
	root    string // of the checkout
	console *console
	target  target
	kubectl kubectl
	// references has the image that stands for each placeholder in manifests.
	references map[string]string
	// ownTulle says that this checkout's Tulle was installed, and not somebody else's used.
	ownTulle bool
	// prometheus is the one that scrapes the sample, once that was found.
	prometheus prometheus.Server
	findings   findings
}

// checkout finds the root of this checkout from the working directory.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "config", "samples", "bookinfo")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this inside a checkout of Tulle: it builds and installs what is there")
		}
		dir = filepath.Dir(dir)
	}
}

func (d *demo) startCluster(ctx context.Context) (string, error) {
	k, err := d.target.start(ctx)
	if err != nil {
		return "", err
	}
	d.kubectl = k
	var version struct {
		ServerVersion struct {
			GitVersion string `json:"gitVersion"`
		} `json:"serverVersion"`
	}
	text, err := k.run(ctx, "version", "-o", "json")
	if err != nil {
		return "", fmt.Errorf("the cluster does not answer: %w", err)
	}
	if err := decode(text, &version); err != nil {
		return "", err
	}
	return "Kubernetes " + version.ServerVersion.GitVersion, nil
}

// applySample applies the Mesh and the workloads in one go; every pod gets its proxy at its first start.
func (d *demo) applySample(ctx context.Context) (string, error) {
	owned, err := d.claim(ctx, sampleNamespace)
	if err != nil {
		return "", err
	}
	if !owned {
		return "", fmt.Errorf("namespace %s exists and is not the demo's: remove it, or label it %s=true to let the demo use and remove it", sampleNamespace, ownedLabel)
	}
	var manifests []string
	for _, name := range []string{"namespace", "mesh", "bookinfo", "loadgen"} {
		text, err := os.ReadFile(filepath.Join(d.root, "config", "samples", "bookinfo", name+".yaml"))
		if err != nil {
			return "", err
		}
		manifests = append(manifests, string(text))
	}
	if err := d.kubectl.apply(ctx, d.withImages(strings.Join(manifests, "---\n"))); err != nil {
		return "", err
	}
	d.console.set("waiting for its pods")
	if err := d.kubectl.rollout(ctx, sampleNamespace, 2*time.Minute); err != nil {
		return "", err
	}
	pods, err := d.pods(ctx)
	if err != nil {
		return "", err
	}
	if !d.ownTulle || !slices.ContainsFunc(pods, d.outdated) {
		return fmt.Sprintf("%d pods run, each with its proxy", len(pods)), nil
	}
	d.console.set("restarting pods that an older Tulle injected")
	if _, err := d.kubectl.run(ctx, "-n", sampleNamespace, "rollout", "restart", "deployment"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d pods restarted, as an older Tulle injected them", len(pods)), d.kubectl.rollout(ctx, sampleNamespace, 2*time.Minute)
}

// outdated says whether a pod was there before this checkout's Tulle.
func (d *demo) outdated(pod corev1.Pod) bool {
	return !slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == sidecar.InitContainer && c.Image == d.references[operatorImage]
	})
}

// pods returns the sample's running pods.
func (d *demo) pods(ctx context.Context) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := d.kubectl.get(ctx, &list, "-n", sampleNamespace, "pods", "--field-selector=status.phase=Running"); err != nil {
		return nil, err
	}
	running := list.Items[:0]
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			running = append(running, pod)
		}
	}
	return running, nil
}

func (d *demo) awaitMesh(ctx context.Context) (string, error) {
	d.console.set("waiting for condition Ready")
	_, err := d.kubectl.run(ctx, "-n", sampleNamespace, "wait", "--for=condition=Ready", "mesh/bookinfo", "--timeout=60s")
	if err != nil {
		state, stateErr := d.kubectl.run(ctx, "-n", sampleNamespace, "get", "mesh", "bookinfo", "-o",
			`jsonpath={range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{"\n"}{end}`)
		return "", errors.Join(err, stateErr, errors.New(state))
	}
	return "Ready", nil
}

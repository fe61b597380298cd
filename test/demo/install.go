package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	tulleNamespace       = "tulle-system"
	certManagerNamespace = "cert-manager"
	// certManagerManifest is upstream's, of the version that Tulle is tested with.
	certManagerManifest = "https://github.com/cert-manager/cert-manager/releases/download/v1.21.2/cert-manager.yaml"
	// ownedLabel marks the namespaces that the demo made: `demo down` removes no others.
	ownedLabel = "mesh.tulle.dev/demo"
)

// claim makes a namespace for the demo. It says whether the namespace is the demo's, now or since an earlier run.
func (d *demo) claim(ctx context.Context, namespace string) (bool, error) {
	exists, err := d.kubectl.exists(ctx, "namespace", namespace)
	if err != nil || exists {
		owned, ownedErr := d.owns(ctx, namespace)
		return owned, firstError(err, ownedErr)
	}
	if _, err := d.kubectl.run(ctx, "create", "namespace", namespace); err != nil {
		return false, err
	}
	// A label of its own field manager, or the manifest of the namespace would take it away again.
	_, err = d.kubectl.run(ctx, "label", "--field-manager=tulle-demo", "namespace", namespace, ownedLabel+"=true")
	return true, err
}

func (d *demo) owns(ctx context.Context, namespace string) (bool, error) {
	list, err := d.kubectl.run(ctx, "get", "namespaces", "-l", ownedLabel, "--field-selector=metadata.name="+namespace, "-o", "name")
	return strings.TrimSpace(list) != "", err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// installCertManager installs cert-manager unless the cluster has it.
func (d *demo) installCertManager(ctx context.Context) (string, error) {
	present, err := d.kubectl.exists(ctx, "crd", "certificates.cert-manager.io")
	if err != nil {
		return "", err
	}
	if present {
		return "is there", nil
	}
	d.console.set("installing it and waiting for its pods")
	if _, err := d.claim(ctx, certManagerNamespace); err != nil {
		return "", err
	}
	if _, err := d.kubectl.run(ctx, "apply", "--server-side", "-f", certManagerManifest); err != nil {
		return "", err
	}
	return "installed from its release", d.kubectl.rollout(ctx, certManagerNamespace, 3*time.Minute)
}

// installTulle installs this checkout's Tulle, unless somebody else installed one.
func (d *demo) installTulle(ctx context.Context) (string, error) {
	owned, err := d.claim(ctx, tulleNamespace)
	if err != nil {
		return "", err
	}
	if !owned {
		return "is there, and not the demo's: used as it is", d.kubectl.rollout(ctx, tulleNamespace, time.Minute)
	}
	d.ownTulle = true
	manifests, err := os.ReadFile(filepath.Join(d.root, "dist", "install.yaml"))
	if err != nil {
		return "", fmt.Errorf("%w (run `make generate`)", err)
	}
	if err := d.kubectl.apply(ctx, d.withImages(string(manifests))); err != nil {
		return "", err
	}
	d.console.set("waiting for its pods")
	if err := d.kubectl.rollout(ctx, tulleNamespace, 2*time.Minute); err != nil {
		return "", err
	}
	var pods corev1.PodList
	if err := d.kubectl.get(ctx, &pods, "-n", tulleNamespace, "pods"); err != nil {
		return "", err
	}
	return fmt.Sprintf("installed, replicas: %d", len(pods.Items)), nil
}

// down removes what the demo made, from the Mesh outwards.
func (d *demo) down(ctx context.Context) (string, error) {
	return d.target.down(ctx, d)
}

// removeFrom removes the demo from a cluster that stays.
func (d *demo) removeFrom(ctx context.Context) (string, error) {
	var removed []string
	for _, namespace := range []string{sampleNamespace, tulleNamespace, certManagerNamespace} {
		owned, err := d.owns(ctx, namespace)
		if err != nil {
			return "", err
		}
		if !owned {
			continue
		}
		d.console.set("removing " + namespace)
		if err := d.removeNamespace(ctx, namespace); err != nil {
			return "", err
		}
		removed = append(removed, namespace)
	}
	if len(removed) == 0 {
		return "nothing of the demo is there", nil
	}
	return "removed " + strings.Join(removed, ", "), nil
}

func (d *demo) removeNamespace(ctx context.Context, namespace string) error {
	switch namespace {
	case sampleNamespace:
		// The Mesh goes first, so that Tulle sees it off while the pods end.
		if _, err := d.kubectl.run(ctx, "-n", sampleNamespace, "delete", "mesh", "--all", "--timeout=60s"); err != nil {
			return err
		}
	case tulleNamespace:
		return d.deleteManifests(ctx, "-f", filepath.Join(d.root, "dist", "install.yaml"))
	case certManagerNamespace:
		return d.deleteManifests(ctx, "-f", certManagerManifest)
	}
	_, err := d.kubectl.run(ctx, "delete", "namespace", namespace, "--ignore-not-found", "--timeout=3m")
	return err
}

func (d *demo) deleteManifests(ctx context.Context, args ...string) error {
	_, err := d.kubectl.run(ctx, append([]string{"delete", "--ignore-not-found", "--timeout=3m"}, args...)...)
	return err
}

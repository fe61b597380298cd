//go:build lab

package main

import (
	"bufio"
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGivenCluster runs the demo, and removes it, on a cluster of which it knows KUBECONFIG and REGISTRY, and nothing else. `make test-demo`
// runs it inside the lab, which plays that cluster: it has cert-manager, and the proxy's image, since nothing can be pulled from
// elsewhere.
func TestGivenCluster(t *testing.T) {
	registry := serveRegistry(t)
	t.Setenv("REGISTRY", registry+"/team")
	ctx := t.Context()
	k := kubectl{program: "kubectl", kubeconfig: os.Getenv("KUBECONFIG")}
	before := namespaces(t, k)
	if before["tulle-system"] || before["bookinfo"] || !before["cert-manager"] {
		t.Fatalf("the cluster is not as this test needs it: namespaces %v", before)
	}

	// The demo's own verdict is its error.
	if err := run(ctx, nil); err != nil {
		t.Fatal(err)
	}
	used := podImages(t, k)
	for _, name := range []string{"operator", "bookinfo"} {
		if prefix := registry + "/team/" + name + ":"; !strings.Contains(used, prefix) {
			t.Errorf("no pod runs an image %s…, but:\n%s", prefix, used)
		}
	}

	if err := run(ctx, []string{"down"}); err != nil {
		t.Fatal(err)
	}
	if after := namespaces(t, k); !maps.Equal(after, before) {
		t.Errorf("namespaces after demo down: %v, before the demo: %v", after, before)
	}
	if left, err := k.run(ctx, "get", "crd,clusterrole,clusterrolebinding,mutatingwebhookconfiguration,validatingwebhookconfiguration", "-o", "name"); err != nil || strings.Contains(left, "tulle") {
		t.Errorf("left after demo down: %v\n%s", err, left)
	}
}

// serveRegistry serves an empty registry on the node's loopback, and returns its address.
func serveRegistry(t *testing.T) string {
	t.Helper()
	root, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "lab"), "image", "serve")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // the test's context is done by then
	lines := bufio.NewReader(out)
	address, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, lines) //nolint:errcheck // it has nothing more to say
	return strings.TrimSpace(address)
}

func namespaces(t *testing.T, k kubectl) map[string]bool {
	t.Helper()
	text, err := k.run(context.WithoutCancel(t.Context()), "get", "namespaces", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, name := range strings.Fields(text) {
		names[strings.TrimPrefix(name, "namespace/")] = true
	}
	return names
}

// podImages are those of all pods, a line each.
func podImages(t *testing.T, k kubectl) string {
	t.Helper()
	text, err := k.run(t.Context(), "get", "pods", "--all-namespaces", "-o", `jsonpath={range .items[*].spec.containers[*]}{.image}{"\n"}{end}`)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

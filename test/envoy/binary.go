package envoy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Version is a supported minor version of Envoy.
type Version string

// The supported minors: the pinned one, and the two before it, which must go on working while a mesh is upgraded.
const (
	V140   Version = "1.40"
	V139   Version = "1.39"
	V138   Version = "1.38"
	Pinned         = V140
)

// Versions returns the supported minors, the pinned one first.
func Versions() []Version { return []Version{V140, V139, V138} }

// release is what the lab builds of each minor.
func (v Version) release() string {
	return map[Version]string{V140: "1.40.0", V139: "1.39.3", V138: "1.38.3"}[v]
}

// variable is the environment variable that names the binary.
func (v Version) variable() string {
	return "TULLE_ENVOY_" + strings.ReplaceAll(string(v), ".", "_")
}

// binary returns the path of the Envoy of a version: from the environment, as `make test-envoy` sets it, or from the
// lab's program when that was built.
func binary(t testing.TB, v Version) string {
	t.Helper()
	path := os.Getenv(v.variable())
	if path == "" {
		var err error
		if path, err = askLab(v); err != nil {
			t.Fatalf("no Envoy %s: %v: run `make test-envoy`, or set %s to an upstream Envoy %s binary", v, err, v.variable(), v.release())
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatalf("Envoy %s: %v: set %s to an upstream Envoy %s binary", v, err, v.variable(), v.release())
	}
	if info.Mode()&0o001 == 0 {
		t.Fatalf("Envoy %s: %s is not executable for the proxy's user: chmod a+rx", v, path)
	}
	return path
}

func askLab(v Version) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	lab := filepath.Join(filepath.Dir(here), "..", "..", "bin", "lab")
	var errs bytes.Buffer
	cmd := exec.Command(lab, "path", "envoy-"+v.release())
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w %s", cmd, err, errs.String())
	}
	return filepath.Join(strings.TrimSpace(string(out)), "envoy"), nil
}

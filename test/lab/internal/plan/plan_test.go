package plan

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func examplePaths() Paths {
	return Paths{
		State: "/state", Kubernetes: "/kubernetes", Containerd: "/usr/bin/containerd", CNI: "/cni", Lab: "/bin/lab",
		CgroupRoot: "/tulle-lab-0", Keep: []string{"/cache"}, Images: []string{"/cache/pause.tar"},
	}
}

// TestGolden shows all that a node is given: its programs with their flags,
// and their configuration files.
func TestGolden(t *testing.T) {
	for name, ipv6 := range map[string]bool{"dual-stack": true, "ipv4": false} {
		t.Run(name, func(t *testing.T) {
			planned, err := ControlPlane(topology.New(ipv6), examplePaths())
			if err != nil {
				t.Fatal(err)
			}
			spec, err := json.MarshalIndent(planned.Spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			got.WriteString("=== spec\n" + string(spec) + "\n")
			for _, path := range slices.Sorted(maps.Keys(planned.Files)) {
				got.WriteString("=== " + path + "\n" + string(planned.Files[path]))
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("differs from %s; if that is meant, run the test with -update and read the difference\n%s", golden, got.String())
			}
		})
	}
}

// TestProcessesWaitForOthersThatExist guards against a start that never goes on.
func TestProcessesWaitForOthersThatExist(t *testing.T) {
	planned, err := ControlPlane(topology.New(true), examplePaths())
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, process := range planned.Spec.Processes {
		for _, name := range process.After {
			if !known[name] {
				t.Errorf("%s waits for %s, which does not come before it", process.Name, name)
			}
		}
		known[process.Name] = true
	}
}

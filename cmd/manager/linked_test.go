package main

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A template calls methods by their names. Where one is linked the linker keeps every exported method of every type that is used, Kubernetes' and Envoy's
// too, which was a third of the program.
func TestNoTemplatesAreLinked(t *testing.T) {
	t.Parallel()
	build, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	tags := regexp.MustCompile(`go build .*-tags (\S+) .*\./cmd/manager`).FindSubmatch(build)
	if tags == nil {
		t.Fatal("the Dockerfile builds the operator without tags")
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", string(tags[1]), ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(out))
	for _, name := range []string{"text/template", "html/template"} {
		if slices.Contains(linked, name) {
			t.Errorf("%s is linked: find by whom with go list -deps, and do without", name)
		}
	}
	if !slices.Contains(linked, "google.golang.org/grpc") {
		t.Error("gRPC is not linked: this looks at another program")
	}
}

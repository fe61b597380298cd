//go:build linux

package cluster

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/lab/image"
)

// fakeContainerd answers like ctr and remembers images and what it was asked.
type fakeContainerd struct {
	digests map[string]string // by name
	asked   []string
	refuse  string // what `images import` says instead of importing
}

func (f *fakeContainerd) run(_ context.Context, stdin io.Reader, args ...string) (string, error) {
	f.asked = append(f.asked, args[1])
	switch args[1] {
	case "import":
		if f.refuse != "" {
			return f.refuse, errors.New("exit status 1")
		}
		if stdin == nil {
			return "", errors.New("no archive on stdin")
		}
	case "tag":
		_, digest, _ := strings.Cut(args[4], "@")
		f.digests[args[3]], f.digests[args[4]] = digest, digest
	case "ls":
		var lines strings.Builder
		for _, filter := range args[2:] {
			name := strings.TrimPrefix(filter, "name==")
			if digest, there := f.digests[name]; there {
				lines.WriteString(name + " application/vnd.oci.image.manifest.v1+json " + digest + " 1 MiB\n")
			}
		}
		return lines.String(), nil
	}
	return "", nil
}

// archive makes an image whose one file has this content.
func archive(t *testing.T, content string) string {
	t.Helper()
	source := filepath.Join(t.TempDir(), "app")
	if err := os.WriteFile(source, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	path, _, err := image.Save(image.Program("tulle.dev/app:1", source, "/app", 65532), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImportsWhatIsNotThere(t *testing.T) {
	containerd := &fakeContainerd{digests: map[string]string{}}
	first, second := archive(t, "one"), archive(t, "two")
	for _, step := range []struct {
		archive string
		asked   []string
	}{
		{first, []string{"ls", "import", "tag"}},
		{first, []string{"ls"}},
		{second, []string{"ls", "import", "tag"}},
		{first, []string{"ls", "import", "tag"}}, // the tag had moved on
	} {
		containerd.asked = nil
		if err := importAll(t.Context(), []string{step.archive}, containerd.run); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(containerd.asked, step.asked) {
			t.Errorf("asked %v, want %v", containerd.asked, step.asked)
		}
	}
}

func TestArchivesOfAnotherMakeAreContainerdsToRead(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other.tar")
	if err := os.WriteFile(other, []byte("what docker save writes"), 0o644); err != nil {
		t.Fatal(err)
	}
	containerd := &fakeContainerd{digests: map[string]string{}}
	if err := importAll(t.Context(), []string{other}, containerd.run); err != nil || !slices.Equal(containerd.asked, []string{"import"}) {
		t.Errorf("asked %v, %v", containerd.asked, err)
	}
	containerd.refuse = "unrecognized image format"
	err := importAll(t.Context(), []string{other}, containerd.run)
	if err == nil || !strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), containerd.refuse) {
		t.Errorf("error %v", err)
	}
}

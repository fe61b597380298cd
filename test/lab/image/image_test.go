package image_test

import (
	"archive/tar"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/tulle-mesh/tulle/test/lab/image"
)

// program writes a file that is executable, at a time of its own.
func program(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSameFilesMakeTheSameArchive(t *testing.T) {
	folder := t.TempDir()
	first, digest, err := image.Save(image.Program("tulle.dev/app:1", program(t, "code"), "/app", 65532), folder)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	second, again, err := image.Save(image.Program("tulle.dev/app:1", program(t, "code"), "/app", 65532), folder)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(second)
	if err != nil {
		t.Fatal(err)
	}
	if first != second || digest != again {
		t.Errorf("the same content made %s (%s) and %s (%s)", first, digest, second, again)
	}
	if !os.SameFile(before, after) {
		t.Error("an archive that was there was written again")
	}
	other, changed, err := image.Save(image.Program("tulle.dev/app:1", program(t, "changed"), "/app", 65532), folder)
	if err != nil {
		t.Fatal(err)
	}
	if other == first || changed == digest {
		t.Error("changed content made the same image")
	}
}

func TestArchiveIsAValidImage(t *testing.T) {
	path, want, err := image.Save(image.Program("tulle.dev/app:1", program(t, "code"), "/bin/app", 65532), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	opened, named, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	// The full check unpacks every layer with gzip, whatever its media type.
	if err := validate.Image(opened, validate.Fast); err != nil {
		t.Error(err)
	}
	digest, err := opened.Digest()
	if err != nil || digest != want {
		t.Errorf("digest %s, %v; want %s", digest, err, want)
	}
	if named != "tulle.dev/app:1" {
		t.Errorf("name %q", named)
	}
	config, err := opened.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65532:65532" || !slices.Equal(config.Config.Entrypoint, []string{"/bin/app"}) {
		t.Errorf("runs %v as %q", config.Config.Entrypoint, config.Config.User)
	}
	layers, err := opened.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	files := members(t, content)
	if header := files["bin/app"]; header == nil || header.Mode != 0o755 || header.Uid != 0 {
		t.Errorf("bin/app: %+v", header)
	}
	for _, folder := range []string{"bin/", "etc/", "proc/", "tmp/"} {
		if files[folder] == nil {
			t.Errorf("no folder %s", folder)
		}
	}
	if files["etc/passwd"] == nil {
		t.Error("no etc/passwd")
	}
}

func members(t *testing.T, content io.Reader) map[string]*tar.Header {
	t.Helper()
	files := map[string]*tar.Header{}
	reader := tar.NewReader(content)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = header
	}
}

func TestPushKeepsTheDigest(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	path, digest, err := image.Save(image.Program("tulle.dev/app:1", program(t, "code"), "/app", 65532), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	target := strings.TrimPrefix(server.URL, "http://") + "/team/app:dev"
	reference, err := image.Push(t.Context(), path, target)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(reference, "/team/app@"+digest.String()) {
		t.Errorf("pushed %s, want digest %s", reference, digest)
	}
	parsed, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pulled, validate.Fast); err != nil {
		t.Error(err)
	}
}

func TestBadSpecs(t *testing.T) {
	app := program(t, "code")
	for _, test := range []struct {
		spec image.Spec
		want string
	}{
		{image.Program("app:", app, "/app", 1), "image name"},
		{image.Program("tulle.dev/app:1", app, "app", 1), `file "app": its path must be absolute and clean`},
		{image.Program("tulle.dev/app:1", app+"-absent", "/app", 1), "no such file"},
		{image.Program("tulle.dev/app:1", t.TempDir(), "/app", 1), "not a regular file"},
	} {
		_, err := image.Build(test.spec)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q in it", err, test.want)
		}
	}
}

func TestSharedLibraries(t *testing.T) {
	libraries, err := image.SharedLibraries("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range libraries {
		if file.Path != file.Source || !filepath.IsAbs(file.Path) {
			t.Errorf("library %+v", file)
		}
	}
	if _, err := image.SharedLibraries(program(t, "not a program")); err == nil {
		t.Error("a file that is no program has libraries")
	}
}

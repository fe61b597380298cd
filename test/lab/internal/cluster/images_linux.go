package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/tulle-mesh/tulle/test/lab/image"
	"github.com/tulle-mesh/tulle/test/lab/internal/component"
	"github.com/tulle-mesh/tulle/test/lab/internal/plan"
)

// Names of the images that every lab holds.
const (
	CoreDNSImage     = "tulle.dev/lab/coredns:" + component.CoreDNSVersion
	CertManagerImage = "tulle.dev/lab/cert-manager:" + component.CertManagerVersion
	EnvoyImage       = "tulle.dev/envoy:" + component.EnvoyVersion
)

// Image is an archive and what is in it.
type Image struct{ Name, Digest, Archive string }

// BuildImages makes the archives of the lab's own images, where they are not
// in the cache.
func BuildImages(cache *component.Cache) ([]Image, error) {
	var specs []image.Spec
	for _, program := range []struct {
		image, component, file string
		uid                    int
	}{
		{plan.PauseImage, "pause", "pause", 65534},
		{CoreDNSImage, "coredns", "coredns", 65532},
		{CertManagerImage, "certmanager", "certmanager", 65532},
	} {
		folder, err := cache.Path(program.component)
		if err != nil {
			return nil, err
		}
		specs = append(specs, image.Program(program.image, filepath.Join(folder, program.file), "/"+program.file, program.uid))
	}
	folder, err := cache.Path("envoy-" + component.EnvoyVersion)
	if err != nil {
		return nil, err
	}
	envoy, err := image.Envoy(EnvoyImage, filepath.Join(folder, "envoy"))
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, spec := range append(specs, envoy) {
		archive, digest, err := image.Save(spec, ImageFolder(cache))
		if err != nil {
			return nil, err
		}
		images = append(images, Image{Name: spec.Name, Digest: digest.String(), Archive: archive})
	}
	return images, nil
}

// ImageFolder is where archives are kept.
func ImageFolder(cache *component.Cache) string { return filepath.Join(cache.Root(), "images") }

// ctr runs containerd's client with these arguments and this input, and
// returns what it says.
type ctr func(ctx context.Context, stdin io.Reader, args ...string) (string, error)

// Import imports archives into the containerd of the node whose namespaces
// this process is in.
func Import(ctx context.Context, archives []string) error {
	return importAll(ctx, archives, func(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "ctr", args...)
		cmd.Env = append(os.Environ(), "CONTAINERD_ADDRESS="+plan.ContainerdSocket, "CONTAINERD_NAMESPACE=k8s.io")
		cmd.Stdin = stdin
		output, err := cmd.CombinedOutput()
		return string(output), err
	})
}

// Load imports archives into a running lab. They are read by this process, so
// they may be anywhere on the machine.
func Load(ctx context.Context, dir Dir, archives []string) error {
	return importAll(ctx, archives, func(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
		command, err := Enter(dir, append([]string{"ctr"}, args...))
		if err != nil {
			return "", err
		}
		var output bytes.Buffer
		command.cmd.Stdin, command.cmd.Stdout, command.cmd.Stderr = stdin, &output, &output
		err = command.Run(ctx)
		return output.String(), err
	})
}

func importAll(ctx context.Context, archives []string, run ctr) error {
	told := func(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
		output, err := run(ctx, stdin, args...)
		if err != nil {
			return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(output))
		}
		return output, nil
	}
	for _, archive := range archives {
		if err := importOne(ctx, archive, told); err != nil {
			return fmt.Errorf("image %s: %w", archive, err)
		}
	}
	return nil
}

// importOne imports an archive. One that this project made is also named by
// its digest, so that pods which pin it find it, and is left alone when it is
// there already.
func importOne(ctx context.Context, archive string, run ctr) error {
	tag, pinned, ours, err := names(archive)
	if err != nil {
		return err
	}
	if ours {
		there, err := run(ctx, nil, "images", "ls", "name=="+tag, "name=="+pinned.String())
		if err != nil {
			return err
		}
		if strings.Count(there, pinned.DigestStr()) == 3 { // in the second's name and in both lines
			return nil
		}
	}
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := run(ctx, file, "images", "import", "-"); err != nil || !ours {
		return err
	}
	_, err = run(ctx, nil, "images", "tag", "--force", tag, pinned.String())
	return err
}

// names returns an archive's name by tag and by digest. Archives of another
// make are not looked into: containerd understands more kinds than this does.
func names(archive string) (tag string, pinned name.Digest, ours bool, err error) {
	opened, tag, err := image.Open(archive)
	if err != nil {
		return "", name.Digest{}, false, nil
	}
	digest, err := opened.Digest()
	if err != nil {
		return "", name.Digest{}, false, err
	}
	parsed, err := name.NewTag(tag)
	if err != nil {
		return "", name.Digest{}, false, err
	}
	return tag, parsed.Context().Digest(digest.String()), true, nil
}

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

// ctr runs containerd's client with these arguments and this input.
type ctr func(ctx context.Context, stdin io.Reader, args ...string) error

// Import imports archives into the containerd of the node whose namespaces
// this process is in.
func Import(ctx context.Context, archives []string) error {
	return importAll(ctx, archives, func(ctx context.Context, stdin io.Reader, args ...string) error {
		cmd := exec.CommandContext(ctx, "ctr", args...)
		cmd.Env = append(os.Environ(), "CONTAINERD_ADDRESS="+plan.ContainerdSocket, "CONTAINERD_NAMESPACE=k8s.io")
		cmd.Stdin = stdin
		output, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(output))
		}
		return nil
	})
}

// Load imports archives into a running lab. They are read by this process, so
// they may be anywhere on the machine.
func Load(ctx context.Context, dir Dir, archives []string) error {
	return importAll(ctx, archives, func(ctx context.Context, stdin io.Reader, args ...string) error {
		command, err := Enter(dir, append([]string{"ctr"}, args...))
		if err != nil {
			return err
		}
		var output bytes.Buffer
		command.cmd.Stdin, command.cmd.Stdout, command.cmd.Stderr = stdin, &output, &output
		if err := command.Run(ctx); err != nil {
			return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(output.Bytes()))
		}
		return nil
	})
}

func importAll(ctx context.Context, archives []string, run ctr) error {
	for _, archive := range archives {
		if err := importOne(ctx, archive, run); err != nil {
			return fmt.Errorf("image %s: %w", archive, err)
		}
	}
	return nil
}

// importOne imports an archive. One that this project made is also named by
// its digest, so that pods which pin it find it.
func importOne(ctx context.Context, archive string, run ctr) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := run(ctx, file, "images", "import", "-"); err != nil {
		return err
	}
	opened, named, err := image.Open(archive)
	if err != nil {
		return nil // an archive of another make, which containerd understood
	}
	digest, err := opened.Digest()
	if err != nil {
		return err
	}
	tag, err := name.NewTag(named)
	if err != nil {
		return err
	}
	return run(ctx, nil, "images", "tag", "--force", named, tag.Context().Digest(digest.String()).String())
}

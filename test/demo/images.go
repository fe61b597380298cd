package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program is a Go program of this checkout and where its image has it.
type program struct{ pkg, path string }

// image is an image that is made of this checkout. Manifests name it tulle.dev/<name>:dev.
type image struct {
	name     string
	user     string
	programs []program // the first is what the image runs
}

func images() []image {
	return []image{
		{"operator", "65532:65532", []program{{"./cmd/manager", "/manager"}, {"./cmd/tulle-init", "/tulle-init"}}},
		{"bookinfo", "65532:65532", []program{{"./test/apps/bookinfo", "/usr/local/bin/bookinfo"}}},
		{"capture", "0:0", []program{{"./test/apps/capture", "/usr/local/bin/capture"}, {"./test/apps/signal", "/usr/local/bin/signal"}}},
		{"trouble", "0:0", []program{{"./test/apps/trouble", "/usr/local/bin/trouble"}}},
	}
}

// What the demo itself runs or looks for.
const (
	operatorImage = "tulle.dev/operator:dev"
	bookinfoImage = "tulle.dev/bookinfo:dev"
)

// placeholder is the image's name in manifests.
func (i image) placeholder() string { return "tulle.dev/" + i.name + ":dev" }

// binary is where a program of a checkout is built to.
func binary(root string, p program) string { return filepath.Join(root, "bin", filepath.Base(p.path)) }

// buildPrograms builds the programs of an image from a checkout, static and without paths of this machine.
func (d *demo) buildPrograms(ctx context.Context, root string, i image) error {
	for _, p := range i.programs {
		d.console.set("building " + p.pkg)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "grpcnotrace", "-buildvcs=false", "-ldflags=-s -w", "-o", binary(root, p), p.pkg)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", p.pkg, err, output)
		}
	}
	return nil
}

// tag names an image's content, so that a cluster which has an older one of the same name does not use that.
func tag(root string, i image) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, i.user)
	for _, p := range i.programs {
		fmt.Fprintln(hash, p.path)
		file, err := os.Open(binary(root, p))
		if err != nil {
			return "", err
		}
		_, err = io.Copy(hash, file)
		file.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// makeArchive makes an image's archive from what was built in a checkout.
func (d *demo) makeArchive(ctx context.Context, root string, i image, reference, archive string) error {
	args := []string{"image", "build", "--name", reference, "--user", i.user, "--out", archive}
	for _, p := range i.programs {
		args = append(args, binary(root, p)+":"+p.path)
	}
	return runProgram(ctx, io.Discard, labProgram(d.root), args...)
}

// imagesFile tells the end-to-end tests what the images are called.
func (d *demo) imagesFile() string { return filepath.Join(d.root, "bin", "images.json") }

// saveReferences writes what the images are called, for the end-to-end tests.
func (d *demo) saveReferences() error {
	references, err := json.MarshalIndent(d.references, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(d.imagesFile(), append(references, '\n'), 0o644)
}

// withImages names the images in manifests as the cluster has them.
func (d *demo) withImages(manifests string) string {
	for placeholder, reference := range d.references {
		manifests = strings.ReplaceAll(manifests, placeholder, reference)
	}
	return manifests
}

// provideImage builds an image from a checkout, brings it to the cluster if that lacks it, and returns its reference there.
func (d *demo) provideImage(ctx context.Context, root string, i image) (string, error) {
	if err := d.buildPrograms(ctx, root, i); err != nil {
		return "", err
	}
	tag, err := tag(root, i)
	if err != nil {
		return "", err
	}
	archives, err := os.MkdirTemp("", "tulle-images-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(archives)
	reference := d.target.imagePrefix() + i.name + ":" + tag
	archive := filepath.Join(archives, i.name+".tar")
	d.console.set("providing " + reference)
	if err := d.makeArchive(ctx, root, i, reference, archive); err != nil {
		return "", err
	}
	return reference, d.target.provideImage(ctx, archive, reference)
}

// provideImages builds the images and brings those to the cluster that it lacks.
func (d *demo) provideImages(ctx context.Context) (string, error) {
	d.references = d.target.images()
	var names []string
	for _, i := range images() {
		reference, err := d.provideImage(ctx, d.root, i)
		if err != nil {
			return "", err
		}
		d.references[i.placeholder()] = reference
		names = append(names, i.name)
	}
	if err := d.saveReferences(); err != nil {
		return "", err
	}
	return strings.Join(names, ", ") + d.target.imagesOutcome(), nil
}

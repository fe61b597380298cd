package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// previousCommit is the version that this one must be able to replace, and be replaced by, under load (see test/e2e/upgrade_test.go).
// It stays on the path to this commit, whatever is in between.
const previousCommit = "dde0345"

// previousFile has the manifests of that version, with its images as the cluster has them.
func (d *demo) previousFile() string { return filepath.Join(d.root, "bin", "previous.yaml") }

// providePrevious builds the previous version's operator from this checkout's history and brings its image to the cluster.
func (d *demo) providePrevious(ctx context.Context) (string, error) {
	root, err := os.MkdirTemp("", "tulle-previous-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(root)
	d.console.set("taking " + previousCommit + " from the history")
	if err := d.checkOut(ctx, previousCommit, root); err != nil {
		return "", err
	}
	d.references = d.target.images()
	operator := images()[0]
	if d.references[operator.placeholder()], err = d.provideImage(ctx, root, operator); err != nil {
		return "", err
	}
	manifests, err := os.ReadFile(filepath.Join(root, "dist", "install.yaml"))
	if err != nil {
		return "", err
	}
	return previousCommit + d.target.imagesOutcome(), os.WriteFile(d.previousFile(), []byte(d.withImages(string(manifests))), 0o644)
}

// checkOut writes the files of a commit to a folder.
func (d *demo) checkOut(ctx context.Context, commit, folder string) error {
	git := func(args ...string) (*bytes.Buffer, error) {
		var out, complaint bytes.Buffer
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", d.root}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &complaint
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
		}
		return &out, nil
	}
	_, err := git("cat-file", "-e", commit+"^{commit}")
	if err != nil {
		// A shallow checkout can be completed from where it came from.
		if _, err := git("fetch", "--quiet", "--unshallow"); err == nil {
			return d.checkOut(ctx, commit, folder)
		}
		return fmt.Errorf("the history of this checkout lacks commit %s, the version to upgrade from (%w): "+
			"it must be a git checkout with its history: git fetch --unshallow", commit, err)
	}
	archive, err := git("archive", "--format=tar", commit)
	if err != nil {
		return err
	}
	tar := exec.CommandContext(ctx, "tar", "-x", "-C", folder)
	tar.Stdin = archive
	if output, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, output)
	}
	return nil
}

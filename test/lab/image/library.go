package image

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"os/exec"
	"strings"
)

// Program is an image that holds one static program and runs it as the user
// with this number.
func Program(name, source, path string, uid int) Spec {
	return Spec{
		Name:       name,
		Files:      []File{{Path: path, Source: source}},
		User:       fmt.Sprintf("%d:%d", uid, uid),
		Entrypoint: []string{path},
	}
}

// Envoy is an image of an upstream Envoy binary, as user 1337. The binary is
// linked against the C library, whose files come from this machine.
func Envoy(name, source string) (Spec, error) {
	spec := Program(name, source, "/usr/local/bin/envoy", 1337)
	libraries, err := SharedLibraries(source)
	if err != nil {
		return Spec{}, err
	}
	spec.Files = append(spec.Files, libraries...)
	return spec, nil
}

// SharedLibraries lists the libraries that a program needs, and its loader, at
// the paths where they are on this machine. A static program needs none.
func SharedLibraries(program string) ([]File, error) {
	dynamic, err := isDynamic(program)
	if err != nil || !dynamic {
		return nil, err
	}
	output, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w\n%s", program, err, output)
	}
	files, err := parseLDD(output)
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", program, err)
	}
	return files, nil
}

func isDynamic(program string) (bool, error) {
	file, err := elf.Open(program)
	if err != nil {
		return false, fmt.Errorf("%s: %w", program, err)
	}
	defer func() { _ = file.Close() }()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			return true, nil
		}
	}
	return false, nil
}

// parseLDD reads lines such as
//
//	libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f…)
//	/lib64/ld-linux-x86-64.so.2 (0x00007f…)
//
// The kernel's own library, linux-vdso, has no path.
func parseLDD(output []byte) ([]File, error) {
	var files []File
	lines := bufio.NewScanner(bytes.NewReader(output))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if library, found := strings.CutSuffix(line, "=> not found"); found {
			return nil, fmt.Errorf("%s is not on this machine", strings.TrimSpace(library))
		}
		if _, after, found := strings.Cut(line, "=> "); found {
			line = after
		}
		path, _, _ := strings.Cut(line, " ")
		if strings.HasPrefix(path, "/") {
			files = append(files, File{Path: path, Source: path})
		}
	}
	return files, lines.Err()
}

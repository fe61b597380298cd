package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is a tar of files that is not compressed: it is written and read on
// one machine far more often than it is sent anywhere.
type layer struct {
	files []File
	hash  v1.Hash
	size  int64
}

func newLayer(files []File) (*layer, error) {
	sum := sha256.New()
	counter := &countingWriter{out: sum}
	if err := writeTar(counter, files); err != nil {
		return nil, err
	}
	hash := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return &layer{files: files, hash: hash, size: counter.count}, nil
}

type countingWriter struct {
	out   io.Writer
	count int64
}

func (w *countingWriter) Write(content []byte) (int, error) {
	n, err := w.out.Write(content)
	w.count += int64(n)
	return n, err
}

// Digest implements [v1.Layer].
func (l *layer) Digest() (v1.Hash, error) { return l.hash, nil }

// DiffID implements [v1.Layer].
func (l *layer) DiffID() (v1.Hash, error) { return l.hash, nil }

// Size implements [v1.Layer].
func (l *layer) Size() (int64, error) { return l.size, nil }

// MediaType implements [v1.Layer].
func (l *layer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }

// Compressed implements [v1.Layer]. The content is as it is stored.
func (l *layer) Compressed() (io.ReadCloser, error) { return l.Uncompressed() }

// Uncompressed implements [v1.Layer].
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(writeTar(writer, l.files)) }()
	return reader, nil
}

// accounts are the users that images of the project run as, so that programs
// which look up their own name find one.
func accounts() []File {
	return []File{
		{Path: "/etc/passwd", Content: []byte("root:x:0:0:root:/:/sbin/nologin\nproxy:x:1337:1337:proxy:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
		{Path: "/etc/group", Content: []byte("root:x:0:\nproxy:x:1337:\nnogroup:x:65534:\nnonroot:x:65532:\n")},
		{Path: "/etc/nsswitch.conf", Content: []byte("hosts: files dns\n")},
	}
}

// resolve checks the files and sorts them by path. A later file replaces an
// earlier one with the same path.
func resolve(files []File) ([]File, error) {
	byPath := map[string]File{}
	for _, file := range files {
		if !path.IsAbs(file.Path) || path.Clean(file.Path) != file.Path || file.Path == "/" {
			return nil, fmt.Errorf("file %q: its path must be absolute and clean", file.Path)
		}
		byPath[file.Path] = file
	}
	var sorted []File
	for _, name := range slices.Sorted(maps.Keys(byPath)) {
		sorted = append(sorted, byPath[name])
	}
	return sorted, nil
}

// writeTar writes the files below their folders, with fixed times and owners.
func writeTar(out io.Writer, files []File) error {
	archive := tar.NewWriter(out)
	for _, folder := range folders(files) {
		header := &tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755, ModTime: time.Unix(0, 0)}
		if folder == "tmp" {
			header.Mode = 0o1777
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
	}
	for _, file := range files {
		if err := writeFile(archive, file); err != nil {
			return fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	return archive.Close()
}

// folders lists the folders of an image, without leading slash: those of its
// files and the mount points that runtimes expect.
func folders(files []File) []string {
	set := map[string]bool{"dev": true, "etc": true, "proc": true, "run": true, "sys": true, "tmp": true}
	for _, file := range files {
		for folder := path.Dir(file.Path); folder != "/"; folder = path.Dir(folder) {
			set[strings.TrimPrefix(folder, "/")] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func writeFile(archive *tar.Writer, file File) error {
	header := &tar.Header{Name: strings.TrimPrefix(file.Path, "/"), Mode: 0o644, ModTime: time.Unix(0, 0)}
	switch {
	case file.Link != "":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, file.Link, 0o777
		return archive.WriteHeader(header)
	case file.Source == "":
		header.Size = int64(len(file.Content))
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := archive.Write(file.Content)
		return err
	}
	source, err := os.Open(file.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", file.Source)
	}
	if info.Mode()&0o111 != 0 {
		header.Mode = 0o755
	}
	header.Size = info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, source)
	return err
}

// Package image makes container images from files, without a container engine
// or a registry. The same files make the same digest, in an archive as in a
// registry.
package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec describes an image: one layer of files and how to start it.
type Spec struct {
	// Name is the image's reference, with a tag.
	Name string
	// Files are what it holds, besides the accounts that every image gets.
	Files []File
	// User is the numeric user, or user:group, that it runs as; empty is root.
	User       string
	Entrypoint []string
	Env        []string
}

// File is one file or symbolic link of an image.
type File struct {
	// Path is absolute.
	Path string
	// Source is the file on this machine that it is a copy of, with the same
	// permission to execute. Exactly one of Source, Link and Content is used.
	Source string
	// Link is the target of a symbolic link.
	Link    string
	Content []byte
}

// nameAnnotation is where an archive's index holds an image's name.
const nameAnnotation = "io.containerd.image.name"

// defaultPath is what a container finds when its spec sets no PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Build makes the image. Its layer is read from the files again whenever it is
// written, so they must not change meanwhile.
func Build(spec Spec) (v1.Image, error) {
	if _, err := name.NewTag(spec.Name, name.StrictValidation); err != nil {
		return nil, fmt.Errorf("image name: %w", err)
	}
	files, err := resolve(append(accounts(), spec.Files...))
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	layer, err := newLayer(files)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", spec.Name, err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(image, &v1.ConfigFile{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Created:      v1.Time{Time: time.Unix(0, 0).UTC()},
		Config: v1.Config{
			User:       spec.User,
			Entrypoint: spec.Entrypoint,
			Env:        append([]string{defaultPath}, spec.Env...),
			WorkingDir: "/",
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer.hash}},
	})
}

// Save writes the image as an archive into the folder, unless an archive with
// the same content is there, and returns its path and the image's digest.
func Save(spec Spec, folder string) (path string, digest v1.Hash, err error) {
	image, err := Build(spec)
	if err != nil {
		return "", v1.Hash{}, err
	}
	digest, err = image.Digest()
	if err != nil {
		return "", v1.Hash{}, err
	}
	// The archive holds the name too.
	key := sha256.Sum256([]byte(spec.Name + " " + digest.String()))
	base := strings.NewReplacer("/", "_", ":", "_").Replace(spec.Name)
	path = filepath.Join(folder, base+"-"+hex.EncodeToString(key[:6])+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, digest, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", v1.Hash{}, err
	}
	return path, digest, WriteFile(image, spec.Name, path)
}

// WriteFile writes the image as an archive that containerd, podman and docker
// load: an OCI layout and a docker manifest over the same blobs.
func WriteFile(image v1.Image, name, path string) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp.Name()) // renamed by then, unless something failed
	if err := write(image, name, temp); err != nil {
		temp.Close()
		return fmt.Errorf("writing image %s: %w", name, err)
	}
	if err := temp.Close(); err != nil {
		return err
	}
	if err := os.Chmod(temp.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

func write(image v1.Image, name string, out io.Writer) error {
	manifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	configName, err := image.ConfigName()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	descriptor, err := partial.Descriptor(image)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	if err := addJSON(archive, "oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}); err != nil {
		return err
	}
	if err := addBytes(archive, blob(descriptor.Digest), manifest); err != nil {
		return err
	}
	if err := addBytes(archive, blob(configName), config); err != nil {
		return err
	}
	var layerNames []string
	for _, layer := range layers {
		layerName, err := addLayer(archive, layer)
		if err != nil {
			return err
		}
		layerNames = append(layerNames, layerName)
	}
	descriptor.Annotations = map[string]string{nameAnnotation: name, "org.opencontainers.image.ref.name": name}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*descriptor}}
	if err := addJSON(archive, "index.json", index); err != nil {
		return err
	}
	docker := []map[string]any{{"Config": blob(configName), "RepoTags": []string{name}, "Layers": layerNames}}
	if err := addJSON(archive, "manifest.json", docker); err != nil {
		return err
	}
	return archive.Close()
}

func blob(hash v1.Hash) string { return "blobs/" + hash.Algorithm + "/" + hash.Hex }

func addLayer(archive *tar.Writer, layer v1.Layer) (string, error) {
	digest, err := layer.Digest()
	if err != nil {
		return "", err
	}
	size, err := layer.Size()
	if err != nil {
		return "", err
	}
	content, err := layer.Compressed()
	if err != nil {
		return "", err
	}
	defer content.Close()
	if err := archive.WriteHeader(&tar.Header{Name: blob(digest), Mode: 0o644, Size: size}); err != nil {
		return "", err
	}
	_, err = io.Copy(archive, content)
	return blob(digest), err
}

func addJSON(archive *tar.Writer, name string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return addBytes(archive, name, content)
}

func addBytes(archive *tar.Writer, name string, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Push sends an archive that Save or WriteFile wrote to a registry, with the
// credentials of the user's docker configuration, and returns the reference by
// digest. An empty target is the name in the archive.
func Push(ctx context.Context, archive, target string) (string, error) {
	image, named, err := Open(archive)
	if err != nil {
		return "", fmt.Errorf("%s: %w", archive, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	if target == "" {
		target = named
	}
	reference, err := name.ParseReference(target)
	if err != nil {
		return "", fmt.Errorf("target: %w", err)
	}
	err = remote.Write(reference, image, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return "", fmt.Errorf("pushing %s: %w (log in with `docker login %s` or give a registry that you may write to)", target, err, reference.Context().RegistryStr())
	}
	return reference.Context().Digest(digest.String()).String(), nil
}

// Open reads an archive that Save or WriteFile wrote. It returns the image,
// made of the very bytes of the archive, and its name.
func Open(path string) (v1.Image, string, error) {
	blobs, err := indexArchive(path)
	if err != nil {
		return nil, "", err
	}
	var index v1.IndexManifest
	if err := blobs.decode("index.json", &index); err != nil {
		return nil, "", err
	}
	if len(index.Manifests) != 1 {
		return nil, "", fmt.Errorf("it holds %d images instead of one", len(index.Manifests))
	}
	descriptor := index.Manifests[0]
	core := &archived{contents: blobs, descriptor: descriptor}
	if err := blobs.decode(blob(descriptor.Digest), &core.manifest); err != nil {
		return nil, "", err
	}
	image, err := partial.CompressedToImage(core)
	return image, descriptor.Annotations[nameAnnotation], err
}

// archived is an image inside an archive. It implements
// [partial.CompressedImageCore].
type archived struct {
	contents   *contents
	descriptor v1.Descriptor
	manifest   v1.Manifest
}

func (a *archived) MediaType() (types.MediaType, error) { return a.descriptor.MediaType, nil }
func (a *archived) RawManifest() ([]byte, error)        { return a.contents.bytes(blob(a.descriptor.Digest)) }
func (a *archived) RawConfigFile() ([]byte, error) {
	return a.contents.bytes(blob(a.manifest.Config.Digest))
}

// LayerByDigest returns a layer, or the configuration, which registries take
// as a blob like any other.
func (a *archived) LayerByDigest(hash v1.Hash) (partial.CompressedLayer, error) {
	for _, descriptor := range append(a.manifest.Layers, a.manifest.Config) {
		if descriptor.Digest == hash {
			return blobLayer{contents: a.contents, descriptor: descriptor}, nil
		}
	}
	return nil, fmt.Errorf("no blob %s in it", hash)
}

// contents knows where each member of an uncompressed tar begins.
type contents struct {
	path    string
	members map[string]section
}

type section struct{ offset, size int64 }

func indexArchive(path string) (*contents, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c := &contents{path: path, members: map[string]section{}}
	reader := tar.NewReader(file)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return nil, err
		}
		offset, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		c.members[header.Name] = section{offset: offset, size: header.Size}
	}
}

// open returns a reader of one member.
func (c *contents) open(member string) (io.ReadCloser, error) {
	where, ok := c.members[member]
	if !ok {
		return nil, fmt.Errorf("no %s in it: is it an OCI archive?", member)
	}
	file, err := os.Open(c.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(file, where.offset, where.size), file}, nil
}

func (c *contents) bytes(member string) ([]byte, error) {
	reader, err := c.open(member)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return io.ReadAll(reader)
}

func (c *contents) decode(member string, value any) error {
	content, err := c.bytes(member)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, value)
}

// blobLayer is a layer in an archive. It implements [partial.CompressedLayer].
type blobLayer struct {
	contents   *contents
	descriptor v1.Descriptor
}

func (l blobLayer) Digest() (v1.Hash, error)            { return l.descriptor.Digest, nil }
func (l blobLayer) Size() (int64, error)                { return l.descriptor.Size, nil }
func (l blobLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }
func (l blobLayer) Compressed() (io.ReadCloser, error) {
	return l.contents.open(blob(l.descriptor.Digest))
}

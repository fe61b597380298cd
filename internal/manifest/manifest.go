// Package manifest reads Kubernetes objects from files: YAML of several documents, JSON, and Lists in either.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Object is one object of a file.
type Object struct {
	// File that it is in, as it was named; Document counts from 1, also over those that are empty.
	File     string
	Document int
	// APIVersion and Kind are never empty.
	APIVersion, Kind string
	// Fields are the whole object.
	Fields map[string]any
}

// Where says where the object is, for messages.
func (o Object) Where() string { return where(o.File, o.Document) }

// Name returns metadata.name, Namespace metadata.namespace.
func (o Object) Name() string { return o.metadata("name") }

// Namespace returns metadata.namespace, which may be empty.
func (o Object) Namespace() string { return o.metadata("namespace") }

func (o Object) metadata(field string) string {
	metadata, _ := o.Fields["metadata"].(map[string]any)
	value, _ := metadata[field].(string)
	return value
}

// Stdin is the name that stands for the standard input.
const Stdin = "-"

// ErrNotAnObject says that a document has no apiVersion or no kind.
var ErrNotAnObject = errors.New("it is no Kubernetes object: apiVersion or kind is missing")

// Paths returns the files that a path stands for: itself, or the .yaml, .yml and .json files below a directory, sorted. Folders
// whose names begin with a dot are left out.
func Paths(path string) ([]string, error) {
	if path == Stdin {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && p != path && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case !entry.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)):
			files = append(files, p)
		}
		return nil
	})
	return files, err
}

// ReadFile reads the objects of a file, or of stdin where it is named Stdin.
func ReadFile(path string, stdin io.Reader) ([]Object, error) {
	if path == Stdin {
		return Read("standard input", stdin)
	}
	f, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(path, f)
}

// Read reads the objects of a file; name is what messages call it. It reads as much as it can: the error joins what is wrong with each
// document, and wraps ErrNotAnObject when only such documents are.
func Read(name string, r io.Reader) ([]Object, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	documents, err := split(raw)
	errs := []error{}
	if err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", where(name, len(documents)+1), err))
	}
	var objects []Object
	for i, document := range documents {
		found, err := parse(document)
		for _, o := range found {
			o.File, o.Document = name, i+1
			objects = append(objects, o)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where(name, i+1), err))
		}
	}
	return objects, errors.Join(errs...)
}

func where(file string, document int) string { return fmt.Sprintf("%s, document %d", file, document) }

// split returns the documents; with an error, those before the one that is wrong.
func split(raw []byte) ([][]byte, error) {
	var documents [][]byte
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(firstJSON(trimmed)) {
		decoder := json.NewDecoder(bytes.NewReader(trimmed))
		for {
			var document json.RawMessage
			err := decoder.Decode(&document)
			if errors.Is(err, io.EOF) {
				return documents, nil
			}
			if err != nil {
				return documents, err
			}
			documents = append(documents, document)
		}
	}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return documents, err
		}
		documents = append(documents, document)
	}
}

// firstJSON returns the first value, so that a flow mapping of YAML is not taken for JSON.
func firstJSON(raw []byte) []byte {
	var first json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&first); err != nil {
		return nil
	}
	return first
}

// parse returns the object of a document, the items of a List, or nothing for an empty document.
func parse(document []byte) ([]Object, error) {
	raw, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var value any
	// Whole numbers stay whole, as the API server reads them.
	if err := utiljson.Unmarshal(raw, &value); err != nil {
		return nil, err
	}
	if value == nil {
		return nil, nil
	}
	fields, ok := value.(map[string]any)
	if !ok {
		return nil, ErrNotAnObject
	}
	return objects(fields)
}

func objects(fields map[string]any) ([]Object, error) {
	o := Object{Fields: fields}
	o.APIVersion, _ = fields["apiVersion"].(string)
	o.Kind, _ = fields["kind"].(string)
	if o.APIVersion == "" || o.Kind == "" {
		return nil, ErrNotAnObject
	}
	items, ok := fields["items"].([]any)
	if !ok || !strings.HasSuffix(o.Kind, "List") {
		return []Object{o}, nil
	}
	var list []Object
	var errs []error
	for i, item := range items {
		fields, ok := item.(map[string]any)
		if !ok {
			errs = append(errs, fmt.Errorf("items[%d]: %w", i, ErrNotAnObject))
			continue
		}
		// What an API server lists carries the kind only once.
		if _, has := fields["kind"]; !has && o.Kind != "List" {
			fields["apiVersion"], fields["kind"] = o.APIVersion, strings.TrimSuffix(o.Kind, "List")
		}
		found, err := objects(fields)
		list = append(list, found...)
		if err != nil {
			errs = append(errs, fmt.Errorf("items[%d]: %w", i, err))
		}
	}
	return list, errors.Join(errs...)
}

// Package smi knows the versions of SMI's kinds: it converts objects between them without loss, and reads them as the Go types of package
// api/smi. It does no I/O.
//
// The stored version of each kind, the hub, is its last one; all conversions go through it. What a version can't express is kept in an annotation:
//
//   - what an object said in an older version and the hub can't, such as weights of 500m, is in AnnotationOriginal + version of the hub. It holds for as
//     long as the hub still says the same;
//   - what the hub says and an older version can't, such as matches of a TrafficSplit, is in AnnotationKept of the older version. Clients of old versions
//     that change an object and leave its annotations alone therefore lose nothing.
//
// An annotation that makes no sense is nobody's: an object that could not be converted would take the list that it is in with it.
package smi

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// AnnotationOriginal and a version: what the object said in that version, as JSON.
	AnnotationOriginal = "mesh.tulle.dev/smi-"
	// AnnotationKept is what the stored version says and this one can't, as JSON.
	AnnotationKept = "mesh.tulle.dev/smi-kept"
)

// The groups of SMI.
const (
	SplitGroup  = "split.smi-spec.io"
	SpecsGroup  = "specs.smi-spec.io"
	AccessGroup = "access.smi-spec.io"
)

// Kind is one of SMI's kinds.
type Kind struct {
	Group, Kind, Plural string
	// Versions from the first to the hub, which is stored.
	Versions []string
	forms    map[string]form
}

// Hub is the version that is stored and read.
func (k Kind) Hub() string { return k.Versions[len(k.Versions)-1] }

// CRD is the name of the kind's CustomResourceDefinition.
func (k Kind) CRD() string { return k.Plural + "." + k.Group }

// Resource is the kind in a version.
func (k Kind) Resource(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: version, Resource: k.Plural}
}

// form is how an older version differs from the hub. Functions may change what they are given.
type form struct {
	// up makes the hub's content of the version's; down does the reverse and succeeds for all that up returns.
	up, down func(content) (content, error)
	// keep returns what the hub's content says and the version can't; nil when that is nothing. fill puts it back.
	keep func(hub content) any
	fill func(hub content, kept any)
}

// content is an object without apiVersion, kind, metadata and status.
type content = map[string]any

// TrafficSplits are split.smi-spec.io's.
func TrafficSplits() Kind {
	return Kind{SplitGroup, "TrafficSplit", "trafficsplits", alphas(4), map[string]form{
		"v1alpha1": {up: upQuantities, down: downQuantities, keep: keepInSpec("matches"), fill: fillInSpec("matches")},
		"v1alpha2": {up: same, down: withoutMatches, keep: keepInSpec("matches"), fill: fillInSpec("matches")},
		"v1alpha3": {up: same, down: same},
	}}
}

// HTTPRouteGroups are specs.smi-spec.io's.
func HTTPRouteGroups() Kind {
	return Kind{SpecsGroup, "HTTPRouteGroup", "httproutegroups", alphas(4), map[string]form{
		"v1alpha1": {up: intoSpec(renamed{"matches", "matches"}), down: withoutHeaders, keep: keepHeaders, fill: fillHeaders},
		"v1alpha2": {up: intoSpec(renamed{"matches", "matches"}), down: outOfSpec(renamed{"matches", "matches"})},
		"v1alpha3": {up: same, down: same},
	}}
}

// TCPRoutes are specs.smi-spec.io's; they say nothing before v1alpha4.
func TCPRoutes() Kind {
	return Kind{SpecsGroup, "TCPRoute", "tcproutes", alphas(4), routeForms()}
}

// UDPRoutes are specs.smi-spec.io's; they say nothing before v1alpha4.
func UDPRoutes() Kind {
	return Kind{SpecsGroup, "UDPRoute", "udproutes", alphas(4), routeForms()}
}

// TrafficTargets are access.smi-spec.io's.
func TrafficTargets() Kind {
	names := []renamed{{"destination", "destination"}, {"sources", "sources"}, {"specs", "rules"}}
	return Kind{AccessGroup, "TrafficTarget", "traffictargets", alphas(3), map[string]form{
		"v1alpha1": {up: then(intoSpec(names...), withoutPorts), down: outOfSpec(names...)},
		"v1alpha2": {up: withoutPorts, down: same},
	}}
}

// Kinds are all that have a CustomResourceDefinition.
func Kinds() []Kind {
	return []Kind{TrafficSplits(), HTTPRouteGroups(), TCPRoutes(), UDPRoutes(), TrafficTargets()}
}

func kindOf(gvk schema.GroupVersionKind) (Kind, error) {
	for _, k := range Kinds() {
		if k.Group == gvk.Group && k.Kind == gvk.Kind {
			return k, nil
		}
	}
	return Kind{}, fmt.Errorf("%s is no kind of SMI that Tulle converts", gvk.GroupKind())
}

func alphas(last int) []string {
	var versions []string
	for i := range last {
		versions = append(versions, fmt.Sprintf("v1alpha%d", i+1))
	}
	return versions
}

func (k Kind) has(version string) error {
	for _, v := range k.Versions {
		if v == version {
			return nil
		}
	}
	return fmt.Errorf("%s has no version %q: it has %s", schema.GroupKind{Group: k.Group, Kind: k.Kind}, version, strings.Join(k.Versions, ", "))
}

// Convert returns an object in another version of its kind. Of its metadata, only annotations differ. The error names the field.
func Convert(object *unstructured.Unstructured, version string) (*unstructured.Unstructured, error) {
	kind, err := kindOf(object.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	from := object.GroupVersionKind().Version
	if err := errors.Join(kind.has(from), kind.has(version)); err != nil {
		return nil, err
	}
	out := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(object.Object)}
	if from == version {
		return out, nil
	}
	annotations, err := annotationsOf(out)
	if err != nil {
		return nil, err
	}
	said := contentOf(out.Object)
	if f, older := kind.forms[from]; older {
		if said, err = f.toHub(from, said, annotations); err != nil {
			return nil, err
		}
	}
	if f, older := kind.forms[version]; older {
		if said, err = f.fromHub(version, said, annotations); err != nil {
			return nil, err
		}
	}
	setContent(out.Object, said)
	setAnnotations(out, annotations)
	out.SetAPIVersion(schema.GroupVersion{Group: kind.Group, Version: version}.String())
	return out, nil
}

// toHub makes the hub's content and takes the annotations along.
func (f form) toHub(version string, said content, annotations map[string]any) (content, error) {
	hub, err := f.up(copied(said))
	if err != nil {
		return nil, err
	}
	if kept, ok := readNote(annotations, AnnotationKept); ok && f.fill != nil {
		f.fill(hub, kept)
		delete(annotations, AnnotationKept)
	}
	again, err := f.down(copied(hub))
	if err != nil {
		return nil, err
	}
	delete(annotations, AnnotationOriginal+version)
	if !reflect.DeepEqual(again, said) {
		return hub, writeNote(annotations, AnnotationOriginal+version, said)
	}
	return hub, nil
}

// fromHub makes the version's content and takes the annotations along.
func (f form) fromHub(version string, hub content, annotations map[string]any) (content, error) {
	var kept any
	if f.keep != nil {
		kept = f.keep(hub)
	}
	// One that is there was copied from a view of an older version.
	delete(annotations, AnnotationKept)
	if kept != nil {
		if err := writeNote(annotations, AnnotationKept, kept); err != nil {
			return nil, err
		}
	}
	if original, ok := f.original(version, hub, kept, annotations); ok {
		delete(annotations, AnnotationOriginal+version)
		return original, nil
	}
	return f.down(copied(hub))
}

// original returns what the object said in an older version, if the hub still says the same.
func (f form) original(version string, hub content, kept any, annotations map[string]any) (content, bool) {
	noted, _ := readNote(annotations, AnnotationOriginal+version)
	original, ok := noted.(content)
	if !ok {
		return nil, false
	}
	again, err := f.up(copied(original))
	if err != nil {
		return nil, false
	}
	if kept != nil {
		f.fill(again, runtime.DeepCopyJSONValue(kept))
	}
	return original, reflect.DeepEqual(again, hub)
}

func copied(c content) content { return runtime.DeepCopyJSON(c) }

// apart are the fields of an object that are no content.
func apart(field string) bool {
	switch field {
	case "apiVersion", "kind", "metadata", "status":
		return true
	}
	return false
}

func contentOf(object map[string]any) content {
	said := content{}
	for field, value := range object {
		if !apart(field) {
			said[field] = value
		}
	}
	return said
}

func setContent(object map[string]any, said content) {
	for field := range object {
		if !apart(field) {
			delete(object, field)
		}
	}
	for field, value := range said {
		object[field] = value
	}
}

func annotationsOf(u *unstructured.Unstructured) (map[string]any, error) {
	metadata, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		return nil, errors.New("metadata must be an object")
	}
	switch annotations := metadata["annotations"].(type) {
	case nil:
		return map[string]any{}, nil
	case map[string]any:
		return annotations, nil
	}
	return nil, errors.New("metadata.annotations must be an object")
}

// setAnnotations leaves an object that has none without the field.
func setAnnotations(u *unstructured.Unstructured, annotations map[string]any) {
	metadata := u.Object["metadata"].(map[string]any) // annotationsOf has seen it
	if len(annotations) == 0 {
		delete(metadata, "annotations")
		return
	}
	metadata["annotations"] = annotations
}

// readNote returns the JSON of an annotation, with whole numbers as API objects have them; false when it holds none.
func readNote(annotations map[string]any, name string) (any, bool) {
	text, ok := annotations[name].(string)
	if !ok {
		return nil, false
	}
	u := map[string]any{}
	if err := json.Unmarshal([]byte(`{"value":`+text+`}`), &u); err != nil {
		return nil, false
	}
	value, ok := u["value"]
	return wholeNumbers(value), ok && value != nil && len(u) == 1
}

func writeNote(annotations map[string]any, name string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("keep what the version can't express: %w", err)
	}
	size := len(name) + len(raw)
	for other, text := range annotations {
		if text, ok := text.(string); ok {
			size += len(other) + len(text)
		}
	}
	if size <= maxAnnotations {
		annotations[name] = string(raw)
	}
	return nil
}

// maxAnnotations, in bytes, is what the API server allows an object's annotations to have. One that had more could not be converted, and with it no list that
// it is in: so what does not fit is left out.
const maxAnnotations = 256 << 10

// wholeNumbers makes integers of the numbers that are, as the decoder of API objects does.
func wholeNumbers(v any) any {
	switch v := v.(type) {
	case float64:
		if whole := int64(v); float64(whole) == v && v >= -1<<53 && v <= 1<<53 {
			return whole
		}
	case map[string]any:
		for key, value := range v {
			v[key] = wholeNumbers(value)
		}
	case []any:
		for i, value := range v {
			v[i] = wholeNumbers(value)
		}
	}
	return v
}

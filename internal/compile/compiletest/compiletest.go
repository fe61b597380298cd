// Package compiletest runs golden tests of what is compiled: manifests in, Envoy's configuration out.
package compiletest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

var update = flag.Bool("update", false, "write the golden files")

// TrustBundle stands for the trusted roots in all tests.
const TrustBundle = "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n"

// Golden compares what testdata/*.in.yaml compile to with testdata/*.out.yaml. The inputs are manifests; their comments say
// what is looked at:
//
//	# proxy: shop/client          the pod whose proxy asks
//	# minor: 38                   the minor version of its Envoy; 40 if there is no such line
//	# want: cluster http|10.96.0.5:80
//	# want all: bundle proxy      and all that it needs or makes Envoy ask for
//	# show: metrics               what package metrics adds, which is long; it is left out of what comes before this line
func Golden(t *testing.T) {
	t.Helper()
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no inputs", err)
	}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(input) //nolint:gosec // a test's input
			if err != nil {
				t.Fatal(err)
			}
			g := golden{T: t, snapshot: Builder(t, raw).Snapshot(), scope: resource.Scope{Minor: 40}}
			g.read(string(raw))
			g.compare(strings.TrimSuffix(input, ".in.yaml") + ".out.yaml")
		})
	}
}

// Builder returns a model of manifests, with TrustBundle.
func Builder(t testing.TB, manifests []byte) *model.Builder {
	t.Helper()
	b := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system", EnvoyImage: "envoy"})
	b.SetTrust([]byte(TrustBundle))
	for _, o := range Objects(t, manifests) {
		b.Set(o)
	}
	return b
}

// Objects reads manifests.
func Objects(t testing.TB, manifests []byte) []runtime.Object {
	t.Helper()
	types := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(types), v1alpha1.AddToScheme(types), splitv1alpha4.AddToScheme(types), specsv1alpha4.AddToScheme(types)); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(manifests)))
	buffer := make([]byte, len(manifests)+1)
	var objects []runtime.Object
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, buffer[:n])
		}
		objects = append(objects, object)
	}
}

// golden is one pair of files.
type golden struct {
	*testing.T
	snapshot *model.Snapshot
	scope    resource.Scope
	printed  map[resource.Ref]bool
	metrics  bool // shown
	out      []any
}

// read follows the comments of an input.
func (g *golden) read(input string) {
	g.printed = map[resource.Ref]bool{}
	for line := range strings.Lines(input) {
		directive, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch directive {
		case "# proxy":
			g.scope.Pod = value
		case "# minor":
			minor, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				g.Fatal(err)
			}
			g.scope.Minor = uint32(minor)
		case "# show":
			g.metrics = value == "metrics"
		case "# want":
			g.print(g.ref(value), false)
		case "# want all":
			g.print(g.ref(value), true)
		}
	}
}

func (g *golden) ref(s string) resource.Ref {
	kind, name, _ := strings.Cut(s, " ")
	for t := resource.Bundle; t <= resource.VirtualHost; t++ {
		if t.String() == kind {
			return resource.Ref{Type: t, Name: name}
		}
	}
	g.Fatalf("%q: no such type of resource", kind)
	return resource.Ref{}
}

func (g *golden) print(ref resource.Ref, all bool) {
	if g.printed[ref] {
		return
	}
	g.printed[ref] = true
	r, err := compile.Compile(g.snapshot.Reader(), g.scope, ref)
	if err != nil {
		g.Fatal(err)
	}
	g.out = append(g.out, g.describe(ref, r))
	if !all || r == nil {
		return
	}
	for _, list := range [][]resource.Ref{r.Needs, r.Warms} {
		for _, ref := range list {
			g.print(ref, true)
		}
	}
}

// describe writes a resource for people.
func (g *golden) describe(ref resource.Ref, r *resource.Resource) map[string]any {
	out := map[string]any{"resource": ref.String()}
	if r == nil {
		out["none"] = true
		return out
	}
	for name, refs := range map[string][]resource.Ref{"needs": r.Needs, "warms": r.Warms} {
		var list []string
		for _, ref := range refs {
			list = append(list, ref.String())
		}
		if len(list) > 0 {
			out[name] = list
		}
	}
	var origins []string
	for _, o := range r.Origins {
		origins = append(origins, strings.TrimSpace(fmt.Sprintf("%s %s/%s %s", o.Kind, o.Namespace, o.Name, o.Field)))
	}
	if len(origins) > 0 {
		out["origins"] = origins
	}
	if r.Hold > 0 {
		out["hold"] = r.Hold.String()
	}
	if r.Body() != nil {
		out["body"] = g.body(r.Body())
	}
	return out
}

func (g *golden) body(packed *anypb.Any) any {
	m, err := packed.UnmarshalNew()
	if err != nil {
		g.Fatal(err)
	}
	g.validate(m.ProtoReflect())
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		g.Fatal(err)
	}
	var body any
	if err := json.Unmarshal(raw, &body); err != nil {
		g.Fatal(err)
	}
	if !g.metrics {
		body = withoutMetrics(body)
	}
	return body
}

// withoutMetrics leaves out what package metrics adds to nearly everything.
func withoutMetrics(v any) any {
	switch v := v.(type) {
	case []any:
		var kept []any
		for _, e := range v {
			if m, ok := e.(map[string]any); !ok || !isMetrics(m) {
				kept = append(kept, withoutMetrics(e))
			}
		}
		return kept
	case map[string]any:
		for key, value := range v {
			switch value = withoutMetrics(value); {
			case key == "access_log" && len(value.([]any)) == 0,
				key == "metadata" && isEmpty(value, "filter_metadata"),
				key == "access_log_options" && reflect.DeepEqual(value, map[string]any{"flush_access_log_on_connected": true}):
				delete(v, key)
			default:
				v[key] = value
			}
		}
		if all, ok := v["filter_metadata"].(map[string]any); ok {
			delete(all, "tulle")
		}
	}
	return v
}

// isMetrics reports whether an access log, or a network filter, is one of package metrics.
func isMetrics(m map[string]any) bool {
	config, _ := m["typed_config"].(map[string]any)
	return m["name"] == "stats" || config["on_downstream_tls_handshake"] != nil
}

// isEmpty reports whether v has nothing but an empty object at key.
func isEmpty(v any, key string) bool {
	m, ok := v.(map[string]any)
	inner, object := m[key].(map[string]any)
	return ok && len(m) == 1 && object && len(inner) == 0
}

// validate applies Envoy's own rules also to what is packed in Any, which sealing does not look into.
func (g *golden) validate(m protoreflect.Message) {
	if v, ok := m.Interface().(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			g.Errorf("%s: %v", m.Descriptor().FullName(), err)
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				g.nested(v.Message())
				return true
			})
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				g.nested(v.List().Get(i).Message())
			}
		case !f.IsMap() && !f.IsList() && f.Message() != nil:
			g.nested(v.Message())
		}
		return true
	})
}

func (g *golden) nested(m protoreflect.Message) {
	packed, ok := m.Interface().(*anypb.Any)
	if !ok {
		g.validate(m)
		return
	}
	inner, err := packed.UnmarshalNew()
	if err != nil {
		g.Error(err)
		return
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(inner)
	if err != nil || !bytes.Equal(again, packed.Value) {
		g.Errorf("%s is not marshalled deterministically (%v)", packed.TypeUrl, err)
	}
	g.validate(inner.ProtoReflect())
}

func (g *golden) compare(path string) {
	g.Helper()
	got, err := yaml.Marshal(g.out)
	if err != nil {
		g.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			g.Fatal(err)
		}
	}
	want, err := os.ReadFile(path) //nolint:gosec // a golden file
	if err != nil {
		g.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		g.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}

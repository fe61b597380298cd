package smi_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/internal/smi"
)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

func convert(t *testing.T, u *unstructured.Unstructured, version string) *unstructured.Unstructured {
	t.Helper()
	out, err := smi.Convert(u, version)
	if err != nil {
		t.Fatalf("%s %s to %s: %v", u.GetKind(), u.GetAPIVersion(), version, err)
	}
	return out
}

// TestConvert shows what an object is in the hub and in the first version.
func TestConvert(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ object, version, want string }{
		"quantities of a thousandth": {
			`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [{service: c, weight: 500m}, {service: p, weight: "1"}]}}`,
			"v1alpha4",
			`{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a, annotations: {mesh.tulle.dev/smi-v1alpha1: '{"spec":{"backends":[{"service":"c","weight":"500m"},{"service":"p","weight":"1"}],"service":"s"}}'}},
			  spec: {service: s, backends: [{service: c, weight: 500}, {service: p, weight: 1000}]}}`,
		},
		"quantities that are whole, as Flagger writes them": {
			`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [{service: c, weight: "0"}, {service: p, weight: "100"}]}}`,
			"v1alpha4",
			`{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [{service: c, weight: 0}, {service: p, weight: 100}]}}`,
		},
		"matches are kept where there are none": {
			`{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [{service: c, weight: 1}], matches: [{kind: HTTPRouteGroup, name: g}]}}`,
			"v1alpha1",
			`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: a, annotations: {mesh.tulle.dev/smi-kept: '{"matches":[{"kind":"HTTPRouteGroup","name":"g"}]}'}}, spec: {service: s, backends: [{service: c, weight: "1"}]}}`,
		},
		"matches move into the spec": {
			`{apiVersion: specs.smi-spec.io/v1alpha2, kind: HTTPRouteGroup, metadata: {name: a}, matches: [{name: m, methods: [GET], pathRegex: /a, headers: [{x: v}]}]}`,
			"v1alpha4",
			`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: a}, spec: {matches: [{name: m, methods: [GET], pathRegex: /a, headers: [{x: v}]}]}}`,
		},
		"specs are rules, and ports are kept": {
			`{apiVersion: access.smi-spec.io/v1alpha1, kind: TrafficTarget, metadata: {name: a}, destination: {kind: ServiceAccount, name: d, port: 80}, sources: [{kind: ServiceAccount, name: s}], specs: [{kind: TCPRoute, name: r}]}`,
			"v1alpha3",
			`{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: a, annotations: {mesh.tulle.dev/smi-v1alpha1: '{"destination":{"kind":"ServiceAccount","name":"d","port":80},"sources":[{"kind":"ServiceAccount","name":"s"}],"specs":[{"kind":"TCPRoute","name":"r"}]}'}},
			  spec: {destination: {kind: ServiceAccount, name: d}, sources: [{kind: ServiceAccount, name: s}], rules: [{kind: TCPRoute, name: r}]}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := parse(t, c.object)
			got := convert(t, before, c.version)
			if diff := cmp.Diff(parse(t, c.want).Object, got.Object); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before.Object, convert(t, got, before.GroupVersionKind().Version).Object); diff != "" {
				t.Errorf("there and back (-before +after):\n%s", diff)
			}
		})
	}
}

// TestWeightsKeepTheirProportions holds of quantities of every size.
func TestWeightsKeepTheirProportions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		quantities []string
		want       []int64
	}{
		{[]string{"1", "9"}, []int64{1, 9}},
		{[]string{"500m", "500m"}, []int64{500, 500}},
		{[]string{"0.25", ".75"}, []int64{250, 750}},
		{[]string{"1k", "1e3", "0"}, []int64{1000, 1000, 0}},
		{[]string{"1500u", "1"}, []int64{1500, 1_000_000}},
		{[]string{"0.333333333", "0.666666667"}, []int64{333_333_333, 666_666_667}},
		{[]string{"1E", "2E"}, []int64{1_073_741_823, 2_147_483_647}},
		{[]string{"1n", "9E"}, []int64{1, 2_147_483_647}}, // none but zero becomes zero
	} {
		split := parse(t, `{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: []}}`)
		var backends []any
		for i, q := range c.quantities {
			backends = append(backends, map[string]any{"service": fmt.Sprint(i), "weight": q})
		}
		split.Object["spec"].(map[string]any)["backends"] = backends
		hub, err := smi.Read(split)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, b := range hub.(*splitv1alpha4.TrafficSplit).Spec.Backends {
			got = append(got, b.Weight)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.quantities, diff)
		}
	}
}

// TestChangedInAnOldVersion: who knows only an old version changes what it knows, and what it does not know stays.
func TestChangedInAnOldVersion(t *testing.T) {
	t.Parallel()
	hub := parse(t, `{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [{service: c, weight: 1}], matches: [{kind: HTTPRouteGroup, name: g}]}}`)
	old := convert(t, hub, "v1alpha1")
	old.Object["spec"] = parse(t, `{kind: x, spec: {service: s, backends: [{service: c, weight: 100m}, {service: p, weight: 900m}]}}`).Object["spec"]
	want := parse(t, `{kind: x, spec: {service: s, backends: [{service: c, weight: 100}, {service: p, weight: 900}], matches: [{kind: HTTPRouteGroup, name: g}]}}`).Object["spec"]
	hub = convert(t, old, "v1alpha4")
	if diff := cmp.Diff(want, hub.Object["spec"]); diff != "" {
		t.Errorf("a TrafficSplit (-want +got):\n%s", diff)
	}
	// Whoever then sets other weights is understood in v1alpha1, too.
	hub.Object["spec"].(map[string]any)["backends"].([]any)[0].(map[string]any)["weight"] = int64(0)
	old = convert(t, hub, "v1alpha1")
	want = parse(t, `{kind: x, spec: {service: s, backends: [{service: c, weight: "0"}, {service: p, weight: "900"}]}}`).Object["spec"]
	if diff := cmp.Diff(want, old.Object["spec"]); diff != "" {
		t.Errorf("after a change of the hub (-want +got):\n%s", diff)
	}

	group := parse(t, `{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: a}, spec: {matches: [{name: m, headers: [{x: v}]}, {name: o, headers: {z: "1"}}]}}`)
	old = convert(t, group, "v1alpha1")
	old.Object["matches"] = []any{map[string]any{"name": "o", "methods": []any{"GET"}}, map[string]any{"name": "new"}}
	want = parse(t, `{kind: x, spec: {matches: [{name: o, methods: [GET], headers: {z: "1"}}, {name: new}]}}`).Object["spec"]
	if diff := cmp.Diff(want, convert(t, old, "v1alpha4").Object["spec"]); diff != "" {
		t.Errorf("an HTTPRouteGroup (-want +got):\n%s", diff)
	}
}

// TestConversionsLoseNothing: any valid object of any version, by way of any other versions, comes back as it was.
func TestConversionsLoseNothing(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		kind := smi.Kinds()[r.IntN(len(smi.Kinds()))]
		from := kind.Versions[r.IntN(len(kind.Versions))]
		before := generate(r, kind, from)
		way := []string{from}
		now := before
		for range 1 + r.IntN(4) {
			next := kind.Versions[r.IntN(len(kind.Versions))]
			way = append(way, next)
			now = convert(t, now, next)
			if next != from {
				continue
			}
			if diff := cmp.Diff(before.Object, now.Object); diff != "" {
				t.Fatalf("%s by %v (-before +after):\n%s", kind.Kind, way, diff)
			}
		}
		if diff := cmp.Diff(before.Object, convert(t, now, from).Object); diff != "" {
			t.Fatalf("%s by %v and back (-before +after):\n%s", kind.Kind, way, diff)
		}
	}
}

// generate makes an object that the CustomResourceDefinition accepts.
func generate(r *rand.Rand, k smi.Kind, version string) *unstructured.Unstructured {
	pick := func(of ...any) any { return of[r.IntN(len(of))] }
	list := func(item func() any) any {
		all := []any{}
		for range r.IntN(4) {
			all = append(all, item())
		}
		return all
	}
	maybe := func(o map[string]any, field string, value any) {
		if r.IntN(3) > 0 {
			o[field] = value
		}
	}
	o := map[string]any{"apiVersion": k.Group + "/" + version, "kind": k.Kind, "metadata": map[string]any{"namespace": "n", "name": "o"}}
	if r.IntN(3) == 0 {
		o["metadata"].(map[string]any)["annotations"] = map[string]any{"a": "b"}
	}
	match := func() any {
		m := map[string]any{}
		maybe(m, "name", pick("a", "b", ""))
		maybe(m, "methods", list(func() any { return pick("GET", "*") }))
		maybe(m, "pathRegex", pick("/", ".*"))
		if version != "v1alpha1" {
			maybe(m, "headers", pick(map[string]any{"x": "y", "z": "1"}, []any{map[string]any{"x": "y"}, map[string]any{"x": "z"}}, []any{}))
		}
		return m
	}
	subject := func() any {
		s := map[string]any{"kind": "ServiceAccount", "name": pick("a", "b")}
		maybe(s, "namespace", "n")
		if version != "v1alpha3" {
			maybe(s, "port", pick(int64(80), int64(0)))
		}
		return s
	}
	rule := func() any {
		m := map[string]any{"kind": "TCPRoute", "name": pick("a", "b")}
		maybe(m, "matches", []any{"m"})
		return m
	}
	spec, top := map[string]any{}, o
	switch k.Kind {
	case "TrafficSplit":
		spec["service"] = pick("s", "s.n")
		spec["backends"] = list(func() any {
			weight := pick(int64(0), int64(1), int64(100), int64(2147483647))
			if version == "v1alpha1" {
				weight = pick("0", "1", "100", "500m", "1k", "+1", "0.5", ".1", "9E", "1n", int64(0), int64(7))
			}
			return map[string]any{"service": pick("a", "b"), "weight": weight}
		})
		if version > "v1alpha2" {
			maybe(spec, "matches", list(func() any { return map[string]any{"kind": "HTTPRouteGroup", "name": pick("a", "b")} }))
		}
		top["spec"] = spec
	case "HTTPRouteGroup":
		if version > "v1alpha2" {
			maybe(spec, "matches", list(match))
			top["spec"] = spec
		} else {
			maybe(top, "matches", list(match))
		}
	case "TCPRoute", "UDPRoute":
		if version == "v1alpha4" {
			maybe(spec, "matches", map[string]any{"name": "a", "ports": list(func() any { return int64(r.IntN(65536)) })})
		}
		if version > "v1alpha2" {
			maybe(top, "spec", spec)
		}
	case "TrafficTarget":
		into, rules := spec, "rules"
		if version == "v1alpha1" {
			into, rules = top, "specs"
		} else {
			top["spec"] = spec
		}
		into["destination"] = subject()
		maybe(into, "sources", list(subject))
		maybe(into, rules, list(rule))
	}
	return &unstructured.Unstructured{Object: o}
}

// TestRefused: what is no object of SMI is refused in words that name the field.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ object, version, want string }{
		{`{apiVersion: apps/v1, kind: Deployment, metadata: {}}`, "v1", "Deployment.apps is no kind of SMI that Tulle converts"},
		{`{apiVersion: split.smi-spec.io/v1alpha9, kind: TrafficSplit, metadata: {}}`, "v1alpha4", `TrafficSplit.split.smi-spec.io has no version "v1alpha9": it has v1alpha1, v1alpha2, v1alpha3, v1alpha4`},
		{`{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {}}`, "v1alpha4", `TrafficTarget.access.smi-spec.io has no version "v1alpha4": it has v1alpha1, v1alpha2, v1alpha3`},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit}`, "v1alpha4", "metadata must be an object"},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {annotations: 7}}`, "v1alpha4", "metadata.annotations must be an object"},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {}, spec: 7}`, "v1alpha4", "spec must be an object"},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {}, spec: {backends: {}}}`, "v1alpha4", "spec.backends must be a list"},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {}, spec: {backends: [7]}}`, "v1alpha4", "spec.backends[0] must be an object"},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {}, spec: {backends: [{}]}}`, "v1alpha4", "spec.backends[0].weight: it is missing: give a whole number or a quantity such as 500m"},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {}, spec: {backends: [{weight: lots}]}}`, "v1alpha4", `spec.backends[0].weight: "lots" is no quantity of zero or more: give a whole number or a quantity such as 500m`},
		{`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {}, spec: {backends: [{weight: -1}]}}`, "v1alpha4", `spec.backends[0].weight: "-1" is no quantity of zero or more: give a whole number or a quantity such as 500m`},
		{`{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {}, spec: {backends: [{weight: x}]}}`, "v1alpha1", "spec.backends[0].weight must be a number"},
		{`{apiVersion: access.smi-spec.io/v1alpha2, kind: TrafficTarget, metadata: {}, spec: {destination: 7}}`, "v1alpha3", "spec.destination must be an object"},
	} {
		_, err := smi.Convert(parse(t, c.object), c.version)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s to %s: %v, want %s", c.object, c.version, err, c.want)
		}
	}
}

// TestNotesOfOthers: annotations of ours that make no sense change nothing and break nothing.
func TestNotesOfOthers(t *testing.T) {
	t.Parallel()
	for _, note := range []string{``, `{`, `7`, `null`, `[]`, `{"matches": 7}`, `{"spec": 7}`, `{"spec": {"backends": [{"weight": "x"}]}}`, `{}, "x": {}`} {
		for _, version := range []string{"v1alpha1", "v1alpha2", "v1alpha3"} {
			hub := parse(t, `{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [{service: c, weight: 1}]}}`)
			hub.SetAnnotations(map[string]string{smi.AnnotationKept: note, smi.AnnotationOriginal + version: note})
			back := convert(t, convert(t, hub, version), "v1alpha4")
			if diff := cmp.Diff(hub.Object["spec"], back.Object["spec"]); diff != "" {
				t.Errorf("%q by %s (-before +after):\n%s", note, version, diff)
			}
		}
	}
	// What has no room in the annotations is left out: a conversion that failed would fail every list with it.
	hub := parse(t, `{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [], matches: [{kind: HTTPRouteGroup, name: g}]}}`)
	hub.SetAnnotations(map[string]string{"a": strings.Repeat("x", 256<<10-20)})
	if got := convert(t, hub, "v1alpha2").GetAnnotations(); len(got) != 1 {
		t.Errorf("%d annotations", len(got))
	}
}

// TestRead: what Tulle reads of each version is the Go type of the hub.
func TestRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		object string
		want   any
	}{
		{
			`{apiVersion: split.smi-spec.io/v1alpha1, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [{service: c, weight: 5}]}}`,
			&splitv1alpha4.TrafficSplit{Spec: splitv1alpha4.TrafficSplitSpec{Service: "s", Backends: []splitv1alpha4.TrafficSplitBackend{{Service: "c", Weight: 5}}}},
		},
		{
			`{apiVersion: split.smi-spec.io/v1alpha3, kind: TrafficSplit, metadata: {name: a}, spec: {service: s, backends: [], matches: [{kind: HTTPRouteGroup, name: g}]}}`,
			&splitv1alpha4.TrafficSplit{Spec: splitv1alpha4.TrafficSplitSpec{Service: "s", Backends: []splitv1alpha4.TrafficSplitBackend{}, Matches: []corev1.TypedLocalObjectReference{{Kind: "HTTPRouteGroup", Name: "g"}}}},
		},
		{
			`{apiVersion: specs.smi-spec.io/v1alpha2, kind: HTTPRouteGroup, metadata: {name: a}, matches: [{name: m, headers: [{x: v}, {a: b}]}]}`,
			&specsv1alpha4.HTTPRouteGroup{Spec: specsv1alpha4.HTTPRouteGroupSpec{Matches: []specsv1alpha4.HTTPMatch{{Name: "m", Headers: specsv1alpha4.HTTPHeaders{{Name: "x", Value: "v"}, {Name: "a", Value: "b"}}}}}},
		},
		{
			`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: a}, spec: {matches: [{headers: {x: v, a: b}}]}}`,
			&specsv1alpha4.HTTPRouteGroup{Spec: specsv1alpha4.HTTPRouteGroupSpec{Matches: []specsv1alpha4.HTTPMatch{{Headers: specsv1alpha4.HTTPHeaders{{Name: "a", Value: "b"}, {Name: "x", Value: "v"}}}}}},
		},
	} {
		got, err := smi.Read(parse(t, c.object))
		if err != nil {
			t.Errorf("%s: %v", c.object, err)
			continue
		}
		got.SetName("")
		got.SetAnnotations(nil)
		switch got := got.(type) {
		case *splitv1alpha4.TrafficSplit:
			got.TypeMeta = metav1.TypeMeta{}
		case *specsv1alpha4.HTTPRouteGroup:
			got.TypeMeta = metav1.TypeMeta{}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.object, diff)
		}
	}
	for _, c := range []struct{ object, want string }{
		{`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: a}, spec: {matches: [{headers: 7}]}}`, "headers must be a list of maps"},
		{`{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {name: a}, spec: {matches: [{headers: {a: 7}}]}}`, "every value must be a string"},
		{`{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {name: a}, spec: {backends: [{weight: 0.5}]}}`, "number 0.5 into Go struct field TrafficSplitBackend.spec.backends.weight"},
		{`{apiVersion: access.smi-spec.io/v1alpha3, kind: TrafficTarget, metadata: {name: a}}`, "nothing of Tulle reads TrafficTargets"},
	} {
		if _, err := smi.Read(parse(t, c.object)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.object, err, c.want)
		}
	}
}

// FuzzConvert holds of any JSON in any version: no panic; a refusal has words; what was converted converts back.
func FuzzConvert(f *testing.F) {
	for i, content := range []string{
		`{"spec": {"service": "s", "backends": [{"service": "a", "weight": "500m"}, {"service": "b", "weight": 1}], "matches": [{"kind": "HTTPRouteGroup", "name": "g"}]}}`,
		`{"matches": [{"name": "m", "headers": [{"x": "y"}]}], "spec": {"matches": [{"name": "m", "headers": {"x": "y"}}]}}`,
		`{"spec": {"matches": {"ports": [1]}}}`, `{"spec": null}`,
		`{"destination": {"port": 1}, "sources": [{}], "spec": {"destination": {"port": 1.5}, "rules": [7]}}`,
		`{"metadata": {"annotations": {"mesh.tulle.dev/smi-kept": "{\"matches\": 1}", "mesh.tulle.dev/smi-v1alpha1": "{\"spec\": {}}"}}}`,
	} {
		f.Add(uint8(i), uint8(i), uint8(i+1), []byte(content))
	}
	f.Fuzz(func(t *testing.T, kind, from, to uint8, raw []byte) {
		k := smi.Kinds()[int(kind)%len(smi.Kinds())]
		u := &unstructured.Unstructured{}
		versions := append([]string{"v1"}, k.Versions...)
		if u.UnmarshalJSON([]byte(`{"apiVersion": "`+k.Group+`/`+versions[int(from)%len(versions)]+`", "kind": "`+k.Kind+`", "metadata": {}}`)) != nil {
			t.Fatal("the frame")
		}
		var said unstructured.Unstructured
		if said.UnmarshalJSON(append([]byte(`{"kind": "x", `), raw[min(len(raw), 1):]...)) != nil {
			return
		}
		for field, value := range said.Object {
			if field != "kind" && field != "apiVersion" {
				u.Object[field] = value
			}
		}
		_, _ = smi.Read(u) // it must not panic
		out, err := smi.Convert(u, versions[int(to)%len(versions)])
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a word")
			}
			return
		}
		if _, err := smi.Convert(out, u.GroupVersionKind().Version); err != nil {
			t.Errorf("%v does not convert back: %v", out.Object, err)
		}
	})
}

package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/xds"
)

// Rejection is one thing that proxies refuse.
type Rejection struct {
	// Field of the Mesh that caused it; empty when the whole object, or none, did.
	Field string
	// Resource that was refused, and Envoy's own text.
	Resource, Message string
	// Proxies that refuse it.
	Proxies int
}

// MeshKey names a Mesh.
type MeshKey struct{ Namespace, Name string }

// Rejections sorts what the proxies refuse by the Mesh that caused it. What a TrafficSplit caused is under the split's namespace with an
// empty name, what neither did under that of the proxy that refuses it: all Meshes there are told.
func Rejections(proxies []xds.ProxyState) map[MeshKey][]Rejection {
	counts := map[MeshKey]map[Rejection]int{}
	count := func(key MeshKey, r Rejection) {
		if counts[key] == nil {
			counts[key] = map[Rejection]int{}
		}
		counts[key][r]++
	}
	for i := range proxies {
		for _, r := range proxies[i].Rejections {
			fields := map[MeshKey][]string{}
			for _, o := range r.Origins {
				key, field := MeshKey{o.Namespace, o.Name}, o.Field
				switch o.Kind {
				case "Mesh":
				case "TrafficSplit": // all Meshes of its namespace are told
					key.Name, field = "", "TrafficSplit "+o.Name
				default:
					continue
				}
				fields[key] = append(fields[key], field)
			}
			for key, of := range fields {
				count(key, Rejection{Field: cause(of), Resource: r.Ref.String(), Message: r.Message})
			}
			if len(fields) == 0 {
				count(MeshKey{Namespace: proxies[i].Proxy.Namespace}, Rejection{Resource: r.Ref.String(), Message: r.Message})
			}
		}
	}
	out := map[MeshKey][]Rejection{}
	for key, rejections := range counts {
		for r, n := range rejections {
			r.Proxies = n
			out[key] = append(out[key], r)
		}
		slices.SortFunc(out[key], func(a, b Rejection) int {
			return cmp.Or(cmp.Compare(a.Field, b.Field), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Message, b.Message))
		})
	}
	return out
}

// cause narrows down which of the fields that a resource was made from made a proxy refuse it. What is part of another field is meant
// rather than the other, such as a rule rather than its service. Of several, Envoy does not say which: it is the list that they are in.
func cause(fields []string) string {
	var parts []string
	for _, f := range fields {
		divided := slices.ContainsFunc(fields, func(o string) bool { return o != f && within(o, f) })
		if !divided && !slices.Contains(parts, f) {
			parts = append(parts, f)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	common := parts[0]
	for _, p := range parts[1:] {
		for !within(p, common) {
			common = common[:max(0, strings.LastIndexAny(common, ".["))]
		}
	}
	return common
}

// within says whether a field is another one or a part of it. The whole object has no name.
func within(field, of string) bool {
	rest, ok := strings.CutPrefix(field, of)
	return ok && (of == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

func rejected(rejections []Rejection) string {
	var texts []string
	for _, r := range rejections {
		texts = append(texts, r.String())
	}
	return samples(texts, "; ")
}

// String says what is refused and how many proxies refuse it, in Envoy's words.
func (r Rejection) String() string {
	proxies := "1 proxy rejects"
	if r.Proxies != 1 {
		proxies = fmt.Sprintf("%d proxies reject", r.Proxies)
	}
	field := ""
	if r.Field != "" {
		field = r.Field + ": "
	}
	return fmt.Sprintf("%s%s %s: %s", field, proxies, r.Resource, r.Message)
}

package status

import (
	"cmp"
	"fmt"
	"slices"

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
			caused := false
			seen := map[MeshKey]bool{}
			for _, o := range r.Origins {
				key, field := MeshKey{o.Namespace, o.Name}, o.Field
				switch {
				case o.Kind == "TrafficSplit": // all Meshes of its namespace are told
					key.Name, field = "", "TrafficSplit "+o.Name
				case o.Kind != "Mesh":
					continue
				}
				if seen[key] {
					continue
				}
				seen[key], caused = true, true
				count(key, Rejection{Field: field, Resource: r.Ref.String(), Message: r.Message})
			}
			if !caused {
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

package model

import (
	"k8s.io/apimachinery/pkg/types"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
)

// readSplit returns nil for a split that Tulle made.
func readSplit(o *splitv1alpha4.TrafficSplit) *split {
	if MadeForMesh(o) {
		return nil
	}
	s := &split{
		key:     types.NamespacedName{Namespace: o.Namespace, Name: o.Name},
		uid:     string(o.UID),
		created: o.CreationTimestamp.Time,
		service: shorten(o.Spec.Service),
	}
	s.root, _ = localService(o.Spec.Service, o.Namespace)
	s.readBackends(len(o.Spec.Backends), func(i int) (string, int64) {
		return o.Spec.Backends[i].Service, o.Spec.Backends[i].Weight
	})
	for i, m := range o.Spec.Matches {
		if i == maxMatches {
			s.tooManyMatches(len(o.Spec.Matches))
			break
		}
		s.readMatch(i, m.Kind, m.Name)
	}
	return s
}

func readRouteGroup(o *specsv1alpha4.HTTPRouteGroup) *routeGroup {
	g := &routeGroup{}
	for i, m := range o.Spec.Matches {
		if i == maxMatches {
			g.tooManyMatches(len(o.Spec.Matches))
			break
		}
		g.readGroupMatch(i, m.PathRegex, m.Methods, m.Headers)
	}
	return g
}

package model

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// Bounds of what is taken from SMI objects, whose schema has none.
const (
	maxBackends = 64  // of a TrafficSplit
	maxMatches  = 128 // of all route groups of a TrafficSplit together
	maxMethods  = 32  // of a match
	maxHeaders  = 32  // of a match
)

// httpMethod is the name of a method: a token of capital letters.
var httpMethod = regexp.MustCompile(`^[A-Z][A-Z-]{0,31}$`)

// split is a TrafficSplit that somebody else made.
type split struct {
	key      types.NamespacedName
	uid      string
	created  time.Time
	service  string // as it was written, in short
	root     string // a Service of the namespace; empty when it can be none
	backends []splitBackend
	matches  []splitMatch
	problems []Problem // that depend on nothing else
}

type splitBackend struct {
	field   string // spec.backends[i]
	service string // of the namespace; empty when it can be none
	weight  uint64
}

type splitMatch struct {
	field string // spec.matches[i]
	group string // an HTTPRouteGroup; empty when it can be none
}

// same reports whether two facts say the same; either may be nil.
func (s *split) same(o *split) bool { return reflect.DeepEqual(s, o) }

// routeGroup is an HTTPRouteGroup.
type routeGroup struct {
	matches  []HTTPMatch
	problems []groupProblem
}

type groupProblem struct{ field, reason, text string }

func (g *routeGroup) same(o *routeGroup) bool { return reflect.DeepEqual(g, o) }

// MadeForMesh reports whether an object is owned by a Mesh, and so made by Tulle: it is then what a Mesh says, and not read once more.
func MadeForMesh(o metav1.Object) bool {
	c := metav1.GetControllerOfNoCopy(o)
	if c == nil || c.Kind != "Mesh" {
		return false
	}
	group, _, _ := strings.Cut(c.APIVersion, "/")
	return group == v1alpha1.GroupVersion.Group
}

// localService returns the Service of a namespace that a name, or the domain name of a Service, stands for.
func localService(text, namespace string) (string, bool) {
	parts := strings.SplitN(strings.TrimSuffix(text, "."), ".", 4)
	switch {
	case !dnsLabel.MatchString(parts[0]) || len(parts[0]) > 63:
		return "", false
	case len(parts) > 1 && parts[1] != namespace, len(parts) > 2 && parts[2] != "svc":
		return "", false
	}
	return parts[0], true
}

func (s *split) refuse(field, format string, args ...any) {
	s.problems = append(s.problems, s.problem(field, v1alpha1.ConditionAccepted, ReasonInvalidSplit, format, args...))
}

// readBackends takes the backends; what makes no sense of one is a reason not to follow the split at all.
func (s *split) readBackends(n int, backend func(i int) (service string, weight int64)) {
	positive, negative := false, false
	for i := range min(n, maxBackends) {
		name, weight := backend(i)
		be := splitBackend{field: fmt.Sprintf("spec.backends[%d]", i)}
		var ok bool
		if be.service, ok = localService(name, s.key.Namespace); !ok {
			s.problems = append(s.problems, s.problem(be.field+".service", v1alpha1.ConditionResolvedRefs, ReasonBackendNotFound,
				"%q is no Service of namespace %s, so the backend is left out; name one, a split sends to its own namespace's Services only",
				shorten(name), s.key.Namespace))
		}
		if weight < 0 {
			negative = true
			s.refuse(be.field+".weight", "weight %d is below zero; give 0 or more", weight)
		}
		be.weight = uint64(max(weight, 0))
		positive = positive || weight > 0
		// A backend that is named twice gets both shares.
		same := slices.IndexFunc(s.backends, func(o splitBackend) bool { return o.service == be.service })
		if same < 0 || be.service == "" {
			s.backends = append(s.backends, be)
		} else if total := s.backends[same].weight + be.weight; total >= be.weight {
			s.backends[same].weight = total
		}
	}
	switch {
	case n > maxBackends:
		s.refuse("spec.backends", "%d backends are more than %d; use fewer", n, maxBackends)
	case n == 0:
		s.refuse("spec.backends", "the split sends nowhere; name at least one backend")
	case !positive && !negative:
		s.refuse("spec.backends", "all weights are 0, so the split sends nowhere; raise one")
	}
}

// readMatch takes a reference to a route group. One that can be none matches nothing.
func (s *split) readMatch(i int, kind, name string) {
	m := splitMatch{field: fmt.Sprintf("spec.matches[%d]", i)}
	switch {
	case kind != "HTTPRouteGroup":
		s.problems = append(s.problems, s.problem(m.field+".kind", v1alpha1.ConditionAccepted, ReasonInvalidValue,
			"kind %q can't restrict a split; give HTTPRouteGroup", shorten(kind)))
	case name == "":
		s.problems = append(s.problems, s.problem(m.field+".name", v1alpha1.ConditionAccepted, ReasonInvalidValue, "the name is missing"))
	default:
		m.group = name
	}
	s.matches = append(s.matches, m)
}

func (s *split) tooManyMatches(n int) {
	s.problems = append(s.problems, s.problem("spec.matches", v1alpha1.ConditionAccepted, ReasonInvalidValue,
		"%d references are more than %d, and the others don't count; use fewer", n, maxMatches))
}

func (g *routeGroup) tooManyMatches(n int) {
	g.problems = append(g.problems, groupProblem{"spec.matches", ReasonInvalidValue,
		fmt.Sprintf("%d matches are more than %d, and the others don't count; use fewer", n, maxMatches)})
}

// readGroupMatch takes a match of a route group. One that makes no sense matches nothing.
func (g *routeGroup) readGroupMatch(i int, path string, methods []string, headers []specsv1alpha4.HTTPHeader) {
	at := fmt.Sprintf("spec.matches[%d]", i)
	first := len(g.problems)
	refuse := func(field, reason, format string, args ...any) {
		g.problems = append(g.problems, groupProblem{at + field, reason, fmt.Sprintf(format, args...)})
	}
	var m HTTPMatch
	if path != "" {
		// SMI anchors the expression at the beginning only; Envoy's has to fit the whole path.
		m.Path = "(?:" + path + ").*"
		if why := problemOfRegex(path); why != "" {
			refuse(".pathRegex", ReasonInvalidRoute, "%s", why)
		} else if why := problemOfRegex(m.Path); why != "" {
			refuse(".pathRegex", ReasonInvalidRoute, "%s", why)
		}
	}
	if len(methods) > maxMethods || len(headers) > maxHeaders {
		refuse("", ReasonInvalidValue, "more than %d methods or %d headers", maxMethods, maxHeaders)
		return
	}
	if !slices.Contains(methods, "*") {
		for j, method := range methods {
			if !httpMethod.MatchString(method) {
				refuse(fmt.Sprintf(".methods[%d]", j), ReasonInvalidValue, "%q is no method; give one such as GET, or *", shorten(method))
			}
		}
		m.Methods = slices.Sorted(slices.Values(methods))
	}
	g.readHeaders(&m, headers, refuse)
	if len(g.problems) == first {
		g.matches = append(g.matches, m)
	}
}

func (g *routeGroup) readHeaders(m *HTTPMatch, headers []specsv1alpha4.HTTPHeader, refuse func(field, reason, format string, args ...any)) {
	sorted := slices.SortedStableFunc(slices.Values(headers), func(a, b specsv1alpha4.HTTPHeader) int { return strings.Compare(a.Name, b.Name) })
	for _, header := range sorted {
		name, value := header.Name, header.Value
		h := HeaderMatch{Name: strings.ToLower(name), Value: value, Regex: true}
		part, why := problemOfHeader(h.Name, v1alpha1.HeaderMatch{Name: name, Value: value, Type: v1alpha1.HeaderMatchRegularExpression})
		switch {
		case why != "":
			refuse(fmt.Sprintf(".headers[%s]%s", shorten(name), part), ReasonInvalidRoute, "%s", why)
		case slices.ContainsFunc(m.Headers, func(o HeaderMatch) bool { return o.Name == h.Name }):
			refuse(".headers", ReasonDuplicateName, "header %s is matched twice; a match names each header once", h.Name)
		default:
			m.Headers = append(m.Headers, h)
		}
	}
	slices.SortFunc(m.Headers, func(a, b HeaderMatch) int { return strings.Compare(a.Name, b.Name) })
}

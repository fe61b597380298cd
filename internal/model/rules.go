package model

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Bounds that hold also for objects that predate the schema's.
const (
	maxWeight      = 1_000_000
	maxConcurrency = 64
	// maxProgram is the size of a compiled expression, counted as programSize does. The proxies accept ten times as much.
	maxProgram = 2000
	// internalHeader is the prefix of the headers that proxies use between themselves and that no application can send.
	internalHeader = "x-tulle-"
)

var (
	dnsLabel    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	headerToken = regexp.MustCompile("^[a-z0-9!#$%&'*+\\-.^_`|~]+$")
)

// claim is what a Mesh says of a Service, as far as it depends on nothing else.
type claim struct {
	mesh     *mesh
	service  string
	field    string // spec.services[i]
	ports    map[uint16]portClaim
	numbers  []uint16 // of ports, in the order of the list
	versions []Version
	routes   []Route
	problems []Problem
}

type portClaim struct {
	protocol Protocol
	field    string
}

func newClaim(m *mesh, index int, spec *v1alpha1.ServiceSpec) *claim {
	c := &claim{mesh: m, service: spec.Name, field: fmt.Sprintf("spec.services[%d]", index), ports: map[uint16]portClaim{}}
	for i, p := range spec.Ports {
		c.readPort(fmt.Sprintf("%s.ports[%d]", c.field, i), p)
	}
	for i, v := range spec.Versions {
		c.readVersion(fmt.Sprintf("%s.versions[%d]", c.field, i), v)
	}
	for i := range spec.Routes {
		c.readRoute(fmt.Sprintf("%s.routes[%d]", c.field, i), &spec.Routes[i])
	}
	return c
}

// same reports whether two claims mean the same, whatever else changed in their Meshes.
func (c *claim) same(o *claim) bool {
	return c.origin() == o.origin() && reflect.DeepEqual(c.ports, o.ports) && slices.Equal(c.numbers, o.numbers) &&
		reflect.DeepEqual(c.versions, o.versions) && reflect.DeepEqual(c.routes, o.routes)
}

// origin of the whole claim.
func (c *claim) origin() resource.Origin { return c.mesh.origin(c.field) }

func (c *claim) problem(field, condition, reason, format string, args ...any) Problem {
	return Problem{c.mesh.origin(field), condition, reason, fmt.Sprintf(format, args...), true}
}

func (c *claim) refuse(field, reason, format string, args ...any) {
	c.problems = append(c.problems, c.problem(field, v1alpha1.ConditionAccepted, reason, format, args...))
}

func (c *claim) readPort(field string, p v1alpha1.ServicePort) {
	number, ok := portNumber(p.Port)
	protocol := specProtocol(p.Protocol)
	switch _, known := c.ports[number]; {
	case !ok:
		c.refuse(field+".port", ReasonInvalidValue, "%d is no port; give one from 1 to 65535", p.Port)
	case protocol == Unknown:
		c.refuse(field+".protocol", ReasonInvalidValue, "unknown protocol %q; give HTTP, GRPC or TCP", p.Protocol)
	case known:
		c.refuse(field+".port", ReasonDuplicateName, "port %d is already in the list, and the first entry holds; remove one", p.Port)
	default:
		c.ports[number] = portClaim{protocol, field}
		c.numbers = append(c.numbers, number)
	}
}

func (c *claim) readVersion(field string, v v1alpha1.VersionSpec) {
	switch {
	case !dnsLabel.MatchString(v.Name):
		c.refuse(field+".name", ReasonInvalidValue, "%q is no name of a version; use lower-case letters, digits and -", v.Name)
	case c.hasVersion(v.Name):
		c.refuse(field+".name", ReasonDuplicateName, "%s has two versions named %s, and the first holds; rename or remove one", c.service, v.Name)
	case len(v.Labels) == 0:
		c.refuse(field+".labels", ReasonInvalidValue, "version %s has no labels, so it would be every pod; name the labels of its pods", v.Name)
	default:
		c.versions = append(c.versions, Version{v.Name, v.Labels})
	}
}

func (c *claim) hasVersion(name string) bool {
	return slices.ContainsFunc(c.versions, func(v Version) bool { return v.Name == name })
}

// readRoute keeps a rule that can't be followed as one that answers 500 to what it matches, as far as that can be told: of
// a match that makes no sense nobody can, and a rule with none but such is only reported. Its neighbours are as they were.
func (c *claim) readRoute(field string, spec *v1alpha1.RouteSpec) {
	first := len(c.problems)
	r := Route{Name: spec.Name, Origin: c.mesh.origin(field)}
	if !dnsLabel.MatchString(spec.Name) {
		c.refuse(field+".name", ReasonInvalidValue, "%q is no name of a rule; use lower-case letters, digits and -", spec.Name)
	}
	if slices.ContainsFunc(c.routes, func(o Route) bool { return o.Name == spec.Name }) {
		c.refuse(field+".name", ReasonDuplicateName, "%s has two rules named %s; rename or remove one", c.service, spec.Name)
	}
	for i, m := range spec.Match {
		if match, ok := c.readMatch(fmt.Sprintf("%s.match[%d]", field, i), m); ok {
			r.Match = append(r.Match, match)
		}
	}
	r.To = c.readTargets(field+".to", spec.To)
	if len(c.problems) > first {
		r.Invalid, r.To = c.problems[first].Message, nil
	}
	if len(r.Match) > 0 || len(spec.Match) == 0 {
		c.routes = append(c.routes, r)
	}
}

func (c *claim) readMatch(field string, spec v1alpha1.HTTPMatch) (HTTPMatch, bool) {
	var match HTTPMatch
	first := len(c.problems)
	for i, h := range spec.Headers {
		at := fmt.Sprintf("%s.headers[%d]", field, i)
		name := strings.ToLower(h.Name)
		if slices.ContainsFunc(match.Headers, func(o HeaderMatch) bool { return o.Name == name }) {
			c.refuse(at+".name", ReasonDuplicateName, "header %s is matched twice; a match names each header once", name)
		}
		part, reason := problemOfHeader(name, h)
		if reason != "" {
			c.refuse(at+part, ReasonInvalidRoute, "%s", reason)
		}
		match.Headers = append(match.Headers, HeaderMatch{name, h.Value, h.Type == v1alpha1.HeaderMatchRegularExpression})
	}
	return match, len(c.problems) == first
}

// problemOfHeader returns the part of a header match that is wrong, and why.
func problemOfHeader(name string, h v1alpha1.HeaderMatch) (part, reason string) {
	switch {
	case !headerToken.MatchString(name):
		return ".name", fmt.Sprintf("%q is no name of a header; pseudo-headers such as :path can't be matched here", h.Name)
	case strings.HasPrefix(name, internalHeader):
		return ".name", fmt.Sprintf("header %s is internal to the mesh and never comes from an application; match another one", name)
	case h.Value == "":
		return ".value", "the value is empty; give the value that the header must have"
	case !utf8.ValidString(h.Value) || strings.ContainsFunc(h.Value, unicode.IsControl):
		return ".value", "the value has characters that no header can have; remove them"
	}
	switch h.Type {
	case v1alpha1.HeaderMatchExact, "":
		return "", ""
	case v1alpha1.HeaderMatchRegularExpression:
		return ".value", problemOfRegex(h.Value)
	}
	return ".type", fmt.Sprintf("unknown type %q; give Exact or RegularExpression", h.Type)
}

func problemOfRegex(text string) string {
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		reason := err.Error()
		if e, ok := errors.AsType[*syntax.Error](err); ok {
			reason = fmt.Sprintf("%s in %q", e.Code, e.Expr)
		}
		return fmt.Sprintf("not an RE2 expression (%s); see https://github.com/google/re2/wiki/Syntax", reason)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return fmt.Sprintf("not an expression that can be compiled (%v); simplify it", err)
	}
	if n := programSize(program); n > maxProgram {
		return fmt.Sprintf("the expression is too large (%d steps of at most %d); make its repetitions smaller or split the rule", n, maxProgram)
	}
	return ""
}

// programSize is about the size of RE2's program, of which Envoy refuses too large ones: RE2 works on bytes (Envoy has it
// read Latin-1) and needs a step for each range of a character class, where Go has one for the class.
func programSize(program *syntax.Prog) int {
	size := 0
	for _, inst := range program.Inst {
		size++
		for i := 2; i < len(inst.Rune) && inst.Rune[i] <= unicode.MaxLatin1; i += 2 {
			size++
		}
	}
	return size
}

func (c *claim) readTargets(field string, spec []v1alpha1.RouteTarget) []Target {
	var targets []Target
	var sum int64
	wrong := false
	for i, t := range spec {
		at := fmt.Sprintf("%s[%d]", field, i)
		weight := int32(1)
		if t.Weight != nil {
			weight = *t.Weight
		}
		if weight < 0 || weight > maxWeight {
			wrong = true
			c.refuse(at+".weight", ReasonInvalidRoute, "weight %d is not from 0 to %d", weight, maxWeight)
		}
		if t.Version != "" && !c.hasVersion(t.Version) {
			c.problems = append(c.problems, c.problem(at+".version", v1alpha1.ConditionResolvedRefs, ReasonVersionNotFound,
				"unknown version %q; %s", t.Version, c.versionsHint()))
		}
		sum += int64(weight)
		targets = append(targets, Target{t.Version, uint32(max(weight, 0))})
	}
	switch {
	case len(spec) == 0:
		c.refuse(field, ReasonInvalidRoute, "the rule sends nowhere; name at least one version, or {} for all pods")
	case sum == 0 && !wrong:
		c.refuse(field, ReasonInvalidRoute, "all weights are 0, so the rule sends nowhere; raise one")
	}
	return targets
}

func (c *claim) versionsHint() string {
	if len(c.versions) == 0 {
		return fmt.Sprintf("%s has none; add it to %s.versions", c.service, c.field)
	}
	names := make([]string, len(c.versions))
	for i, v := range c.versions {
		names[i] = v.Name
	}
	return c.service + " has " + strings.Join(names, ", ")
}

package model

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Split is a TrafficSplit that somebody else made, as the rule of the Service that it names: its root. It outranks the rules
// without a match that a Mesh has for that Service.
type Split struct {
	Root ServiceKey
	// Name of the TrafficSplit.
	Name string
	// Invalid is not empty when nobody can tell what it wants: the requests that it is for are answered 500, connections closed.
	Invalid string
	// Restricted is true when the split is only for the requests that one of Match fits. All others, and everything that is not
	// HTTP, go to the root itself.
	Restricted bool
	Match      []HTTPMatch
	// Shares says, by port of the root, who gets what. What is sent to a port that has none goes to the root itself.
	Shares map[uint16][]Share
	Origin resource.Origin
}

// Share is what a backend of a split gets. The weights of a port add up to more than zero, and fit 32 bits.
type Share struct {
	Service ServiceKey
	// Weight is 0 for a backend that gets nothing now. It may get something any moment.
	Weight uint32
}

// RulingSplit says which TrafficSplit that somebody else made rules a Service.
type RulingSplit struct{ Service, Split string }

// SplitReport says what the model made of a TrafficSplit that somebody else made.
type SplitReport struct {
	Namespace, Name, UID string
	Created              time.Time
	// Problems are in the order of the fields, the fatal ones first, and no more than 64.
	Problems []Problem
}

// Split returns the rule that a TrafficSplit of somebody else is for a Service; nil when there is none.
func (r *Reader) Split(root ServiceKey) *Split {
	s, _ := read[*Split](r, root.splitKey())
	return s
}

// RulingSplit returns the name of the TrafficSplit, made by somebody else, that rules a Service, whether or not there is such a Service;
// false when none does. A split in a namespace that is not meshed rules nothing.
func (s *Snapshot) RulingSplit(root ServiceKey) (string, bool) {
	split, ok := get[*Split](s, root.splitKey())
	if !ok {
		return "", false
	}
	return split.Name, true
}

// Splits returns a report for each TrafficSplit that somebody else made, by namespace and name.
func (s *Snapshot) Splits() []*SplitReport {
	var reports []*SplitReport
	scan(s, Key{Kind: kindSplitReport}, func(_ Key, r *SplitReport) { reports = append(reports, r) })
	return reports
}

func (k ServiceKey) splitKey() Key {
	return Key{Kind: KindSplit, Cluster: k.Cluster, Namespace: k.Namespace, Name: k.Name}
}

func splitReportKey(name types.NamespacedName) Key {
	return Key{Kind: kindSplitReport, Namespace: name.Namespace, Name: name.Name}
}

func (b *Builder) setSplit(name types.NamespacedName, s *split) {
	ns := b.namespace(name.Namespace)
	old := ns.splits[name.Name]
	if old.same(s) {
		return
	}
	if old != nil {
		b.touchRoot(ServiceKey{Namespace: ns.name, Name: old.root})
		ns.removeSplit(old)
	}
	if s != nil {
		ns.addSplit(s)
		b.touchRoot(ServiceKey{Namespace: ns.name, Name: s.root})
	}
	b.dirty.splitReports[name] = true
	b.touchNamespace(ns)
}

func (b *Builder) setRouteGroup(name types.NamespacedName, g *routeGroup) {
	ns := b.namespace(name.Namespace)
	if old := ns.groups[name.Name]; old.same(g) {
		return
	}
	if g == nil {
		delete(ns.groups, name.Name)
	} else {
		ns.groups[name.Name] = g
	}
	for _, s := range ns.splitsWithGroup[name.Name] {
		b.dirty.roots[ServiceKey{Namespace: ns.name, Name: s.root}] = true
	}
	b.touchNamespace(ns)
}

func (n *namespace) addSplit(s *split) {
	n.splits[s.key.Name] = s
	add(n.splitsOf, s.root, s.key.Name, s)
	for _, be := range s.backends {
		add(n.splitsTo, be.service, s.key.Name, s)
	}
	for _, m := range s.matches {
		add(n.splitsWithGroup, m.group, s.key.Name, s)
	}
}

func (n *namespace) removeSplit(s *split) {
	delete(n.splits, s.key.Name)
	remove(n.splitsOf, s.root, s.key.Name)
	for _, be := range s.backends {
		remove(n.splitsTo, be.service, s.key.Name)
	}
	for _, m := range s.matches {
		remove(n.splitsWithGroup, m.group, s.key.Name)
	}
}

// touchRoot marks the root of a split that came, changed or went, and the splits that name it as a backend: they say that it has one.
func (b *Builder) touchRoot(root ServiceKey) {
	b.dirty.roots[root] = true
	b.touchSplitsTo(root)
}

// touchSplitsTo marks the splits that name a Service as a backend.
func (b *Builder) touchSplitsTo(backend ServiceKey) {
	if ns := b.namespaces[backend.Namespace]; ns != nil {
		for _, s := range ns.splitsTo[backend.Name] {
			b.dirty.roots[ServiceKey{Namespace: ns.name, Name: s.root}] = true
		}
	}
}

// touchSplitsOfAll marks all splits of a namespace.
func (b *Builder) touchSplitsOfAll(ns *namespace) {
	for root := range ns.splitsOf {
		b.dirty.roots[ServiceKey{Namespace: ns.name, Name: root}] = true
	}
}

// resolveSplits makes the rules of dirty roots, and what is reported of their splits. It comes after the Services and their endpoints.
func (b *Builder) resolveSplits() {
	for root := range b.dirty.roots {
		b.resolveSplit(root)
	}
	b.dirty.roots = map[ServiceKey]bool{}
	for name := range b.dirty.splitReports {
		if ns := b.namespaces[name.Namespace]; ns == nil || ns.splits[name.Name] == nil {
			b.put(splitReportKey(name), nil)
		}
	}
	b.dirty.splitReports = map[types.NamespacedName]bool{}
}

func (b *Builder) resolveSplit(root ServiceKey) {
	ns := b.namespaces[root.Namespace]
	if ns == nil || len(ns.splitsOf[root.Name]) == 0 {
		b.put(root.splitKey(), nil)
		return
	}
	all := slices.SortedFunc(maps.Values(ns.splitsOf[root.Name]), (*split).older)
	var node *Split
	for i, s := range all {
		report := &SplitReport{Namespace: s.key.Namespace, Name: s.key.Name, UID: s.uid, Created: s.created}
		switch {
		case !ns.settings.node.Meshed:
			report.Problems = []Problem{s.note("", v1alpha1.ConditionAccepted, ReasonNotMeshed,
				"namespace %s has no Mesh, so no proxy follows the split; create one (spec: {} is complete)", ns.name)}
		case s.root == "":
			report.Problems = []Problem{s.problem("spec.service", v1alpha1.ConditionAccepted, ReasonInvalidSplit,
				"%q is no Service of namespace %s; name one, a split rules its own namespace's Services only", s.service, ns.name)}
		case i > 0:
			report.Problems = []Problem{s.problem("spec.service", v1alpha1.ConditionAccepted, ReasonConflicted,
				"the older TrafficSplit %s already splits Service %s and wins; delete one", all[0].key.Name, s.root)}
		default:
			f := following{builder: b, ns: ns, split: s, root: b.services[root]}
			node = f.follow(root)
			report.Problems = f.problems
			slices.SortStableFunc(report.Problems, compareProblems)
			report.Problems = report.Problems[:min(len(report.Problems), maxProblems)]
		}
		b.put(splitReportKey(s.key), report)
	}
	if node == nil {
		b.put(root.splitKey(), nil)
	} else {
		b.put(root.splitKey(), node)
	}
}

// following is the way from the split that rules a root to what is done.
type following struct {
	builder  *Builder
	ns       *namespace
	split    *split
	root     *service // nil when it does not exist
	problems []Problem
}

func (f *following) add(p Problem) { f.problems = append(f.problems, p) }

func (f *following) follow(root ServiceKey) *Split {
	s := f.split
	node := &Split{Root: root, Name: s.key.Name, Origin: s.origin(""), Restricted: len(s.matches) > 0}
	f.problems = slices.Clone(s.problems)
	if i := slices.IndexFunc(s.problems, func(p Problem) bool { return p.Reason == ReasonInvalidSplit }); i >= 0 {
		node.Invalid = s.problems[i].Message
	}
	f.match(node)
	switch {
	case f.root == nil:
		f.add(s.problem("spec.service", v1alpha1.ConditionResolvedRefs, ReasonServiceNotFound,
			"namespace %s has no Service %s; create it, or name another", f.ns.name, s.root))
	case len(f.root.addresses) == 0:
		f.add(s.problem("spec.service", v1alpha1.ConditionAccepted, ReasonNoClusterIP,
			"Service %s has no cluster IP, so its clients call pods or outside hosts themselves and are not split; "+
				"give it one (clusterIP is not None, type is not ExternalName) or name another", s.root))
	case node.Invalid == "":
		if node.Restricted {
			f.httpOnly()
		}
		f.shares(node)
	}
	return node
}

// httpOnly says so when a split by HTTP's means is of a Service that speaks none.
func (f *following) httpOnly() {
	c := f.ns.settings.claims[f.root.key.Name]
	if slices.ContainsFunc(f.root.ports, func(p servicePort) bool { return portProtocol(p, c) != TCP }) {
		return
	}
	f.add(f.split.problem("spec.matches", v1alpha1.ConditionAccepted, ReasonProtocolMismatch,
		"matches are for HTTP, and Service %s has no port that speaks it (%s), so the split does nothing; remove them or declare a port HTTP",
		f.root.key.Name, portText(f.root)))
}

// match collects what the route groups match, up to maxMatches.
func (f *following) match(node *Split) {
	s := f.split
	for _, m := range s.matches {
		g := f.ns.groups[m.group]
		switch {
		case m.group == "": // readSplit has said so
		case g == nil:
			f.add(s.problem(m.field, v1alpha1.ConditionResolvedRefs, ReasonRouteGroupNotFound,
				"namespace %s has no HTTPRouteGroup %s that can be read, so the split is not for any request that it would match; create or correct it", f.ns.name, m.group))
		default:
			for _, p := range g.problems {
				f.add(s.problem(m.field, v1alpha1.ConditionAccepted, p.reason, "HTTPRouteGroup %s: %s: %s", m.group, p.field, p.text))
			}
			node.Match = append(node.Match, g.matches...)
		}
	}
	if over := len(node.Match) - maxMatches; over > 0 {
		node.Match = node.Match[:maxMatches]
		f.add(s.problem("spec.matches", v1alpha1.ConditionAccepted, ReasonInvalidValue,
			"the route groups have more than %d matches together, and the last %d don't count; use fewer", maxMatches, over))
	}
}

// candidate is a backend that exists.
type candidate struct {
	splitBackend
	service *service
	known   bool // Kubernetes has said what its endpoints are, if only that there are none
}

// shares gives each port of the root to the backends that have it.
func (f *following) shares(node *Split) {
	candidates := f.candidates()
	node.Shares = map[uint16][]Share{}
	for _, port := range f.root.ports {
		if shares := f.portShares(port, candidates); len(shares) > 0 {
			node.Shares[port.number] = shares
		}
	}
	if len(node.Shares) == 0 {
		f.add(f.split.note("spec.backends", v1alpha1.ConditionResolvedRefs, ReasonBackendNotFound,
			"no backend that is to get something is there yet, so everything goes to Service %s itself", f.root.key.Name))
	}
}

// candidates are the backends that exist and share a port with the root. The others are reported, and get nothing.
func (f *following) candidates() []candidate {
	var found []candidate
	for _, be := range f.split.backends {
		key := ServiceKey{Namespace: f.ns.name, Name: be.service}
		c := candidate{be, f.builder.services[key], len(f.builder.slicesOf[key]) > 0}
		switch {
		case be.service == "": // readSplit has said so
		case c.service == nil || c.service.external:
			f.leaveOut(be, ReasonBackendNotFound, "namespace %s has no Service %s with pods%s; create it, or remove this backend",
				f.ns.name, be.service, be.fate())
		case !slices.ContainsFunc(f.root.ports, func(p servicePort) bool { return c.service.port(p.number) >= 0 }):
			f.leaveOut(be, ReasonPortNotFound, "Service %s has port %s and the root %s has %s%s; give both the same port",
				be.service, portText(c.service), f.root.key.Name, portText(f.root), be.fate())
		default:
			f.noteBackend(&c)
			found = append(found, c)
		}
	}
	return found
}

// leaveOut reports a backend that can't take part. One that is to get nothing is missed by nobody.
func (f *following) leaveOut(be splitBackend, reason, format string, args ...any) {
	p := f.split.problem(be.field+".service", v1alpha1.ConditionResolvedRefs, reason, format, args...)
	p.Fatal = be.weight > 0
	f.add(p)
}

// noteBackend says what is worth knowing of a backend that takes part.
func (f *following) noteBackend(c *candidate) {
	note := func(reason, format string, args ...any) {
		f.add(f.split.note(c.field+".service", v1alpha1.ConditionAccepted, reason, format, args...))
	}
	others := f.ns.splitsOf[c.splitBackend.service]
	switch {
	case c.splitBackend.service == f.split.root:
		note(ReasonSelfReference, "the backend is the root itself, so its share goes to all pods that %s selects; SMI advises against it", f.split.root)
	case len(others) > 0:
		first := slices.MinFunc(slices.Collect(maps.Values(others)), (*split).older)
		note(ReasonNestedSplit, "Service %s is split by TrafficSplit %s, which is not followed from here: the share goes to its own pods",
			c.splitBackend.service, first.key.Name)
	}
	for _, p := range f.root.ports {
		if c.service.port(p.number) < 0 {
			note(ReasonPortNotFound, "Service %s has no port %d, so on that port its weight goes to the others", c.splitBackend.service, p.number)
			break
		}
	}
}

// portShares divides what is sent to a port of the root. What a backend can't take since nobody of it is ready goes to the others, as it
// does within a Service. Nothing is returned where the root itself has to take everything.
func (f *following) portShares(port servicePort, candidates []candidate) []Share {
	var shares []Share
	var weights []uint64
	var idle []int // those without an endpoint
	wanted, ready, known := false, false, false
	for _, c := range candidates {
		if c.service.port(port.number) < 0 {
			continue
		}
		usable := f.builder.usable(c.service.key, port.number)
		if !usable {
			idle = append(idle, len(shares))
		}
		if c.weight > 0 {
			wanted, ready, known = true, ready || usable, known || c.known
		}
		shares = append(shares, Share{Service: c.service.key})
		weights = append(weights, c.weight)
	}
	// No backend exists that is to get something, or all are so new that nobody has said yet who is behind them.
	if !wanted || !ready && !known {
		return nil
	}
	for _, i := range idle {
		if weights[i] > 0 {
			f.noteIdle(shares[i].Service, port, ready)
		}
		if ready {
			weights[i] = 0
		}
	}
	for i, w := range fit(weights) {
		shares[i].Weight = w
	}
	return shares
}

func (f *following) noteIdle(backend ServiceKey, port servicePort, others bool) {
	i := slices.IndexFunc(f.split.backends, func(be splitBackend) bool { return be.service == backend.Name })
	fate := "what is sent to it fails"
	switch {
	case others:
		fate = "its weight goes to the others"
	case len(f.builder.portEndpoints(backend, port.number)) > 0:
		fate = "what is sent to it goes to pods that drain, and fails once they have ended"
	}
	f.add(f.split.note(f.split.backends[i].field+".service", v1alpha1.ConditionResolvedRefs, ReasonBackendWithoutEndpoints,
		"Service %s has no ready endpoint on port %d, so %s", backend.Name, port.number, fate))
}

// usable reports whether a port of a Service has endpoints that may be called and do not drain. An app may refuse what comes after it was told
// to end.
func (b *Builder) usable(key ServiceKey, port uint16) bool {
	return slices.ContainsFunc(b.portEndpoints(key, port), func(e Endpoint) bool { return !e.Draining })
}

func (b *Builder) portEndpoints(key ServiceKey, port uint16) []Endpoint {
	e, _ := b.tree.Get(entry{key: key.EndpointsKey()})
	if endpoints, ok := e.value.(*Endpoints); ok {
		return endpoints.Ports[port]
	}
	return nil
}

// fit makes the sum of weights fit 32 bits, as Envoy needs it, and keeps their proportions as far as that goes. What is above zero stays so.
func fit(weights []uint64) []uint32 {
	scaled := slices.Clone(weights)
	for !fits(scaled) {
		for i, w := range scaled {
			scaled[i] = max(w/2, min(w, 1))
		}
	}
	out := make([]uint32, len(scaled))
	for i, w := range scaled {
		out[i] = uint32(w) //nolint:gosec // it fits: the sum does
	}
	return out
}

func fits(weights []uint64) bool {
	var sum, carry uint64
	for _, w := range weights {
		if sum, carry = bits.Add64(sum, w, 0); carry > 0 {
			return false
		}
	}
	return sum <= math.MaxUint32
}

func (s *split) older(other *split) int {
	return cmp.Or(s.created.Compare(other.created), strings.Compare(s.key.Name, other.key.Name))
}

func (s *split) origin(field string) resource.Origin {
	return resource.Origin{Kind: "TrafficSplit", Namespace: s.key.Namespace, Name: s.key.Name, Field: field}
}

func (s *split) problem(field, condition, reason, format string, args ...any) Problem {
	return Problem{s.origin(field), condition, reason, fmt.Sprintf(format, args...), true}
}

func (s *split) note(field, condition, reason, format string, args ...any) Problem {
	return Problem{s.origin(field), condition, reason, fmt.Sprintf(format, args...), false}
}

// fate says what becomes of the weight of a backend that is left out.
func (be splitBackend) fate() string {
	if be.weight == 0 {
		return ""
	}
	return ", so its weight goes to the others"
}

package model

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
)

func (b *Builder) resolveServices() {
	for key := range b.dirty.services {
		b.resolveService(key)
		b.dirty.roots[key] = true
		b.touchSplitsTo(key)
	}
	b.dirty.services = map[ServiceKey]bool{}
}

// resolveService makes a Service's node, its endpoints and the problems that were found at it.
func (b *Builder) resolveService(key ServiceKey) {
	s, ns := b.services[key], b.namespaces[key.Namespace]
	var c *claim
	if ns != nil {
		c = ns.settings.claims[key.Name]
	}
	if s == nil {
		delete(b.rangedServices, key)
		b.put(key.Key(), nil)
		b.put(key.EndpointsKey(), nil)
		b.putProblems(key, missing(c))
		return
	}
	backends := b.backends(s, ns)
	node := b.service(s, ns, c, backends)
	b.put(key.Key(), node)
	b.put(key.EndpointsKey(), endpoints(s, backends))
	b.putProblems(key, b.serviceProblems(s, ns, c, backends))
	_, public := uncovered(s.addresses, nil)
	unknown := slices.ContainsFunc(backends, func(e backend) bool { return e.pod == nil })
	mark(b.rangedServices, key, public || unknown)
}

func (b *Builder) putProblems(key ServiceKey, problems []Problem) {
	if len(problems) == 0 {
		b.put(key.problemsKey(), nil)
	} else {
		b.put(key.problemsKey(), problems)
	}
}

func (b *Builder) service(s *service, ns *namespace, c *claim, backends []backend) *Service {
	node := &Service{
		Key:        s.key,
		Addresses:  s.addresses,
		Meshed:     ns.settings.node.Meshed,
		Identities: b.identities(s, backends),
	}
	for _, p := range s.ports {
		node.Ports = append(node.Ports, Port{p.name, p.number, portProtocol(p, c), ns.settings.targetMode(p)})
	}
	if c != nil {
		node.Versions, node.Routes, node.Mesh = c.versions, c.routes, c.origin()
	}
	return node
}

// targetMode returns the mode of the pods' port behind a Service's port. A named one may be another number in each pod.
func (s *settings) targetMode(p servicePort) v1alpha1.MTLSMode {
	if p.target.Type == intstr.String {
		return s.lenientMode()
	}
	if number, ok := portNumber(p.target.IntVal); ok {
		return s.mode(number)
	}
	return s.mode(p.number)
}

// identities are the SPIFFE IDs of the Service's pods, ready or not.
func (b *Builder) identities(s *service, backends []backend) []string {
	var ids []string
	for _, e := range backends {
		if e.pod != nil {
			ids = append(ids, fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", b.wide.domain, s.key.Namespace, e.pod.account))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// missing are the problems of a claim on a Service that does not exist.
func missing(c *claim) []Problem {
	if c == nil {
		return nil
	}
	return []Problem{c.problem(c.field+".name", v1alpha1.ConditionResolvedRefs, ReasonServiceNotFound,
		"namespace %s has no Service %s; create it, or remove or correct this entry", c.mesh.namespace, c.service)}
}

func (b *Builder) serviceProblems(s *service, ns *namespace, c *claim, backends []backend) []Problem {
	if !ns.settings.node.Meshed {
		return nil
	}
	problems := b.strayProblems(s, c, backends)
	if c == nil {
		return problems
	}
	problems = append(problems, c.routeProblems(s)...)
	problems = append(problems, b.portProblems(s, c, backends)...)
	for i, v := range c.versions {
		if !slices.ContainsFunc(backends, func(e backend) bool { return e.pod != nil && includes(e.pod.labels, v.Labels) }) {
			p := c.problem(fmt.Sprintf("%s.versions[%d].labels", c.field, i), v1alpha1.ConditionResolvedRefs, ReasonVersionWithoutPods,
				"no pod of Service %s has the labels of version %s (%s), so requests for it fail; compare with kubectl get pods -n %s --show-labels",
				s.key.Name, v.Name, labelText(v.Labels), s.key.Namespace)
			p.Fatal = false
			problems = append(problems, p)
		}
	}
	return problems
}

// strayProblems are about addresses: endpoints that are not the namespace's own, and cluster IPs that nobody asks about.
// They are told to the Mesh that claims the Service; the origin is empty when none does.
func (b *Builder) strayProblems(s *service, c *claim, backends []backend) []Problem {
	var origin resource.Origin
	if c != nil {
		origin = c.origin()
	}
	var problems []Problem
	if a, out := uncovered(s.addresses, b.wide.ranges); out {
		problems = append(problems, outsideRanges(origin, fmt.Sprintf("Service %s has the public address %s", s.key.Name, a), "serviceRanges"))
	}
	if text := strayText(s, backends); text != "" {
		problems = append(problems, Problem{origin, v1alpha1.ConditionResolvedRefs, ReasonForeignEndpoint, text, false})
	}
	return problems
}

// strayText names the first endpoint that can't be the Service's, and counts the others.
func strayText(s *service, backends []backend) string {
	text, more := "", 0
	for _, e := range backends {
		switch {
		case e.stray == "":
		case text != "":
			more++
		default:
			address := e.special
			if address == "" {
				address = e.address.String()
			}
			text = fmt.Sprintf("EndpointSlice %s of Service %s lists %s, which %s; it is left out, remove it there", e.slice, s.key.Name, address, e.stray)
		}
	}
	if more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

func (c *claim) routeProblems(s *service) []Problem {
	if len(c.routes) == 0 {
		return nil
	}
	if len(s.addresses) == 0 {
		return []Problem{c.problem(c.field+".routes", v1alpha1.ConditionAccepted, ReasonNoClusterIP,
			"Service %s has no cluster IP, so its clients call pods or outside hosts themselves and follow no rules; "+
				"give it one (clusterIP is not None, type is not ExternalName) or remove the rules", s.key.Name)}
	}
	for _, p := range s.ports {
		if portProtocol(p, c) != TCP {
			return nil
		}
	}
	return []Problem{c.problem(c.field+".routes", v1alpha1.ConditionAccepted, ReasonProtocolMismatch,
		"rules are for HTTP, and Service %s has no port that speaks it (%s); declare one in %s.ports or remove the rules",
		s.key.Name, portText(s), c.field)}
}

// portProblems are about what the claim says of the Service's ports.
func (b *Builder) portProblems(s *service, c *claim, backends []backend) []Problem {
	var problems []Problem
	for _, number := range c.numbers {
		said := c.ports[number]
		i := s.port(number)
		if i < 0 {
			problems = append(problems, c.problem(said.field+".port", v1alpha1.ConditionResolvedRefs, ReasonPortNotFound,
				"Service %s has no TCP port %d; it has %s", s.key.Name, number, portText(s)))
			continue
		}
		if target, ok := b.conflict(s.ports[i], backends); ok {
			problems = append(problems, c.problem(said.field+".protocol", v1alpha1.ConditionAccepted, ReasonProtocolConflict,
				"another Service with the same pods says something else of their port %d, so their proxies detect the protocol; let both say the same", target))
		}
	}
	return problems
}

// conflict returns a port of the pods behind a Service's port of which Services say different things.
func (b *Builder) conflict(p servicePort, backends []backend) (uint16, bool) {
	for _, e := range backends {
		if target, ok := e.ports[p.number]; ok && e.pod != nil && b.conflicts[e.pod.key][target] {
			return target, true
		}
	}
	return 0, false
}

func portText(s *service) string {
	if len(s.ports) == 0 {
		return "none"
	}
	texts := make([]string, len(s.ports))
	for i, p := range s.ports {
		texts[i] = fmt.Sprint(p.number)
		if p.name != "" {
			texts[i] += " (" + p.name + ")"
		}
	}
	return strings.Join(texts, ", ")
}

func labelText(set map[string]string) string {
	texts := make([]string, 0, len(set))
	for key, value := range set {
		texts = append(texts, key+"="+value)
	}
	slices.Sort(texts)
	return strings.Join(texts, ",")
}

package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// configuration is what proxies hold, or may ask for, in one world.
type configuration struct {
	// own is what each proxy gets unasked.
	own map[model.WorkloadKey]resources
	// services is what those hold who use a Service, and pods what those hold who call pods of a namespace by their own addresses.
	services map[model.ServiceKey]resources
	pods     map[string]resources
}

type resources map[resource.Ref]*resource.Resource

// configuration compiles everything.
func (w *worlds) configuration(of *world) configuration {
	c := configuration{own: map[model.WorkloadKey]resources{}, services: map[model.ServiceKey]resources{}, pods: map[string]resources{}}
	reader := of.snapshot.Reader()
	anyone := &resource.Proxy{Minor: minor(reader.MeshWide().EnvoyImage)}
	for _, o := range of.state {
		s, ok := o.(*corev1.Service)
		if !ok {
			continue
		}
		key := model.ServiceKey{Namespace: s.Namespace, Name: s.Name}
		c.services[key] = resources{}
		if node := reader.Service(key); node != nil {
			for _, a := range node.Addresses {
				for _, p := range node.Ports {
					c.services[key].hold(of.view, anyone, at(a, p.Number)...)
				}
			}
		}
	}
	for _, namespace := range of.snapshot.Namespaces() {
		c.pods[namespace] = resources{}
		for _, p := range of.snapshot.Workloads(namespace) {
			if p.Meshed {
				proxy := *anyone
				proxy.Namespace, proxy.Pod, proxy.UID, proxy.ServiceAccount, proxy.Owner = namespace, p.Key.Name, p.UID, p.ServiceAccount, p.Owner
				c.own[p.Key] = resources{}
				c.own[p.Key].hold(of.view, &proxy, resource.Ref{Type: resource.Bundle, Name: compile.ProxyBundle})
			}
			for _, a := range p.Addresses {
				if reader.Address(netip.AddrPortFrom(a, 1)).Kind != model.PodAddress {
					continue // a node's, or another pod's by now
				}
				for _, port := range p.Ports {
					c.pods[namespace].hold(of.view, anyone, at(a, port.Number)...)
				}
			}
		}
	}
	return c
}

// at names what a proxy asks for when its app calls an address.
func at(a netip.Addr, port uint16) []resource.Ref {
	address := netip.AddrPortFrom(a, port).String()
	return []resource.Ref{{Type: resource.Cluster, Name: "http|" + address}, {Type: resource.Cluster, Name: "tcp|" + address}}
}

// hold adds resources with all that belongs to them.
func (r resources) hold(view resource.View, p *resource.Proxy, refs ...resource.Ref) {
	for _, ref := range refs {
		if _, held := r[ref]; held {
			continue
		}
		made, _ := view.Resource(p, ref)
		if made == nil {
			continue
		}
		r[ref] = made
		r.hold(view, p, made.Needs...)
		r.hold(view, p, made.Warms...)
	}
}

// differences are the resources, sorted, that differ from those before; bundles are never sent.
func (r resources) differences(before resources) []resource.Ref {
	var refs []resource.Ref
	for ref, made := range r {
		if was := before[ref]; ref.Type != resource.Bundle && (was == nil || was.Version != made.Version) {
			refs = append(refs, ref)
		}
	}
	for ref := range before {
		if r[ref] == nil && ref.Type != resource.Bundle {
			refs = append(refs, ref)
		}
	}
	slices.SortFunc(refs, compareRefs)
	return refs
}

func compareRefs(a, b resource.Ref) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name))
}

// changes gathers what differs.
type changes struct {
	// own counts, by namespace, proxies and names what they get.
	own     map[string]*OwnChange
	proxies Proxies
	// texts are the differences that are the same for several proxies.
	texts map[text]int
	envoy []Resource
	show  bool
}

// text identifies one difference.
type text struct {
	ref           resource.Ref
	namespace     string
	before, after *resource.Resource
}

// compare says which proxies are touched and, if it is asked for, by what.
func compare(before, after configuration, show bool) (Proxies, []Resource) {
	c := changes{own: map[string]*OwnChange{}, texts: map[text]int{}, show: show}
	c.proxies.Total = len(after.own)
	for _, key := range slices.SortedFunc(maps.Keys(after.own), compareWorkloads) {
		if was, ran := before.own[key]; ran {
			c.addOwn(key, was, after.own[key])
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(c.own)) {
		c.proxies.Own = append(c.proxies.Own, *c.own[namespace])
	}
	if c.proxies.Total > 0 {
		for _, key := range slices.SortedFunc(maps.Keys(before.services), compareServices) {
			c.addService(key.Namespace, key.Name, before.services[key], after.services[key])
		}
		for _, namespace := range slices.Sorted(maps.Keys(before.pods)) {
			c.addService(namespace, "", before.pods[namespace], after.pods[namespace])
		}
	}
	c.addTexts()
	return c.proxies, c.envoy
}

func (c *changes) addOwn(key model.WorkloadKey, before, after resources) {
	refs := after.differences(before)
	if len(refs) == 0 {
		return
	}
	own := c.own[key.Namespace]
	if own == nil {
		own = &OwnChange{Namespace: key.Namespace}
		c.own[key.Namespace] = own
	}
	own.Proxies++
	for _, ref := range refs {
		if !slices.Contains(own.Resources, ref.String()) {
			own.Resources = append(own.Resources, ref.String())
		}
		// Resources of equal bytes are the same text.
		t := text{ref, key.Namespace, before[ref], after[ref]}
		for other := range c.texts {
			if other.ref == ref && other.namespace == t.namespace && sameVersion(other.before, t.before) && sameVersion(other.after, t.after) {
				t = other
				break
			}
		}
		c.texts[t]++
	}
}

func sameVersion(a, b *resource.Resource) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Version == b.Version
}

// addService adds what changes for those who use a Service. What is new for an address that nobody held before is no change for anybody.
func (c *changes) addService(namespace, name string, before, after resources) {
	refs := after.differences(before)
	if len(before) == 0 || len(refs) == 0 {
		return
	}
	if name == "" {
		// A pod that is new is held by nobody, and one that is gone is of no use to anybody.
		refs = slices.DeleteFunc(refs, func(ref resource.Ref) bool { return before[ref] == nil || after[ref] == nil })
		if len(refs) == 0 {
			return
		}
	}
	change := ServiceChange{Namespace: namespace, Name: name}
	of := "Service " + namespace + "/" + name
	if name == "" {
		of = "addresses of pods in " + namespace
	}
	for _, ref := range refs {
		change.Resources = append(change.Resources, ref.String())
		if c.show {
			shared := difference(text{ref, namespace, before[ref], after[ref]}, of, 0)
			shared.AtMost = c.proxies.Total
			c.envoy = append(c.envoy, shared)
		}
	}
	c.proxies.Services = append(c.proxies.Services, change)
}

// addTexts shows what proxies get unasked, before all else.
func (c *changes) addTexts() {
	if !c.show {
		return
	}
	var own []Resource
	for t, n := range c.texts {
		own = append(own, difference(t, "proxies of "+t.namespace, n))
	}
	slices.SortFunc(own, func(a, b Resource) int {
		return cmp.Or(strings.Compare(a.Of, b.Of), strings.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name), strings.Compare(a.Diff, b.Diff))
	})
	c.envoy = append(own, c.envoy...)
}

func difference(t text, of string, proxies int) Resource {
	r := Resource{Type: t.ref.Type.String(), Name: t.ref.Name, Of: of, Proxies: proxies, Action: Update}
	switch {
	case t.before == nil:
		r.Action = Create
	case t.after == nil:
		r.Action = Delete
	}
	if t.ref.Type != resource.Secret {
		r.Diff = unified(lines(t.before), lines(t.after))
	}
	return r
}

// lines are those of the YAML of a resource.
func lines(r *resource.Resource) []string {
	if r == nil || r.Body() == nil {
		return nil
	}
	m, err := r.Body().UnmarshalNew()
	if err != nil {
		return []string{err.Error()}
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return []string{err.Error()}
	}
	var body any
	if err := json.Unmarshal(raw, &body); err != nil {
		return []string{err.Error()}
	}
	out, err := yaml.Marshal(body)
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

var version = regexp.MustCompile(`v1\.([0-9]+)\.`)

// minor is the minor version of an Envoy image, by its tag; the newest that is compiled for when the tag does not say it.
func minor(image string) uint32 {
	const newest = 1 << 16
	if m := version.FindStringSubmatch(image); m != nil {
		if n, err := strconv.ParseUint(m[1], 10, 16); err == nil {
			return uint32(n)
		}
	}
	return newest
}

func compareServices(a, b model.ServiceKey) int {
	return strings.Compare(fmt.Sprint(a.Namespace, "/", a.Name), fmt.Sprint(b.Namespace, "/", b.Name))
}

func compareWorkloads(a, b model.WorkloadKey) int {
	return strings.Compare(fmt.Sprint(a.Namespace, "/", a.Name), fmt.Sprint(b.Namespace, "/", b.Name))
}

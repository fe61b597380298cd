package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// TestScripts plays streams of one proxy from text; `go test ./internal/xds -rewrite` records the outputs anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		p := &player{t: t, view: newTestView(), now: time.Unix(0, 0)}
		datadriven.RunTest(t, path, p.run)
	})
}

// player plays a script:
//
//	view                      lines: <type> <name> <version> [needs=<type>:<name>,…] [warms=…] [last=true] [hold=<duration>] [from=<kind>/<ns>/<name>]
//	                          or - <type> <name>; all else stays as it was
//	connect                   a new stream, of a proxy that holds what its requests announce
//	request <type>            lines: +<name> -<name> =<name>@<version> (announced)
//	ack [<nonce>]             of the nonce, or of all outstanding in order
//	nack <nonce>              lines: Envoy's text
//	learn                     lines: +<name> -<name>
//	certificate <version>
//	tick <duration>
//	state                     what a status would say of it
//	limited                   how much was over a limit since the last time
//	trusts                    whether it holds the view's trust bundle
type player struct {
	t       *testing.T
	view    *testView
	session *session
	now     time.Time
	next    time.Time
	// sent are the stream's responses, in order.
	sent, unanswered []*response
}

func (p *player) run(_ *testing.T, d *datadriven.TestData) string {
	var arg string
	if len(d.CmdArgs) > 0 {
		arg = d.CmdArgs[0].Key
	}
	switch d.Cmd {
	case "view":
		view, changed := p.view.with(d.Input)
		p.view = view
		if p.session == nil {
			return ""
		}
		p.session.update(view, changed)
	case "connect":
		p.session = newSession(&resource.Proxy{Namespace: "shop", Pod: "cart", Minor: 40}, p.view, bounds{names: 20, asked: 4, others: 3}, 10*time.Second)
		p.sent, p.unanswered = nil, nil
	case "request":
		asks, err := p.session.request(scriptRequest(arg, d.Input))
		if err != nil {
			return err.Error()
		}
		return p.flush() + prefixed("asks ", asks)
	case "ack":
		p.ack(arg, nil)
	case "nack":
		p.ack(arg, &statuspb.Status{Code: 13, Message: strings.ReplaceAll(d.Input, `\n`, "\n")})
	case "learn":
		p.session.learn(scriptLearnings(d.Input))
	case "certificate":
		p.session.provide(testResource(workload, arg))
	case "tick":
		by, err := time.ParseDuration(arg)
		if err != nil {
			p.t.Fatal(err)
		}
		p.now = p.now.Add(by)
	case "state":
		return p.state()
	case "limited":
		return p.limited()
	case "trusts":
		return fmt.Sprintln(p.session.trusting())
	default:
		p.t.Fatalf("unknown command %q", d.Cmd)
	}
	return p.flush()
}

func (p *player) flush() string {
	var b strings.Builder
	out, next := p.session.flush(p.now)
	for _, r := range out {
		p.sent, p.unanswered = append(p.sent, r), append(p.unanswered, r)
		fmt.Fprintf(&b, "%s %s", r.message.Nonce, r.kind)
		for _, res := range r.message.Resources {
			fmt.Fprintf(&b, " %s@%s", res.Name, res.Version)
		}
		for _, name := range r.message.RemovedResources {
			fmt.Fprintf(&b, " -%s", name)
		}
		b.WriteString("\n")
	}
	if next != p.next && !next.IsZero() {
		fmt.Fprintf(&b, "again at %s\n", next.Sub(time.Unix(0, 0)))
	}
	p.next = next
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

// ack answers one response, perhaps again, or all that are unanswered.
func (p *player) ack(nonce string, detail *statuspb.Status) {
	answer := p.unanswered
	if nonce != "" {
		i := slices.IndexFunc(p.sent, func(r *response) bool { return r.message.Nonce == nonce })
		if i < 0 {
			p.t.Fatalf("nonce %s was never sent", nonce)
		}
		answer = []*response{p.sent[i]}
	}
	for _, r := range answer {
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.message.TypeUrl, ResponseNonce: r.message.Nonce, ErrorDetail: detail}
		if _, err := p.session.request(req); err != nil {
			p.t.Fatal(err)
		}
	}
	answered := slices.Clone(answer)
	p.unanswered = slices.DeleteFunc(p.unanswered, func(r *response) bool { return slices.Contains(answered, r) })
}

func (p *player) limited() string {
	var b strings.Builder
	for l, n := range p.session.takeLimited() {
		if n > 0 {
			fmt.Fprintf(&b, "%s %d\n", limit(l), n)
		}
	}
	return b.String()
}

func (p *player) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "synced %v\n", p.session.synced())
	if pending := p.session.pending(); pending.Count > 0 {
		fmt.Fprintf(&b, "pending %d: %v\n", pending.Count, pending.Refs)
	}
	for _, r := range p.session.rejections() {
		fmt.Fprintf(&b, "rejected %s@%s %v: %q\n", r.Ref, r.Version, r.Origins, r.Message)
	}
	held := map[resource.Type][]string{}
	for _, e := range p.session.entries {
		if e.version != "" {
			held[e.ref.Type] = append(held[e.ref.Type], e.ref.Name+"@"+e.version)
		}
	}
	for _, t := range slices.Sorted(maps.Keys(held)) {
		slices.Sort(held[t])
		fmt.Fprintf(&b, "holds %s %s\n", t, strings.Join(held[t], " "))
	}
	return b.String()
}

func prefixed(prefix string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return prefix + strings.Join(names, " ") + "\n"
}

func scriptRequest(kind, input string) *discoveryv3.DeltaDiscoveryRequest {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: scriptType(kind).URL(), InitialResourceVersions: map[string]string{}}
	for _, line := range strings.Fields(input) {
		switch name := line[1:]; line[0] {
		case '+':
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, name)
		case '-':
			req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, name)
		case '=':
			name, version, _ := strings.Cut(name, "@")
			req.InitialResourceVersions[name] = version
		}
	}
	return req
}

func scriptLearnings(input string) []learning {
	var out []learning
	for _, line := range strings.Fields(input) {
		out = append(out, learning{line[1:], line[0] == '+'})
	}
	return out
}

func scriptType(name string) resource.Type {
	for t := resource.Bundle; t <= resource.VirtualHost; t++ {
		if t.String() == name {
			return t
		}
	}
	panic("unknown type " + name)
}

// testView is a view made by hand.
type testView struct {
	revision  uint64
	resources map[resource.Ref]*resource.Resource
}

func newTestView() *testView { return &testView{resources: map[resource.Ref]*resource.Resource{}} }

func (v *testView) Revision() uint64 { return v.revision }

func (v *testView) Resource(p *resource.Proxy, ref resource.Ref) (*resource.Resource, resource.ScopedRef) {
	return v.resources[ref], testScope(p, ref)
}

func testScope(p *resource.Proxy, ref resource.Ref) resource.ScopedRef {
	scope := resource.Scope{Minor: p.Minor}
	if ref == proxyBundle || ref.Type == resource.Listener {
		scope.Pod = p.Namespace + "/" + p.Pod
	}
	return resource.ScopedRef{Scope: scope, Ref: ref}
}

// with returns the next view, and what changed in it.
func (v *testView) with(input string) (*testView, []resource.Ref) {
	next := &testView{revision: v.revision + 1, resources: maps.Clone(v.resources)}
	var changed []resource.Ref
	for line := range strings.Lines(input) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if fields[0] == "-" {
			ref := resource.Ref{Type: scriptType(fields[1]), Name: fields[2]}
			delete(next.resources, ref)
			changed = append(changed, ref)
			continue
		}
		r := testResource(resource.Ref{Type: scriptType(fields[0]), Name: fields[1]}, fields[2])
		for _, field := range fields[3:] {
			key, value, _ := strings.Cut(field, "=")
			switch key {
			case "hold":
				hold, err := time.ParseDuration(value)
				if err != nil {
					panic(err)
				}
				r.Hold = hold
			case "needs":
				r.Needs = scriptRefs(value)
			case "warms":
				r.Warms = scriptRefs(value)
			case "last":
				r.Last = value == "true"
			case "from":
				from := strings.Split(value, "/")
				r.Origins = []resource.Origin{{Kind: from[0], Namespace: from[1], Name: from[2]}}
			}
		}
		next.resources[r.Ref] = r
		changed = append(changed, r.Ref)
	}
	return next, changed
}

func scriptRefs(list string) []resource.Ref {
	var refs []resource.Ref
	for _, s := range strings.Split(list, ",") {
		kind, name, _ := strings.Cut(s, ":")
		refs = append(refs, resource.Ref{Type: scriptType(kind), Name: name})
	}
	return refs
}

func testResource(ref resource.Ref, version string) *resource.Resource {
	r := resource.Resource{Ref: ref, Version: version}
	if ref.Type == resource.Bundle {
		return &r
	}
	return resource.WithBody(r, &anypb.Any{TypeUrl: ref.Type.URL(), Value: []byte(version)})
}

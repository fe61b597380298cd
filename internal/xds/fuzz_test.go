package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// FuzzSession feeds the core of a stream with whatever a proxy may send, in any order, while views, learned names, certificates and
// time change, and checks after every step that its account is right and its bounds hold. In the end it acknowledges everything
// and refuses everything: both come to rest.
func FuzzSession(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00\x01\x00\x00\x00\x00\x00\x00\x08\x09\x09\x05\x09\x0a"))
	for seed := range 20 {
		w := newWorld(nil, uint64(seed))
		ops := make([]byte, 200)
		for i := range ops {
			ops[i] = byte(w.rand.IntN(256))
		}
		f.Add(ops)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		z := newFuzzer(t, input)
		for len(z.input) > 0 {
			z.act()
			z.flush()
		}
		z.rest("acknowledged", nil)
		z.change()
		z.rest("refused", &statuspb.Status{Message: "no"})
	})
}

// fuzzer is a session and the bytes that say what happens to it.
type fuzzer struct {
	*world
	input []byte
	// open are the responses that are not answered, done some that are.
	open, done []*response
}

func newFuzzer(t *testing.T, input []byte) *fuzzer {
	z := &fuzzer{world: newWorld(t, 1), input: input}
	z.watched = map[resource.ScopedRef]bool{}
	z.change()
	z.session = newSession(&resource.Proxy{Namespace: "shop", Pod: "cart", Minor: 40}, z.view, bounds{names: 12, asked: 5, others: 3}, 10*time.Second)
	return z
}

// byte takes the next byte; 0 when there is none left.
func (z *fuzzer) byte() int {
	if len(z.input) == 0 {
		return 0
	}
	b := z.input[0]
	z.input = z.input[1:]
	return int(b)
}

func (z *fuzzer) act() {
	switch z.byte() % 12 {
	case 0, 1, 2, 3:
		z.send(z.request())
	case 4:
		z.change()
	case 5:
		name := fmt.Sprint("q", z.byte()%4)
		z.session.learn([]learning{{name, !z.learned[name]}})
		z.learned[name] = !z.learned[name]
	case 6:
		z.session.provide(testResource(workload, fmt.Sprint("cert", z.byte()%3)))
	case 7:
		z.now = z.now.Add(time.Duration(z.byte()%12) * time.Second)
	case 8, 9, 10:
		z.answer(z.byte(), nil)
	case 11:
		z.answer(z.byte(), &statuspb.Status{Message: z.complaint()})
	}
}

// request makes any request.
func (z *fuzzer) request() *discoveryv3.DeltaDiscoveryRequest {
	kind := resource.Cluster + resource.Type(z.byte()%6)
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: kind.URL(), InitialResourceVersions: map[string]string{}}
	if z.byte()%50 == 49 {
		req.TypeUrl = "type.googleapis.com/what"
	}
	for range z.byte() % 5 {
		req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, z.anyName())
	}
	for range z.byte() % 4 {
		req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, z.anyName())
	}
	for range z.byte() % 4 {
		name := z.anyName()
		req.InitialResourceVersions[name] = "of before"
		if r := z.view.resources[resource.Ref{Type: kind, Name: name}]; r != nil && z.byte()%2 == 0 {
			req.InitialResourceVersions[name] = r.Version
		}
	}
	switch z.byte() % 4 {
	case 1:
		req.ResponseNonce = "made up"
	case 2:
		if len(z.done) > 0 {
			req.ResponseNonce = z.done[z.byte()%len(z.done)].message.Nonce
		}
	case 3:
		if len(z.open) > 0 { // Of another type, perhaps.
			req.ResponseNonce = z.open[z.byte()%len(z.open)].message.Nonce
		}
	}
	if z.byte()%4 == 3 {
		req.ErrorDetail = &statuspb.Status{Message: z.complaint()}
	}
	return req
}

func (z *fuzzer) anyName() string {
	prefixes := []string{"q", "r", "e", "s", "l", "v", "unknown"}
	b := z.byte()
	switch {
	case b == 255:
		return wildcard
	case b == 254:
		return ""
	case b == 253:
		return workload.Name
	case b == 252:
		return strings.Repeat("long", 1000)
	default:
		return fmt.Sprint(prefixes[b%len(prefixes)], b/len(prefixes)%4)
	}
}

func (z *fuzzer) complaint() string {
	switch z.byte() % 3 {
	case 0:
		return "no"
	case 1:
		return "Error adding/updating cluster(s) " + z.anyName() + ": no, " + z.anyName() + ": no"
	default:
		return "Error adding/updating listener(s) " + z.anyName() + ": no\n"
	}
}

// answer acknowledges, or refuses, one of the responses.
func (z *fuzzer) answer(which int, detail *statuspb.Status) {
	if len(z.open) == 0 {
		return
	}
	r := z.open[which%len(z.open)]
	z.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.message.TypeUrl, ResponseNonce: r.message.Nonce, ErrorDetail: detail})
}

func (z *fuzzer) send(req *discoveryv3.DeltaDiscoveryRequest) {
	asks, err := z.session.request(req)
	if err != nil && reasonOf(err) != "unacknowledged" {
		z.t.Fatalf("the stream ends: %v", err)
	}
	if len(asks) > len(req.GetResourceNamesSubscribe()) {
		z.t.Fatalf("%d asks of %d names", len(asks), len(req.GetResourceNamesSubscribe()))
	}
	z.open = slices.DeleteFunc(z.open, func(r *response) bool {
		answered := z.session.sent[r.message.Nonce] != r
		if answered {
			z.done = append(z.done, r)
		}
		return answered
	})
	z.check()
}

// flush takes what is due and checks each response.
func (z *fuzzer) flush() int {
	var out []*response
	out, z.next = z.session.flush(z.now)
	for _, r := range out {
		if !z.session.types[r.kind].started {
			z.t.Fatalf("%s is sent before it was asked for", r.kind)
		}
		for _, name := range r.message.RemovedResources {
			if z.session.subscribed(resource.Ref{Type: r.kind, Name: name}) {
				z.t.Fatalf("%s %s is removed though the proxy has asked for it", r.kind, name)
			}
		}
		for _, res := range r.message.Resources {
			if e := z.session.entries[resource.Ref{Type: r.kind, Name: res.Name}]; e == nil || !e.subscribed && !z.session.types[r.kind].wildcard {
				z.t.Fatalf("%s %s is sent to a proxy that did not ask for it", r.kind, res.Name)
			}
		}
	}
	z.open = append(z.open, out...)
	z.check()
	return len(out)
}

// rest answers everything in the same way, and lets time pass, until nothing more is sent.
func (z *fuzzer) rest(how string, detail *statuspb.Status) {
	responses := len(z.open) + z.flush()
	for quiet := 0; quiet < 3; {
		if len(z.open) > 0 {
			z.answer(0, detail)
			quiet = 0
		} else {
			z.now = z.now.Add(2 * z.session.linger)
			quiet++
		}
		if responses += z.flush(); responses > 2000 {
			z.t.Fatalf("no rest after %d responses that were all %s", responses, how)
		}
	}
}

// check compares the session's account with what follows from its parts.
func (z *fuzzer) check() {
	s := z.session
	wants := map[resource.Ref]int{proxyBundle: 1}
	for name := range s.learned {
		wants[resource.Ref{Type: resource.Bundle, Name: name}]++
	}
	var names [resource.VirtualHost + 1]int
	for ref, e := range s.entries {
		if e.ref != ref {
			z.t.Fatalf("%s is kept as %s", e.ref, ref)
		}
		if e.subscribed {
			names[ref.Type]++
			wants[ref]++
		}
		if e.wants > 0 && e.cur != nil {
			for _, need := range e.cur.Needs {
				wants[need]++
			}
		}
		for i, former := range e.former {
			if wants[former]++; slices.Contains(e.former[:i], former) {
				z.t.Fatalf("%s counts twice what it needed before: %v", ref, e.former)
			}
		}
		if _, changing := s.changing[e]; changing != (len(e.former) > 0) {
			z.t.Fatalf("%s needed %v before, and is changing: %v", ref, e.former, changing)
		}
	}
	for ref, e := range s.entries {
		if e.wants != wants[ref] {
			z.t.Fatalf("%s is wanted %d times, want %d", ref, e.wants, wants[ref])
		}
		delete(wants, ref)
	}
	if len(wants) > 0 {
		z.t.Fatalf("there is no account of %v", slices.Collect(maps.Keys(wants)))
	}
	for kind := range s.types {
		if s.types[kind].names != names[kind] || names[kind] > s.bounds.names {
			z.t.Fatalf("%d names of %s are counted, %d are there, the limit is %d", s.types[kind].names, resource.Type(kind), names[kind], s.bounds.names)
		}
		for e := range s.types[kind].pending {
			if s.entries[e.ref] != e || e.wants == 0 {
				z.t.Fatalf("%s is pending and not wanted", e.ref)
			}
		}
	}
	for kind := range s.types {
		for e := range s.types[kind].absent {
			if _, both := s.types[kind].pending[e]; both || s.entries[e.ref] != e || e.wants == 0 {
				z.t.Fatalf("%s is absent, and pending, forgotten or not wanted", e.ref)
			}
		}
	}
	for e := range s.leaving {
		if s.entries[e.ref] != e || e.wants > 0 {
			z.t.Fatalf("%s is leaving and wanted, or forgotten", e.ref)
		}
	}
	for e := range s.rejected {
		if s.entries[e.ref] != e || e.rejection == nil {
			z.t.Fatalf("%s is among the rejected ones and was not", e.ref)
		}
	}
	z.checkBounds()
}

func (z *fuzzer) checkBounds() {
	s := z.session
	// Beyond what the proxy makes up: what the view has for it, 30 resources.
	if limit := maxEntries*s.bounds.names + 40; len(s.entries) > limit {
		z.t.Fatalf("%d entries, the limit is %d", len(s.entries), limit)
	}
	// One request can bring many responses, but no more than there are names.
	if limit := maxUnanswered*s.bounds.names + 200; len(s.sent) > limit {
		z.t.Fatalf("%d responses are open, the limit is %d", len(s.sent), limit)
	}
	z.watch()
	watched := 0
	for _, e := range s.entries {
		if e.watched {
			watched++
			if !z.watched[e.key()] {
				z.t.Fatalf("%s is watched, and the server was not told", e.ref)
			}
		}
	}
	for key, is := range z.watched {
		if is {
			watched--
		} else {
			delete(z.watched, key)
		}
	}
	if watched != 0 {
		z.t.Fatalf("the server was told of %d watches more than there are", -watched)
	}
}

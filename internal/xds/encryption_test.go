package xds

import (
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// listener is an inbound listener with a TLS chain and these open ports, which needs the peers' secret.
func listener(t *testing.T, open ...uint32) *resource.Resource {
	t.Helper()
	l := &listenerv3.Listener{Name: "inbound", FilterChains: []*listenerv3.FilterChain{{TransportSocket: &corev3.TransportSocket{Name: "tls"}}}}
	for _, port := range open {
		match := &listenerv3.FilterChainMatch{}
		if port != 0 {
			match.DestinationPort = wrapperspb.UInt32(port)
		}
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{FilterChainMatch: match})
	}
	r, err := resource.Seal(inbound, l, resource.Resource{
		Needs: []resource.Ref{{Type: resource.Cluster, Name: "inbound"}},
		Warms: []resource.Ref{{Type: resource.Secret, Name: "peers"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What counts is what Envoy works with: not what was sent, not what still warms.
func TestEncryptionIsWhatTheProxyWorksWith(t *testing.T) {
	view := newTestView()
	publish := func(l *resource.Resource) *testView {
		next, _ := view.with("bundle proxy " + l.Version + " needs=listener:inbound,cluster:inbound\ncluster inbound 1\nsecret peers 1")
		next.resources[inbound] = l
		return next
	}
	p := &player{t: t, view: publish(listener(t, 80, 0, 80)), now: time.Unix(0, 0)}
	p.run(t, &datadriven.TestData{Cmd: "connect"})
	request := func(kind, lines string) {
		t.Helper()
		if _, err := p.session.request(scriptRequest(kind, lines)); err != nil {
			t.Fatal(err)
		}
		p.flush()
	}
	want := func(what string, listening bool, expires time.Time, ports ...uint16) {
		t.Helper()
		e := p.session.encryption()
		if e.Listening != listening || !slices.Equal(e.PlaintextPorts, ports) || !e.CertificateExpires.Equal(expires) {
			t.Errorf("%s: %+v, want listening %v, %v, expires %s", what, e, listening, ports, expires)
		}
	}
	want("nothing sent", false, time.Time{})
	request("cluster", "")
	p.ack("", nil)
	request("listener", "")
	want("sent", false, time.Time{})
	p.ack("", nil)
	want("acknowledged for the first time", true, time.Time{}, 0, 80)
	request("secret", "+peers +workload")
	noon := time.Unix(1e9, 0)
	p.session.provide(resource.WithBody(resource.Resource{Ref: workload, Version: "1", Expires: noon}, testResource(workload, "1").Body()))
	p.flush()
	want("certificate sent", true, time.Time{}, 0, 80)
	p.ack("", nil)
	want("certificate acknowledged", true, noon, 0, 80)

	// Strict: until its new listener has the secrets that it warms with, Envoy works with the old one.
	p.view = publish(listener(t))
	p.view.resources[inbound].Warms = []resource.Ref{{Type: resource.Secret, Name: "stricter"}}
	p.view.resources[resource.Ref{Type: resource.Secret, Name: "stricter"}] = testResource(resource.Ref{Type: resource.Secret, Name: "stricter"}, "1")
	p.session.update(p.view, []resource.Ref{inbound})
	p.flush()
	want("Strict sent", true, noon, 0, 80)
	p.ack("", nil)
	want("Strict warming", true, noon, 0, 80)
	request("secret", "+stricter")
	p.ack("", nil)
	want("Strict", true, noon)
}

package envoy

import (
	"encoding/json"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Plaintext returns what the proxy of a pod reported of who connects without mTLS; nothing while the control plane is away.
func (w *World) Plaintext(pod string) xds.PlaintextReport {
	w.t.Helper()
	name := w.Pod(pod).name()
	if w.replica != nil {
		for _, r := range w.replica.server.Plaintext() {
			if r.Proxy.Namespace+"/"+r.Proxy.Pod == name {
				return r
			}
		}
	}
	return xds.PlaintextReport{}
}

// PlaintextMessages returns the number of messages in which all proxies reported to the control plane.
func (w *World) PlaintextMessages() int {
	w.t.Helper()
	families, err := w.replica.metrics.Gather()
	w.check(err)
	for _, f := range families {
		if f.GetName() == "tulle_xds_plaintext_messages_total" {
			return int(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	w.t.Fatal("the control plane has no such metric")
	return 0
}

// Encryption returns what the proxy of a pod has acknowledged of what encrypts its traffic.
func (w *World) Encryption(pod string) xds.Encryption {
	w.t.Helper()
	name := w.Pod(pod).name()
	for _, s := range w.replica.server.Proxies() {
		if s.Proxy.Namespace+"/"+s.Proxy.Pod == name {
			return s.Encryption
		}
	}
	w.t.Fatalf("the proxy of %s is not connected", name)
	return xds.Encryption{}
}

// OpenChains returns the names of the filter chains without a transport socket of the inbound listener that the pod's Envoy works with.
func (p *Pod) OpenChains() []string {
	p.w.t.Helper()
	var dump struct {
		Configs []struct {
			Listeners []struct {
				Name   string `json:"name"`
				Active struct {
					Listener struct {
						Chains []struct {
							Name   string          `json:"name"`
							Socket json.RawMessage `json:"transport_socket"`
						} `json:"filter_chains"`
					} `json:"listener"`
				} `json:"active_state"`
			} `json:"dynamic_listeners"`
		} `json:"configs"`
	}
	p.w.check(json.Unmarshal([]byte(p.Admin("GET", "/config_dump")), &dump))
	open, seen := []string{}, 0
	for _, c := range dump.Configs {
		for _, l := range c.Listeners {
			if l.Name != "inbound" {
				continue
			}
			for _, chain := range l.Active.Listener.Chains {
				seen++
				if chain.Socket == nil {
					open = append(open, chain.Name)
				}
			}
		}
	}
	if seen == 0 {
		p.w.t.Fatalf("%s works with no inbound listener", p.name())
	}
	return open
}

// Hurried is a ViewWrapper that has proxies report plaintext connections after a fifth of a second, and those that last each half
// second, instead of the product's 5 s and 30 s.
func Hurried(v resource.View) resource.View { return hurried{v} }

type hurried struct{ resource.View }

func (h hurried) Resource(p *resource.Proxy, ref resource.Ref) (*resource.Resource, resource.ScopedRef) {
	r, scoped := h.View.Resource(p, ref)
	if r == nil || r.Type != resource.Listener || r.Name != "inbound" {
		return r, scoped
	}
	hurry, err := hurryListener(r)
	if err != nil {
		panic(err) // the harness can't read the product's listener
	}
	return hurry, scoped
}

func hurryListener(r *resource.Resource) (*resource.Resource, error) {
	var l listenerv3.Listener
	if err := r.Body().UnmarshalTo(&l); err != nil {
		return nil, err
	}
	text, err := protojson.Marshal(&l)
	if err != nil {
		return nil, err
	}
	text = []byte(strings.NewReplacer(`"30s"`, `"0.5s"`, `"bufferFlushInterval":"5s"`, `"bufferFlushInterval":"0.2s"`,
		`"bufferFlushInterval": "5s"`, `"bufferFlushInterval":"0.2s"`).Replace(string(text)))
	if err := protojson.Unmarshal(text, &l); err != nil {
		return nil, err
	}
	return resource.Seal(r.Ref, &l, resource.Resource{Needs: r.Needs, Warms: r.Warms, Origins: r.Origins})
}

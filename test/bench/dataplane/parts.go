package dataplane

import (
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	statsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/bench/result"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// part is something that a service's configuration has, and that is left out to see what it costs.
type part struct {
	name    string
	cluster func(*clusterv3.Cluster)
	host    func(*routev3.VirtualHost)
	manager func(*hcmv3.HttpConnectionManager)
}

const protocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func parts() []part {
	return []part{
		{name: "circuit breakers", cluster: func(c *clusterv3.Cluster) { c.CircuitBreakers = nil }},
		{name: "TCP keepalive", cluster: func(c *clusterv3.Cluster) { c.UpstreamConnectionOptions = nil }},
		{name: "least-request balancing", cluster: func(c *clusterv3.Cluster) {
			if c.LbPolicy == clusterv3.Cluster_LEAST_REQUEST {
				c.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
			}
		}},
		{name: "retries of what was not sent", host: func(v *routev3.VirtualHost) { v.RetryPolicy = nil }},
		{name: "ending the loop's connections", cluster: func(c *clusterv3.Cluster) {
			withOptions(c, func(o *upstreamv3.HttpProtocolOptions) { o.CommonHttpProtocolOptions.MaxRequestsPerConnection = nil })
		}},
	}
}

func withOptions(c *clusterv3.Cluster, change func(*upstreamv3.HttpProtocolOptions)) {
	packed := c.TypedExtensionProtocolOptions[protocolOptions]
	var o upstreamv3.HttpProtocolOptions
	if packed == nil || packed.UnmarshalTo(&o) != nil {
		return
	}
	change(&o)
	if packed, err := anypb.New(&o); err == nil {
		c.TypedExtensionProtocolOptions[protocolOptions] = packed
	}
}

// without is a view of resources that lack a part.
type without struct {
	resource.View
	t testing.TB
	part
}

func (v *without) Resource(p *resource.Proxy, ref resource.Ref) (*resource.Resource, resource.ScopedRef) {
	r, scoped := v.View.Resource(p, ref)
	if r == nil {
		return nil, scoped
	}
	var m proto.Message
	switch {
	case r.Type == resource.Cluster && v.cluster != nil:
		m = &clusterv3.Cluster{}
	case r.Type == resource.VirtualHost && v.host != nil && r.Name != "outbound/none":
		m = &routev3.VirtualHost{}
	case r.Type == resource.Listener && v.manager != nil:
		m = &listenerv3.Listener{}
	default:
		return r, scoped
	}
	if err := r.Body().UnmarshalTo(m); err != nil {
		v.t.Error(err)
	}
	switch m := m.(type) {
	case *clusterv3.Cluster:
		v.cluster(m)
	case *routev3.VirtualHost:
		v.host(m)
	case *listenerv3.Listener:
		v.managers(m)
	}
	changed, err := resource.Seal(r.Ref, m, resource.Resource{Needs: r.Needs, Warms: r.Warms, Last: r.Last, Hold: r.Hold, Origins: r.Origins})
	if err != nil {
		v.t.Error(err)
		return r, scoped
	}
	return changed, scoped
}

// heapParts measures the heap of a used service again, each time without one part of its configuration: what costs most.
func heapParts(b *testing.B, run *result.Run) {
	_, l7 := layers()
	var whole float64
	for _, p := range append([]part{{name: "nothing"}}, parts()...) {
		b.Run(p.name, func(b *testing.B) {
			w := world(b, l7.mesh(more)+l7.services(more), envoy.WithView(func(v resource.View) resource.View { return &without{v, b, p} }))
			_, is := heapOf(b, w, l7)
			if whole == 0 {
				whole = is
				return
			}
			baseline := whole
			run.Add(result.Figure{Case: heapCase, Name: "with HTTP rules, without " + p.name, Unit: "MB", Is: is, Baseline: &baseline, Of: "with it"})
		})
	}
}

// managers changes all connection managers of a listener.
func (v *without) managers(l *listenerv3.Listener) {
	for _, chain := range l.FilterChains {
		for _, f := range chain.Filters {
			var m hcmv3.HttpConnectionManager
			if !f.GetTypedConfig().MessageIs(&m) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(&m); err != nil {
				v.t.Error(err)
			}
			v.manager(&m)
			packed, err := anypb.New(&m)
			if err != nil {
				v.t.Error(err)
			}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
		}
	}
}

// trafficParts are what a request passes, besides what the stock Envoys have too.
func trafficParts() []part {
	return []part{
		{name: "counting", manager: func(m *hcmv3.HttpConnectionManager) { m.AccessLog = nil }},
		{name: "counting all but requests", manager: func(m *hcmv3.HttpConnectionManager) { m.AccessLog = m.AccessLog[:min(1, len(m.AccessLog))] }},
		{name: "finding out what labels say", manager: constantLabels},
	}
}

// cpuParts measures what a request costs the proxies, each time without one part of it: what costs most.
func cpuParts(b *testing.B, run *result.Run, o Options) {
	all := protocols()
	for _, protocol := range []Protocol{all[0], all[2]} {
		var whole float64
		for _, p := range append([]part{{name: "nothing"}}, trafficParts()...) {
			b.Run(protocol.Name+"/"+p.name, func(b *testing.B) {
				w := envoy.Start(b, "testdata/traffic.yaml", envoy.WithView(func(v resource.View) resource.View { return &without{v, b, p} }))
				way := sidecars(b, w, o)
				awaitPaths(b, o, []*path{way})
				var costs []float64
				for range o.Rounds {
					s, err := way.load(o, protocol, 0, o.Saturated)
					if err != nil {
						b.Fatal(err)
					}
					costs = append(costs, s.cpu())
				}
				if whole == 0 {
					whole = median(costs)
					return
				}
				baseline := whole
				run.Add(result.Figure{Case: "CPU of both proxies per 1,000 requests at saturation", Name: protocol.Title + ", without " + p.name, Unit: "ms",
					Is: median(costs), Rounds: costs, Baseline: &baseline, Of: "with it"})
			})
		}
	}
}

// constantLabels leaves the labels of what is counted, with a value that costs nothing to find out.
func constantLabels(m *hcmv3.HttpConnectionManager) {
	for _, l := range m.AccessLog {
		var c statsv3.Config
		if l.GetTypedConfig().UnmarshalTo(&c) != nil {
			continue // the log of errors
		}
		var stats []*statsv3.Config_Stat
		for _, x := range c.Counters {
			stats = append(stats, x.Stat)
		}
		for _, x := range c.Histograms {
			stats = append(stats, x.Stat)
		}
		for _, s := range stats {
			for _, t := range s.Tags {
				t.ValueFormat, t.Rules = "constant", nil
			}
		}
		if packed, err := anypb.New(&c); err == nil {
			l.ConfigType = &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed}
		}
	}
}

package envoy

import (
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	setstatefilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// tcpProxyCluster is the filter state by which the TCP proxy takes its cluster.
const tcpProxyCluster = "envoy.tcp_proxy.cluster"

// connectAttempts is how many endpoints a TCP connection tries; none of them has seen a byte of it before it is connected.
const connectAttempts = 3

// Detected are the application protocols that the HTTP inspector reports.
func Detected() []string { return []string{"http/1.0", "http/1.1", "h2c"} }

// Listener is a listener at an address.
func Listener(name string, address *corev3.Address, direction corev3.TrafficDirection) *listenerv3.Listener {
	return &listenerv3.Listener{Name: name, StatPrefix: name, Address: address, TrafficDirection: direction, TcpKeepalive: keepalive()}
}

// InternalListener is a listener that only clusters of the same Envoy connect to.
func InternalListener(name string) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:              name,
		StatPrefix:        name,
		ListenerSpecifier: &listenerv3.Listener_InternalListener{InternalListener: &listenerv3.Listener_InternalListenerConfig{}},
	}
}

// Inspect adds listener filters; a connection on which they can't say anything within the timeout goes on as it is.
// Zero is no timeout.
func Inspect(l *listenerv3.Listener, timeout time.Duration, filters ...*listenerv3.ListenerFilter) {
	l.ListenerFilters = filters
	l.ListenerFiltersTimeout = durationpb.New(timeout)
	l.ContinueOnListenerFiltersTimeout = true
}

// OriginalDestination restores where a redirected connection was going.
func OriginalDestination() *listenerv3.ListenerFilter {
	return listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{})
}

// TLSInspector recognises TLS and reads its ALPN.
func TLSInspector() *listenerv3.ListenerFilter {
	return listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{})
}

// HTTPInspector recognises HTTP in plaintext.
func HTTPInspector() *listenerv3.ListenerFilter {
	return listenerFilter("envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{})
}

// NotOn disables a listener filter on destination ports; none of them leaves it as it is.
func NotOn(f *listenerv3.ListenerFilter, ports []uint16) *listenerv3.ListenerFilter {
	if len(ports) > 0 {
		f.FilterDisabled = onPorts(ports)
	}
	return f
}

// OnlyOn disables a listener filter on all but some destination ports.
func OnlyOn(f *listenerv3.ListenerFilter, ports []uint16) *listenerv3.ListenerFilter {
	f.FilterDisabled = &listenerv3.ListenerFilterChainMatchPredicate{
		Rule: &listenerv3.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: onPorts(ports)},
	}
	return f
}

// onPorts matches any of at least one port.
func onPorts(ports []uint16) *listenerv3.ListenerFilterChainMatchPredicate {
	set := &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{}
	for _, p := range ports {
		set.Rules = append(set.Rules, &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
				DestinationPortRange: &typev3.Int32Range{Start: int32(p), End: int32(p) + 1},
			},
		})
	}
	if len(set.Rules) == 1 {
		return set.Rules[0]
	}
	return &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{OrMatch: set}}
}

// HTTPChain hands connections to an HTTP connection manager.
func HTTPChain(name string, match *listenerv3.FilterChainMatch, m *hcmv3.HttpConnectionManager) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{Name: name, FilterChainMatch: match, Filters: []*listenerv3.Filter{
		networkFilter("http", m),
	}}
}

// TCPChain hands connections to a TCP proxy.
func TCPChain(name string, match *listenerv3.FilterChainMatch, p *tcpv3.TcpProxy) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{Name: name, FilterChainMatch: match, Filters: []*listenerv3.Filter{tcpProxyFilter(p)}}
}

// OnDemandTCPChain hands connections to the cluster that a format string names for each, which is asked for by ODCDS.
// It also passes the values of more state on.
func OnDemandTCPChain(name string, match *listenerv3.FilterChainMatch, p *tcpv3.TcpProxy, clusterFormat string, timeout time.Duration, more ...*setstatev3.FilterStateValue) *listenerv3.FilterChain {
	p.OnDemand = &tcpv3.TcpProxy_OnDemand{OdcdsConfig: ADS(), Timeout: durationpb.New(timeout)}
	state := &setstatefilterv3.Config{OnNewConnection: append([]*setstatev3.FilterStateValue{{
		Key:   &setstatev3.FilterStateValue_ObjectKey{ObjectKey: tcpProxyCluster},
		Value: &setstatev3.FilterStateValue_FormatString{FormatString: textFormat(clusterFormat)},
	}}, more...)}
	return &listenerv3.FilterChain{Name: name, FilterChainMatch: match, Filters: []*listenerv3.Filter{
		networkFilter("state", state), tcpProxyFilter(p),
	}}
}

// PassedState is a value that an internal listener behind a cluster sees as FILTER_STATE(key:PLAIN), if the cluster passes state (see PassState).
func PassedState(key, format string) *setstatev3.FilterStateValue {
	return &setstatev3.FilterStateValue{
		Key:                &setstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
		FactoryKey:         "envoy.string",
		Value:              &setstatev3.FilterStateValue_FormatString{FormatString: textFormat(format)},
		SharedWithUpstream: setstatev3.FilterStateValue_ONCE,
	}
}

// TCPProxy forwards connections to a cluster, without a limit of time.
func TCPProxy(statPrefix, cluster string) *tcpv3.TcpProxy {
	return &tcpv3.TcpProxy{
		StatPrefix:         statPrefix,
		ClusterSpecifier:   &tcpv3.TcpProxy_Cluster{Cluster: cluster},
		IdleTimeout:        durationpb.New(0),
		MaxConnectAttempts: wrapperspb.UInt32(connectAttempts),
	}
}

// ConnectAfterHandshake has a TCP proxy wait for the client's certificate before it connects to its cluster. Otherwise
// anybody could open connections to the app, if not send bytes over them: the handshake fails only later.
func ConnectAfterHandshake(p *tcpv3.TcpProxy) {
	p.UpstreamConnectMode = tcpv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
	p.MaxEarlyDataBytes = wrapperspb.UInt32(0)
}

// LogConnected has a TCP proxy write its logs also when a connection is connected; those that want one line a connection must be AtEnd.
func LogConnected(p *tcpv3.TcpProxy) {
	if p.AccessLogOptions == nil {
		p.AccessLogOptions = &tcpv3.TcpProxy_TcpAccessLogOptions{}
	}
	p.AccessLogOptions.FlushAccessLogOnConnected = true
}

// PeerState sets, once the client's certificate is verified, what FILTER_STATE(key:PLAIN) then is: values by key, in Envoy's command operators.
func PeerState(values map[string]string) *listenerv3.Filter {
	config := &setstatefilterv3.Config{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		config.OnDownstreamTlsHandshake = append(config.OnDownstreamTlsHandshake, &setstatev3.FilterStateValue{
			Key:        &setstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
			FactoryKey: "envoy.string",
			Value:      &setstatev3.FilterStateValue_FormatString{FormatString: textFormat(values[key])},
		})
	}
	return networkFilter("state", config)
}

func tcpProxyFilter(p *tcpv3.TcpProxy) *listenerv3.Filter {
	return networkFilter("tcp", p)
}

func networkFilter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: Any(config)}}
}

func listenerFilter(name string, config proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: Any(config)}}
}

package envoy

import (
	"math"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const connectTimeout = 5 * time.Second

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// EndpointsCluster is a cluster whose endpoints come by EDS under the given name.
func EndpointsCluster(name, endpoints string) *clusterv3.Cluster {
	c := cluster(name, clusterv3.Cluster_EDS)
	c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ADS(), ServiceName: endpoints}
	return c
}

// WeighLocalities makes a cluster choose a locality by its weight, and then an endpoint in it. No locality is spilled over for as long as
// it has an endpoint that Envoy takes for healthy.
func WeighLocalities(c *clusterv3.Cluster) {
	c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{
		// Envoy would gather changes of nothing but weights for a second.
		UpdateMergeWindow: durationpb.New(0),
		LocalityConfigSpecifier: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		},
	}
}

// StaticCluster is a cluster with the given endpoints; with none, each request is answered 503 and each connection closed at once.
func StaticCluster(name string, endpoints ...*endpointv3.LbEndpoint) *clusterv3.Cluster {
	c := cluster(name, clusterv3.Cluster_STATIC)
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if len(endpoints) > 0 {
		c.LoadAssignment.Endpoints = []*endpointv3.LocalityLbEndpoints{{LbEndpoints: endpoints}}
	}
	return c
}

// OriginalDestinationCluster connects to where the downstream connection was going.
func OriginalDestinationCluster(name string) *clusterv3.Cluster {
	c := cluster(name, clusterv3.Cluster_ORIGINAL_DST)
	c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	return c
}

// cluster has what is common: no limits of its own (Envoy's default of 1,024 connections and requests would refuse
// traffic that the application could carry), and dead peers of idle connections are noticed.
func cluster(name string, kind clusterv3.Cluster_DiscoveryType) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                      name,
		ClusterDiscoveryType:      &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:            durationpb.New(connectTimeout),
		CircuitBreakers:           &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{unlimited()}},
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: keepalive()},
	}
}

func unlimited() *clusterv3.CircuitBreakers_Thresholds {
	return &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections:     wrapperspb.UInt32(math.MaxUint32),
		MaxPendingRequests: wrapperspb.UInt32(math.MaxUint32),
		MaxRequests:        wrapperspb.UInt32(math.MaxUint32),
		MaxRetries:         wrapperspb.UInt32(math.MaxUint32),
	}
}

// AtOnce bounds how many requests a cluster has under way; further ones are refused with 503.
func AtOnce(c *clusterv3.Cluster, n uint32) {
	c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     wrapperspb.UInt32(n),
		MaxPendingRequests: wrapperspb.UInt32(n),
		MaxRequests:        wrapperspb.UInt32(n),
	}}}
}

// keepalive finds a dead peer of an idle connection after ten minutes; TCP proxying has no idle timeout instead.
func keepalive() *corev3.TcpKeepalive {
	return &corev3.TcpKeepalive{
		KeepaliveTime:     wrapperspb.UInt32(300),
		KeepaliveInterval: wrapperspb.UInt32(60),
		KeepaliveProbes:   wrapperspb.UInt32(5),
	}
}

// SpeakHTTP makes a cluster speak the HTTP version that the client speaks to its proxy. Only that protocol carries everything: with HTTP/1 a
// first gRPC stream hangs, with HTTP/2 a WebSocket gets 502.
func SpeakHTTP(c *clusterv3.Cluster) { setHTTPOptions(c, sameHTTP()) }

// sameHTTP speaks what the client speaks.
func sameHTTP() *upstreamv3.HttpProtocolOptions {
	return &upstreamv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			MaxHeadersCount:      wrapperspb.UInt32(maxHeadersCount),
			MaxResponseHeadersKb: wrapperspb.UInt32(maxHeadersKiB),
		},
		UpstreamProtocolOptions: &upstreamv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreamv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions:  &corev3.Http1ProtocolOptions{EnableTrailers: true},
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true},
			},
		},
	}
}

// SpeakHTTPOnce is SpeakHTTP with a connection for each request, that ends with it: where there is hardly ever a second one, an idle
// connection costs memory for nothing, at both of its ends. The mutations change the headers of what is sent.
func SpeakHTTPOnce(c *clusterv3.Cluster, mutations ...*mutationv3.HeaderMutation) {
	options := sameHTTP()
	options.HttpFilters = upstreamFilters(mutations)
	options.CommonHttpProtocolOptions.MaxRequestsPerConnection = wrapperspb.UInt32(1)
	setHTTPOptions(c, options)
}

func setHTTPOptions(c *clusterv3.Cluster, options *upstreamv3.HttpProtocolOptions) {
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: Any(options)}
}

// BindFrom makes a cluster connect from the given source addresses, the one of the family that it connects to.
func BindFrom(c *clusterv3.Cluster, sources ...netip.Addr) {
	for i, a := range sources {
		if i == 0 {
			c.UpstreamBindConfig = &corev3.BindConfig{SourceAddress: socket(a, 0)}
			continue
		}
		c.UpstreamBindConfig.ExtraSourceAddresses = append(c.UpstreamBindConfig.ExtraSourceAddresses, &corev3.ExtraSourceAddress{Address: socket(a, 0)})
	}
}

// PassState makes a cluster of an internal listener pass the state on that was set for it (see PassedState).
func PassState(c *clusterv3.Cluster) {
	c.TransportSocket = &corev3.TransportSocket{
		Name:       "internal",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: Any(&internalv3.InternalUpstreamTransport{TransportSocket: rawBuffer()})},
	}
}

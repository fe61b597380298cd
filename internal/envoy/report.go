package envoy

import (
	"slices"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	grpcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Where a request is marked that follows another one of its connection, and the header in which the mark is for a moment.
const (
	repeatMetadata = "tulle"
	repeatKey      = "repeated"
	repeatHeader   = "x-tulle-repeated"
)

// GRPCLog sends what a filter lets through to the access log service of a cluster, as entries that tell of the connection and nothing
// of a request. Each worker keeps at most size bytes, sends them when so many are there or the time is up, and drops what
// comes while it can't send: a log never holds traffic back.
func GRPCLog(filter *accesslogv3.AccessLogFilter, name, cluster string, every time.Duration, size uint32) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name:   "report",
		Filter: filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: Any(&grpcv3.TcpGrpcAccessLogConfig{
			CommonConfig: &grpcv3.CommonGrpcAccessLogConfig{
				LogName: name,
				GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster},
				}},
				TransportApiVersion: corev3.ApiVersion_V3,
				BufferFlushInterval: durationpb.New(every),
				BufferSizeBytes:     wrapperspb.UInt32(size),
			},
		})},
	}
}

// ReportTCP logs a TCP proxy's connections as soon as each is connected, again at an interval while it lasts, and when it can't be
// connected. Other logs of the proxy that want one line a connection must be AtEnd.
func ReportTCP(p *tcpv3.TcpProxy, interval time.Duration, log func(*accesslogv3.AccessLogFilter) *accesslogv3.AccessLog) {
	p.AccessLogOptions = &tcpv3.TcpProxy_TcpAccessLogOptions{
		FlushAccessLogOnConnected: true, AccessLogFlushInterval: durationpb.New(interval),
	}
	filter := AnyOf(logTypes(alsv3.AccessLogType_TcpUpstreamConnected, alsv3.AccessLogType_TcpPeriodic), Failed())
	p.AccessLog = append(p.AccessLog, log(filter))
}

// ReportHTTP logs the first request of each connection, and then at most one in an interval; what lasts longer than the interval,
// such as a WebSocket, is logged again while it does. Other logs of the connection manager that want one line a request must be AtEnd.
//
// A connection's token bucket says which request is due, and refuses none: it marks the others with a header that becomes metadata
// before anybody else sees it.
func ReportHTTP(m *hcmv3.HttpConnectionManager, interval time.Duration, log func(*accesslogv3.AccessLogFilter) *accesslogv3.AccessLog) {
	m.AccessLogOptions = &hcmv3.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: durationpb.New(interval)}
	// What the client says of itself does not count.
	MutateEarly(m, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: repeatHeader}})
	m.HttpFilters = slices.Insert(m.HttpFilters, 0,
		httpFilter("envoy.filters.http.local_ratelimit", &ratelimitv3.LocalRateLimit{
			StatPrefix: "report",
			TokenBucket: &typev3.TokenBucket{
				MaxTokens: 1, TokensPerFill: wrapperspb.UInt32(1), FillInterval: durationpb.New(interval),
			},
			FilterEnabled: &corev3.RuntimeFractionalPercent{
				DefaultValue: &typev3.FractionalPercent{Numerator: 100, Denominator: typev3.FractionalPercent_HUNDRED},
			},
			RequestHeadersToAddWhenNotEnforced: []*corev3.HeaderValueOption{{
				Header:       &corev3.HeaderValue{Key: repeatHeader, Value: "1"},
				AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
			}},
			LocalRateLimitPerDownstreamConnection: true,
		}),
		httpFilter("envoy.filters.http.header_to_metadata", &metadatav3.Config{RequestRules: []*metadatav3.Config_Rule{{
			Header:          repeatHeader,
			OnHeaderPresent: &metadatav3.Config_KeyValuePair{MetadataNamespace: repeatMetadata, Key: repeatKey},
			Remove:          true,
		}}}),
	)
	m.AccessLog = append(m.AccessLog, log(AnyOf(notRepeated(), logTypes(alsv3.AccessLogType_DownstreamPeriodic))))
}

// notRepeated logs what has no mark: the value that it asks for is never set.
func notRepeated() *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
		Matcher: &matcherv3.MetadataMatcher{
			Filter: repeatMetadata,
			Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: repeatKey}}},
			Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: Exact("no")}},
		},
		MatchIfKeyNotFound: wrapperspb.Bool(true),
	}}}
}

// AtEnd logs what a filter lets through, nil being everything, once: when the request or the connection has ended.
func AtEnd(filter *accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	ended := logTypes(alsv3.AccessLogType_DownstreamEnd, alsv3.AccessLogType_TcpConnectionEnd)
	if filter == nil {
		return ended
	}
	return AllOf(ended, filter)
}

func logTypes(types ...alsv3.AccessLogType) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{
		LogTypeFilter: &accesslogv3.LogTypeFilter{Types: types},
	}}
}

package envoy

import (
	"math"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	filtermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	ondemandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	setstatehttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Envoy's own defaults, 60 KiB and 100 headers, refuse requests that common servers accept.
const (
	maxHeadersKiB   = 512
	maxHeadersCount = 1000
)

// ConnectionManager is an HTTP connection manager that changes as little as a proxy can: paths, hosts, identifiers and headers pass
// unchanged, upgrades and CONNECT too, and nothing is ever cut off for taking long. Filters run before the router.
func ConnectionManager(statPrefix string, filters ...*hcmv3.HttpFilter) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix:  statPrefix,
		HttpFilters: append(filters, router()),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:     durationpb.New(0),
			MaxHeadersCount: wrapperspb.UInt32(maxHeadersCount),
		},
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{
			AcceptHttp_10:         true,
			DefaultHostForHttp_10: "localhost", // HTTP/1.0 may come without a Host, which Envoy refuses otherwise
			AllowCustomMethods:    true,
			EnableTrailers:        true,
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
			AllowConnect: true,
			// gRPC clients queue streams above the announced limit instead of opening another connection.
			MaxConcurrentStreams: wrapperspb.UInt32(math.MaxInt32),
		},
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		MaxRequestHeadersKb:        wrapperspb.UInt32(maxHeadersKiB),
		StreamIdleTimeout:          durationpb.New(0),
		GenerateRequestId:          wrapperspb.Bool(false),
		Proxy_100Continue:          true,
		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{
			{UpgradeType: "websocket"}, {UpgradeType: "CONNECT"},
		},
	}
}

// RoutesFromADS makes a connection manager take its routes by RDS.
func RoutesFromADS(m *hcmv3.HttpConnectionManager, name string) {
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: name, ConfigSource: ADS()}}
}

// Routes gives a connection manager its routes.
func Routes(m *hcmv3.HttpConnectionManager, name string, routes ...*routev3.Route) {
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name:             name,
		ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts:     []*routev3.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: routes}},
	}}
}

// MutateEarly changes a request's headers before a route is chosen.
func MutateEarly(m *hcmv3.HttpConnectionManager, mutations ...*mutationv3.HeaderMutation) {
	m.EarlyHeaderMutationExtensions = append(m.EarlyHeaderMutationExtensions,
		extension("headers", &earlyv3.HeaderMutation{Mutations: mutations}))
}

// SetHeader overwrites a header; the value may hold Envoy's command operators.
func SetHeader(name, value string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}
}

// RemoveHeader removes a header.
func RemoveHeader(name string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: name}}
}

// OnDemandFilter asks the control plane for the cluster of a request's route. It must be the first HTTP filter: before
// Envoy 1.38 the request starts again at the first one when the answer is there.
func OnDemandFilter(timeout time.Duration) *hcmv3.HttpFilter {
	return httpFilter("envoy.filters.http.on_demand", &ondemandv3.OnDemand{
		Odcds: &ondemandv3.OnDemandCds{Source: ADS(), Timeout: durationpb.New(timeout)},
	})
}

// ChooseAgain has a request choose its route again, for what is there only now: a cluster that was asked for (see OnDemandFilter).
func ChooseAgain() *hcmv3.HttpFilter {
	return httpFilter("envoy.filters.http.set_filter_state", &setstatehttpv3.Config{
		ClearRouteCache: true,
		OnRequestHeaders: []*setstatev3.FilterStateValue{{
			Key:        &setstatev3.FilterStateValue_ObjectKey{ObjectKey: "tulle.chosen-again"},
			FactoryKey: "envoy.string",
			Value:      &setstatev3.FilterStateValue_FormatString{FormatString: textFormat("yes")},
		}},
	})
}

func router() *hcmv3.HttpFilter {
	return httpFilter("router", &routerv3.Router{SuppressEnvoyHeaders: true})
}

// upstreamFilters change the headers of what a cluster sends. They cost each request some microseconds.
func upstreamFilters(mutations []*mutationv3.HeaderMutation) []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		httpFilter("headers", &filtermutationv3.HeaderMutation{Mutations: &filtermutationv3.Mutations{RequestMutations: mutations}}),
		httpFilter("codec", &codecv3.UpstreamCodec{}),
	}
}

func httpFilter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: Any(config)}}
}

// ExplainFailure gives the local replies with a response flag (such as NC) a body, those of requests that took at least so long; the first
// that fits counts. The format may hold Envoy's command operators.
func ExplainFailure(m *hcmv3.HttpConnectionManager, flag string, after time.Duration, format string) {
	if m.LocalReplyConfig == nil {
		m.LocalReplyConfig = &hcmv3.LocalReplyConfig{}
	}
	filter := responseFlags(flag)
	if after > 0 {
		filter = AllOf(filter, tookAtLeast(after))
	}
	m.LocalReplyConfig.Mappers = append(m.LocalReplyConfig.Mappers, &hcmv3.ResponseMapper{
		Filter:             filter,
		BodyFormatOverride: textFormat(format),
	})
}

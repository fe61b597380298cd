package envoy

import (
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// EveryRequest matches all but CONNECT. (Envoy itself refuses "OPTIONS *", the only request whose path has no slash.)
func EveryRequest(headers ...*routev3.HeaderMatcher) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: headers}
}

// EveryConnect matches CONNECT requests, which have no path and so need a match of their own.
func EveryConnect() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}}
}

// Path matches one path.
func Path(path string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: path}}
}

// PathRegex matches requests whose path, without its query, the RE2 expression matches as a whole.
func PathRegex(expression string, headers ...*routev3.HeaderMatcher) *routev3.RouteMatch {
	return &routev3.RouteMatch{
		PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expression}},
		Headers:       headers,
	}
}

// PathToRead matches one path, of requests that change nothing.
func PathToRead(path string) *routev3.RouteMatch {
	m := Path(path)
	m.Headers = []*routev3.HeaderMatcher{Header(":method", &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
		SafeRegex: &matcherv3.RegexMatcher{Regex: "GET|HEAD"},
	}})}
	return m
}

// HeaderPresent matches requests that have a header.
func HeaderPresent(name string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
}

// Header matches requests with a header whose value fits.
func Header(name string, value *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: value}}
}

// ToCluster routes to a cluster.
func ToCluster(match *routev3.RouteMatch, name string) *routev3.Route {
	return forward(match, &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}})
}

// ToClusterOfHeader routes to the cluster that a header names.
func ToClusterOfHeader(match *routev3.RouteMatch, header string) *routev3.Route {
	return forward(match, &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_ClusterHeader{ClusterHeader: header}})
}

// Share is a cluster and its share of the requests.
type Share struct {
	Cluster string
	Weight  uint32
}

// ToShares routes to clusters by weight; the sum of the weights must be above zero and fit 32 bits.
func ToShares(match *routev3.RouteMatch, shares []Share) *routev3.Route {
	if len(shares) == 1 {
		return ToCluster(match, shares[0].Cluster)
	}
	w := &routev3.WeightedCluster{}
	for _, s := range shares {
		w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: s.Cluster, Weight: wrapperspb.UInt32(s.Weight)})
	}
	return forward(match, &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: w}})
}

// Respond answers by itself.
func Respond(match *routev3.RouteMatch, status uint32, body string) *routev3.Route {
	return &routev3.Route{Match: match, Action: &routev3.Route_DirectResponse{
		DirectResponse: &routev3.DirectResponseAction{Status: status, Body: text(body)},
	}}
}

// forward has no timeout: how long a request may take is the application's business.
func forward(match *routev3.RouteMatch, action *routev3.RouteAction) *routev3.Route {
	action.Timeout = durationpb.New(0)
	return &routev3.Route{Match: match, Action: &routev3.Route_Route{Route: action}}
}

// RetryUnsent sends a request again, twice and to another endpoint, that certainly no server saw: no connection, or one that closed
// before the request was written, or a stream that the server refused.
func RetryUnsent() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    "connect-failure,refused-stream,reset-before-request",
		NumRetries: wrapperspb.UInt32(2),
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(10 * time.Millisecond), MaxInterval: durationpb.New(100 * time.Millisecond),
		},
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: Any(&previousv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: 3,
	}
}

// VirtualHostsFromADS is a route configuration whose virtual hosts are pushed by VHDS and chosen by a header.
// It starts with one for everything else.
func VirtualHostsFromADS(name, header string, otherwise ...*routev3.Route) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name:         name,
		VhostHeader:  header,
		Vhds:         &routev3.Vhds{ConfigSource: ADS()},
		VirtualHosts: []*routev3.VirtualHost{{Name: "*", Domains: []string{"*"}, Routes: otherwise, RetryPolicy: RetryUnsent()}},
	}
}

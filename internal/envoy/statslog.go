package envoy

import (
	"fmt"
	"strings"

	corexds "github.com/cncf/xds/go/xds/core/v3"
	matcherxds "github.com/cncf/xds/go/xds/type/matcher/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	statsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	transformv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/actions/transform_stat/v3"
	statinputv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/stats/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Statistics are what a log counts instead of writing lines.
type Statistics struct {
	// Prefix of all names, with a dot between.
	Prefix string
	// Only are filters: nothing is counted that one of them holds back, and none of the labels is looked at. The cheapest should be first.
	Only []*accesslogv3.AccessLogFilter
	// Limits, of one set of statistics that all logs of an Envoy with the same prefix and limits share; it outlives their listeners.
	// The zero value is a set for each log, without limits: Envoy 1.38 knows no other.
	Limits     StatLimits
	Counters   []Counter
	Histograms []Histogram
}

// StatLimits are how many statistics there may be. Beyond, those that are new count nothing.
type StatLimits struct{ Counters, Histograms uint32 }

// Counter is a counter for each combination of its labels' values.
type Counter struct {
	Name   string
	Labels []Label
	// Add is the command operator of what is added; empty adds one.
	Add string
}

// Histogram is a histogram of milliseconds.
type Histogram struct {
	Name   string
	Labels []Label
	// Record is the command operator of what is recorded.
	Record string
}

// Label is a label of a statistic.
type Label struct {
	Name string
	// Format holds Envoy's command operators; those without a value are empty.
	Format string
	// Rules say what becomes of the value; the first that fits counts. A value that none fits stays.
	Rules []LabelRule
}

// LabelRule says what becomes of a value.
type LabelRule struct {
	match *matcherxds.StringMatcher // nil is any
	then  *transformv3.TransformStat
}

// Replace puts another value in the place of one that is exactly from.
func Replace(from, to string) LabelRule { return LabelRule{exactly(from), replaceBy(to)} }

// ReplaceLike puts another value in the place of those that match an expression as a whole.
func ReplaceLike(expression, to string) LabelRule { return LabelRule{like(expression), replaceBy(to)} }

// ReplaceAll puts another value in the place of any. It is the last rule.
func ReplaceAll(to string) LabelRule { return LabelRule{nil, replaceBy(to)} }

func exactly(value string) *matcherxds.StringMatcher {
	return &matcherxds.StringMatcher{MatchPattern: &matcherxds.StringMatcher_Exact{Exact: value}}
}

func like(expression string) *matcherxds.StringMatcher {
	return &matcherxds.StringMatcher{MatchPattern: &matcherxds.StringMatcher_SafeRegex{SafeRegex: &matcherxds.RegexMatcher{
		EngineType: &matcherxds.RegexMatcher_GoogleRe2{GoogleRe2: &matcherxds.RegexMatcher_GoogleRE2{}}, Regex: expression,
	}}}
}

func replaceBy(value string) *transformv3.TransformStat {
	return &transformv3.TransformStat{UpdateTag: &transformv3.TransformStat_UpdateTag{NewTagValue: value}}
}

// Operator is one of Envoy's command operators.
type Operator struct {
	Command, Parameter string
	// MaxLength cuts the value; 0 does not.
	MaxLength int
}

// FirstOf is a command operator: the value of the first of the operators that has one.
func FirstOf(operators ...Operator) string {
	var list []string
	for _, o := range operators {
		maxLength := ""
		if o.MaxLength > 0 {
			maxLength = fmt.Sprintf(`,"max_length":%d`, o.MaxLength)
		}
		list = append(list, fmt.Sprintf(`{"command":%q,"param":%q%s}`, o.Command, o.Parameter, maxLength))
	}
	return `%COALESCE({"operators":[` + strings.Join(list, ",") + `]})%`
}

// CountHTTP counts each request of a connection manager once, when it has ended.
func CountHTTP(s Statistics) *accesslogv3.AccessLog {
	return statsLog(s, logTypes(alsv3.AccessLogType_DownstreamEnd))
}

// CountConnections counts, in the log of a listener, each of its connections once, when it has ended.
func CountConnections(s Statistics) *accesslogv3.AccessLog { return statsLog(s, nil) }

// CountTCPOpened counts each connection of a TCP proxy once: when it is connected to its cluster, or when it has ended without. The
// TCP proxy must LogConnected.
func CountTCPOpened(s Statistics) *accesslogv3.AccessLog {
	return statsLog(s, AnyOf(logTypes(alsv3.AccessLogType_TcpUpstreamConnected),
		AllOf(logTypes(alsv3.AccessLogType_TcpConnectionEnd), Where("!has(upstream.local_address)"))))
}

func statsLog(s Statistics, filter *accesslogv3.AccessLogFilter) *accesslogv3.AccessLog {
	filters := s.Only
	if filter != nil {
		filters = append([]*accesslogv3.AccessLogFilter{filter}, filters...)
	}
	switch len(filters) {
	case 0:
		filter = nil
	case 1:
		filter = filters[0]
	default:
		filter = AllOf(filters...)
	}
	config := &statsv3.Config{}
	if s.Limits == (StatLimits{}) {
		config.StatPrefix = s.Prefix // Envoy 1.38 has nothing else
	} else {
		config.StatsScope = &typev3.Scope{
			Prefix: s.Prefix, SharingName: s.Prefix, EnableEviction: true,
			MaxCounters: wrapperspb.UInt32(s.Limits.Counters), MaxHistograms: wrapperspb.UInt32(s.Limits.Histograms),
		}
	}
	for _, c := range s.Counters {
		counter := &statsv3.Config_Counter{Stat: stat(c.Name, c.Labels), ValueFormat: c.Add}
		if c.Add == "" {
			counter.ValueFixed = wrapperspb.UInt64(1)
		}
		config.Counters = append(config.Counters, counter)
	}
	for _, h := range s.Histograms {
		config.Histograms = append(config.Histograms, &statsv3.Config_Histogram{
			Stat: stat(h.Name, h.Labels), Unit: statsv3.Config_Histogram_Milliseconds, ValueFormat: h.Record,
		})
	}
	return &accesslogv3.AccessLog{
		Name:       "stats", // for people; Envoy goes by the type
		Filter:     filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: Any(config)},
	}
}

func stat(name string, labels []Label) *statsv3.Config_Stat {
	out := &statsv3.Config_Stat{Name: name}
	for _, l := range labels {
		out.Tags = append(out.Tags, &statsv3.Config_Tag{Name: l.Name, ValueFormat: l.Format, Rules: matcher(l.Rules)})
	}
	return out
}

// matcher is nil where there are no rules.
func matcher(rules []LabelRule) *matcherxds.Matcher {
	if len(rules) == 0 {
		return nil
	}
	out := &matcherxds.Matcher{}
	list := &matcherxds.Matcher_MatcherList{}
	for _, r := range rules {
		then := &matcherxds.Matcher_OnMatch{OnMatch: &matcherxds.Matcher_OnMatch_Action{Action: xdsExtension("transform", r.then)}}
		if r.match == nil {
			out.OnNoMatch = then
			continue
		}
		list.Matchers = append(list.Matchers, &matcherxds.Matcher_MatcherList_FieldMatcher{
			Predicate: &matcherxds.Matcher_MatcherList_Predicate{MatchType: &matcherxds.Matcher_MatcherList_Predicate_SinglePredicate_{
				SinglePredicate: &matcherxds.Matcher_MatcherList_Predicate_SinglePredicate{
					Input:   xdsExtension("value", &statinputv3.StatTagValueInput{}),
					Matcher: &matcherxds.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: r.match},
				},
			}},
			OnMatch: then,
		})
	}
	if len(list.Matchers) > 0 {
		out.MatcherType = &matcherxds.Matcher_MatcherList_{MatcherList: list}
	}
	return out
}

func xdsExtension(name string, config proto.Message) *corexds.TypedExtensionConfig {
	return &corexds.TypedExtensionConfig{Name: name, TypedConfig: Any(config)}
}

// Describe attaches values to a cluster, a route or an endpoint, for logs to read as CLUSTER_METADATA, METADATA(ROUTE) and
// UPSTREAM_METADATA. Values that are empty are left out; metadata may be nil.
func Describe(metadata *corev3.Metadata, namespace string, values map[string]string) *corev3.Metadata {
	fields := map[string]*structpb.Value{}
	for key, value := range values {
		if value != "" {
			fields[key] = structpb.NewStringValue(value)
		}
	}
	if len(fields) == 0 {
		return metadata
	}
	if metadata == nil {
		metadata = &corev3.Metadata{}
	}
	if metadata.FilterMetadata == nil {
		metadata.FilterMetadata = map[string]*structpb.Struct{}
	}
	metadata.FilterMetadata[namespace] = &structpb.Struct{Fields: fields}
	return metadata
}

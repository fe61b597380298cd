package envoy

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// StdoutLog writes one JSON object a line on the proxy's standard output. The fields' values are Envoy's command operators; those that are
// empty are left out. A nil filter logs everything.
func StdoutLog(filter *accesslogv3.AccessLogFilter, fields map[string]string) *accesslogv3.AccessLog {
	object := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for name, value := range fields {
		object.Fields[name] = structpb.NewStringValue(value)
	}
	format := &corev3.SubstitutionFormatString{
		Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: object},
		OmitEmptyValues: true,
	}
	return &accesslogv3.AccessLog{
		Name:   "stdout",
		Filter: filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: Any(&streamv3.StdoutAccessLog{
			AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: format},
		})},
	}
}

// AnyOf logs what one of the filters lets through.
func AnyOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{
		OrFilter: &accesslogv3.OrFilter{Filters: filters},
	}}
}

// AllOf logs what all of the filters let through.
func AllOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
		AndFilter: &accesslogv3.AndFilter{Filters: filters},
	}}
}

// WithoutHeader logs requests that have no such header when they end. It costs less than CEL.
func WithoutHeader(name string) *accesslogv3.AccessLogFilter {
	matcher := HeaderPresent(name)
	matcher.InvertMatch = true
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{
		HeaderFilter: &accesslogv3.HeaderFilter{Header: matcher},
	}}
}

// tookAtLeast takes what has lasted for so long, in whole milliseconds.
func tookAtLeast(d time.Duration) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_DurationFilter{
		DurationFilter: &accesslogv3.DurationFilter{Comparison: atLeast(uint32(d.Milliseconds()))}, //nolint:gosec // seconds
	}}
}

func atLeast(n uint32) *accesslogv3.ComparisonFilter {
	return &accesslogv3.ComparisonFilter{
		Op:    accesslogv3.ComparisonFilter_GE,
		Value: &corev3.RuntimeUInt32{DefaultValue: n, RuntimeKey: "unused"},
	}
}

// StatusAtLeast logs responses with a status of at least n.
func StatusAtLeast(n uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: atLeast(n)},
	}}
}

// responseFlags logs what has one of the flags; without any, what has one at all.
func responseFlags(flags ...string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: flags},
	}}
}

// Failed logs what has a response flag: what Envoy could not do as asked.
func Failed() *accesslogv3.AccessLogFilter { return responseFlags() }

// Refused logs connections that no filter chain took, and those whose TLS handshake failed.
func Refused() *accesslogv3.AccessLogFilter {
	// The TLS inspector gives a reason for plaintext too, also where plaintext is welcome.
	return AnyOf(responseFlags("NR"), Where(`connection.transport_failure_reason != "" && connection.tls_version != ""`))
}

// Where logs what a CEL expression is true for.
func Where(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
		ExtensionFilter: &accesslogv3.ExtensionFilter{
			Name:       "cel",
			ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: Any(&celv3.ExpressionFilter{Expression: expression})},
		},
	}}
}

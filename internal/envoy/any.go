// Package envoy builds the parts of Envoy's configuration that Tulle uses: small pure functions from values to protos.
// It knows nothing of meshes.
package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Any packs a message deterministically, so that equal configuration has equal bytes on every replica.
//
// A message with text that is not UTF-8 can't be packed. It becomes an Any of no type, which Envoy refuses: the
// refusal is then reported at the object that it came from, and nothing is configured by halves.
func Any(m proto.Message) *anypb.Any {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return &anypb.Any{TypeUrl: "type.googleapis.com/" + err.Error()}
	}
	return a
}

// ADS is the stream to the control plane as a source. What comes from it is waited for without a limit: a proxy that went
// on without it would be one without rules.
func ADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// extension names a typed extension. Envoy goes by the type; the name is for people, and short: each proxy gets hundreds of them.
func extension(name string, config proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: Any(config)}
}

// text is data that is part of the configuration.
func text(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

// textFormat is a format string of Envoy's command operators.
func textFormat(format string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: text(format)}}
}

package envoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	tlsSocket = "tls"
	rawSocket = "plaintext"
	// socketMatch is where Envoy looks for an endpoint's socket match.
	socketMatch = "envoy.transport_socket_match"
)

// MutualTLS says which SDS secrets one side of mTLS uses.
type MutualTLS struct {
	// Certificate is the own certificate, Peers what the other side's must be.
	Certificate, Peers string
	// Curves are the key exchanges, the best first.
	Curves []string
}

// ClientTLS is mTLS towards a server, which reads from the ALPN what will be spoken. Nothing is resumed: the other side
// proves who it is on every connection, also right after what is expected of it has changed.
func ClientTLS(m MutualTLS, alpn string) *corev3.TransportSocket {
	common := m.common()
	common.AlpnProtocols = []string{alpn}
	return &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: Any(&tlsv3.UpstreamTlsContext{CommonTlsContext: common, MaxSessionKeys: wrapperspb.UInt32(0)}),
	}}
}

// ServerTLS is mTLS towards clients, which must have a certificate. It negotiates no ALPN, so that the codec goes by the
// client's first bytes.
func ServerTLS(m MutualTLS) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: Any(&tlsv3.DownstreamTlsContext{
			CommonTlsContext:                 m.common(),
			RequireClientCertificate:         wrapperspb.Bool(true),
			SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
			DisableStatefulSessionResumption: true,
		}),
	}}
}

// UnverifiedTLS is TLS to a server whose certificate is not looked at, as the kubelet's HTTPS probes. Envoy as a client stops at 1.2
// unless told otherwise.
func UnverifiedTLS() *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: Any(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
		}}),
	}}
}

func (m MutualTLS) common() *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			EcdhCurves:                m.Curves,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: m.Certificate, SdsConfig: ADS()}},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: m.Peers, SdsConfig: ADS()},
		},
	}
}

// AllowPlaintext lets a cluster call, in plaintext, the endpoints that bear PlaintextMetadata with the given key. All others
// keep the cluster's own socket.
func AllowPlaintext(c *clusterv3.Cluster, key string) {
	c.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{{
		Name:            "plaintext",
		Match:           flag(key),
		TransportSocket: rawBuffer(),
	}}
}

// SocketFor makes a cluster use a socket for the endpoints that MarkSocket marked with the same key and value, and that may not be
// called in plaintext.
func SocketFor(c *clusterv3.Cluster, key, value string, socket *corev3.TransportSocket) {
	c.TransportSocketMatches = append(c.TransportSocketMatches, &clusterv3.Cluster_TransportSocketMatch{
		Name:            value,
		Match:           &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}},
		TransportSocket: socket,
	})
}

// MarkSocket marks an endpoint for SocketFor.
func MarkSocket(e *endpointv3.LbEndpoint, key, value string) {
	if e.Metadata == nil {
		e.Metadata = &corev3.Metadata{}
	}
	if e.Metadata.FilterMetadata == nil {
		e.Metadata.FilterMetadata = map[string]*structpb.Struct{}
	}
	mark := e.Metadata.FilterMetadata[socketMatch]
	if mark == nil {
		mark = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		e.Metadata.FilterMetadata[socketMatch] = mark
	}
	mark.Fields[key] = structpb.NewStringValue(value)
}

func rawBuffer() *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       rawSocket,
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: Any(&rawv3.RawBuffer{})},
	}
}

// PlaintextMetadata marks an endpoint for AllowPlaintext.
func PlaintextMetadata(key string) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{socketMatch: flag(key)}}
}

func flag(key string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewBoolValue(true)}}
}

// ValidationContext is a secret that accepts certificates that chain to one of the roots (PEM) and whose URI fits one of the matchers.
// Neither may be empty: Envoy would then accept anybody.
func ValidationContext(name string, roots []byte, uris []*matcherv3.StringMatcher) *tlsv3.Secret {
	v := &tlsv3.CertificateValidationContext{
		TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: roots}},
	}
	for _, m := range uris {
		v.MatchTypedSubjectAltNames = append(v.MatchTypedSubjectAltNames, &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m})
	}
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: v}}
}

// Exact matches s itself.
func Exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// Prefix matches what begins with s.
func Prefix(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

// Regex matches what the RE2 expression matches as a whole.
func Regex(expression string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expression}}}
}

// Package bootstrap makes the configuration that a proxy starts with: where the control plane is, how the proxy proves who
// it is, and nothing that could differ between two pods. All else arrives over xDS.
package bootstrap

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	internallistenerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/envoy"
)

// Names of the two static clusters.
const (
	// ControlPlaneCluster is the control plane.
	ControlPlaneCluster = "xds"
	// AdminCluster is Envoy's own admin interface; only the stats listener uses it.
	AdminCluster = "admin"
)

// Names of the files in Options.CredentialsDir.
const (
	TokenFile    = "token"
	CAFile       = "ca.crt"
	TokenSDSFile = "token-sds.yaml"
	CASDSFile    = "ca-sds.yaml"
)

// maxRegexProgram is well above what model lets in (see model's bound of expressions).
const maxRegexProgram = 20000

// streamWindow is how many bytes of a stream may be under way to or from the control plane.
const streamWindow = 1 << 20

const (
	tokenSecret = "token"
	caSecret    = "control-plane-ca"
)

// Options say what differs between installations.
type Options struct {
	// NodeID and NodeCluster are what the proxy calls itself, in logs only: the control plane trusts neither.
	// They may hold $(VAR) references that the kubelet expands.
	NodeID, NodeCluster string
	// ControlPlaneHost and ControlPlanePort are where the control plane serves xDS; the host is a DNS name or an IP address.
	ControlPlaneHost string
	ControlPlanePort uint32
	// CredentialsDir holds the token, the CA bundle and their two SDS documents (see TokenSDS and CASDS).
	// It is read again when a file is moved in it, as the kubelet does for a projected volume.
	CredentialsDir string
	// AdminSocket is the path of the unix socket of Envoy's admin interface.
	AdminSocket string
	// MoreStats are prefixes of statistics to keep besides the default ones, for tests.
	MoreStats []string
	// StatsEviction replaces the default interval at which idle series are looked for, for tests.
	StatsEviction time.Duration
}

// JSON returns the bootstrap as one line of JSON, fit for Envoy's --config-yaml.
// The error names what Envoy's own validation refuses.
func JSON(o Options) (string, error) {
	b := &adminv3.Bootstrap{
		Node:             &corev3.Node{Id: o.NodeID, Cluster: o.NodeCluster},
		Admin:            &adminv3.Admin{Address: pipe(o.AdminSocket)},
		DynamicResources: dynamicResources(),
		StaticResources: &adminv3.Bootstrap_StaticResources{
			Clusters: []*clusterv3.Cluster{controlPlane(o), admin(o)},
		},
		BootstrapExtensions: []*corev3.TypedExtensionConfig{extension("envoy.bootstrap.internal_listener", &internallistenerv3.InternalListener{})},
		StatsConfig:         stats(o),
		// What was not counted between two of these looks is forgotten: an edge that is gone goes from the next scrape but one.
		StatsEviction:  &adminv3.Bootstrap_StatsEvictionInterval{StatsEvictionInterval: durationpb.New(cmp.Or(o.StatsEviction, statsEviction))},
		LayeredRuntime: runtime(),
	}
	if err := b.ValidateAll(); err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	return compact(b)
}

// TokenSDS returns the SDS document for the token file of a credentials directory.
func TokenSDS(dir string) (string, error) {
	return sdsDocument(&tlsv3.Secret{Name: tokenSecret, Type: &tlsv3.Secret_GenericSecret{
		GenericSecret: &tlsv3.GenericSecret{Secret: file(dir + "/" + TokenFile)},
	}})
}

// CASDS returns the SDS document for the CA bundle of a credentials directory: who signs the control plane's certificate,
// and the DNS name that it must be for.
func CASDS(dir, serverName string) (string, error) {
	return sdsDocument(&tlsv3.Secret{Name: caSecret, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: file(dir + "/" + CAFile),
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
				SanType: tlsv3.SubjectAltNameMatcher_DNS,
				Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: serverName}},
			}},
		},
	}})
}

func sdsDocument(s *tlsv3.Secret) (string, error) {
	body, err := anypb.New(s)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", s.Name, err)
	}
	raw, err := compact(body)
	if err != nil {
		return "", err
	}
	return `{"resources":[` + raw + "]}\n", nil
}

// dynamicResources asks for listeners and clusters on one delta stream.
func dynamicResources() *adminv3.Bootstrap_DynamicResources {
	return &adminv3.Bootstrap_DynamicResources{
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			// The node names every extension of Envoy, some 80 kB, which is otherwise part of each acknowledgement.
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: ControlPlaneCluster,
					// Envoy's own maximum of 30 s would keep new destinations waiting for as long after the control plane is back;
					// with this one, a request that waits for its answer (5 s) still gets it.
					RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
						BaseInterval: durationpb.New(200 * time.Millisecond),
						MaxInterval:  durationpb.New(3 * time.Second),
					}},
				},
			}}},
		},
		LdsConfig: envoy.ADS(),
		CdsConfig: envoy.ADS(),
	}
}

// controlPlane is the xDS cluster: TLS, and on every new stream the token as the kubelet last wrote it.
func controlPlane(o Options) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 ControlPlaneCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
		ConnectTimeout:       durationpb.New(5 * time.Second),
		DnsLookupFamily:      clusterv3.Cluster_ALL,
		DnsRefreshRate:       durationpb.New(5 * time.Second),
		RespectDnsTtl:        true,
		LoadAssignment:       assignment(ControlPlaneCluster, socket(o.ControlPlaneHost, o.ControlPlanePort)),
		TransportSocket: &corev3.TransportSocket{
			Name: "envoy.transport_sockets.tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: envoy.Any(&tlsv3.UpstreamTlsContext{
				Sni: o.ControlPlaneHost,
				CommonTlsContext: &tlsv3.CommonTlsContext{
					AlpnProtocols: []string{"h2"},
					// Envoy's own maximum for clients is 1.2: without one of ours, no version is left.
					TlsParams: &tlsv3.TlsParameters{
						TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
						TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
					},
					ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
						ValidationContextSdsSecretConfig: fileSecret(caSecret, o.CredentialsDir, CASDSFile),
					},
				},
			})},
		},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": envoy.Any(controlPlaneProtocol(o)),
		},
	}
}

// controlPlaneProtocol is HTTP/2 that notices a dead peer within half a minute, with the token on each request.
// A static secret, even with a watched directory, never rotates; one from a file SDS document does.
func controlPlaneProtocol(o Options) *upstreamv3.HttpProtocolOptions {
	return &upstreamv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
						ConnectionKeepalive: &corev3.KeepaliveSettings{
							Interval: durationpb.New(20 * time.Second),
							Timeout:  durationpb.New(10 * time.Second),
						},
						// It bounds what a log stream keeps for a control plane that reads slowly, too.
						InitialStreamWindowSize: wrapperspb.UInt32(streamWindow),
					},
				},
			},
		},
		HttpFilters: []*hcmv3.HttpFilter{
			filter("envoy.filters.http.credential_injector", &injectorv3.CredentialInjector{
				Overwrite: true,
				Credential: extension("envoy.http.injected_credentials.generic", &genericv3.Generic{
					Credential:        fileSecret(tokenSecret, o.CredentialsDir, TokenSDSFile),
					HeaderValuePrefix: "Bearer ",
				}),
			}),
			filter("envoy.filters.http.upstream_codec", &codecv3.UpstreamCodec{}),
		},
	}
}

func admin(o Options) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 AdminCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(time.Second),
		LoadAssignment:       assignment(AdminCluster, pipe(o.AdminSocket)),
	}
	// Scrapes are made by the thread that takes configuration, too.
	envoy.AtOnce(c, scrapesAtOnce)
	return c
}

// runtime lets in all regular expressions that the model lets in: it bounds their size itself, and Envoy's own bound of 100
// refuses ordinary ones such as [a-z]{100}.
func runtime() *adminv3.LayeredRuntime {
	return &adminv3.LayeredRuntime{Layers: []*adminv3.RuntimeLayer{{
		Name: "static",
		LayerSpecifier: &adminv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
			"re2.max_program_size.error_level": structpb.NewNumberValue(maxRegexProgram),
		}}},
	}}}
}

// fileSecret is a secret from an SDS document that is read again when the directory's content is exchanged.
func fileSecret(name, dir, document string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion:  corev3.ApiVersion_V3,
		InitialFetchTimeout: durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
			Path:             dir + "/" + document,
			WatchedDirectory: &corev3.WatchedDirectory{Path: dir},
		}},
	}}
}

func assignment(cluster string, address *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{envoy.Endpoint(address)},
	}}}
}

func socket(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: 0o600}}}
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: envoy.Any(config)}}
}

func extension(name string, config proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: envoy.Any(config)}
}

// compact marshals to one line; protojson's own spacing varies from build to build on purpose.
func compact(m proto.Message) (string, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	return out.String(), nil
}

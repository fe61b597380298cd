package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/refer"
)

// proxy stands in for an Envoy: it asks for what Envoy would ask for, and acknowledges all but what it is told to reject.
type proxy struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	ended  chan struct{}
	cancel context.CancelFunc

	sending sync.Mutex

	mu     sync.Mutex
	asked  map[resource.Ref]bool
	secret *tlsv3.Secret // its own certificate
	reject func(name string) string
	stuck  bool
	unread []*discoveryv3.DeltaDiscoveryResponse // while it is stuck
	got    []receipt
	first  chan struct{} // closed with the first response
	err    error
}

// controlPlane opens a connection to the control plane, as the CA bundle of a namespace's ConfigMap allows.
func (w *world) controlPlane(t *testing.T, ca string) *grpc.ClientConn {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		t.Fatalf("no CA in %q", ca)
	}
	connection, err := grpc.NewClient(w.host+":15010", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: roots, ServerName: identity.ServerName(identity.ControlPlaneService, system), MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		t.Fatal(err)
	}
	return connection
}

// dial opens a stream with a token.
func (w *world) dial(t *testing.T, ca, token string) *proxy {
	t.Helper()
	connection := w.controlPlane(t, ca)
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token))
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{stream: stream, ended: make(chan struct{}), first: make(chan struct{}), cancel: cancel, asked: map[resource.Ref]bool{}}
	t.Cleanup(func() {
		p.hangUp()
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
	})
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Cluster.URL(), Node: &corev3.Node{
		Id: "test",
		UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
			UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}},
		},
	}})
	p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Listener.URL()})
	go p.run()
	return p
}

// hangUp ends the stream, and returns when it has ended.
func (p *proxy) hangUp() {
	p.cancel()
	<-p.ended
}

func (p *proxy) send(r *discoveryv3.DeltaDiscoveryRequest) {
	p.sending.Lock()
	defer p.sending.Unlock()
	// An error here is the stream's, which run learns from Recv.
	_ = p.stream.Send(r)
}

func (p *proxy) run() {
	defer close(p.ended)
	for {
		response, err := p.stream.Recv()
		if err != nil {
			p.mu.Lock()
			p.err = err
			p.mu.Unlock()
			return
		}
		p.note(response)
		p.answer(response)
	}
}

// receipt is what one response brought.
type receipt struct {
	kind resource.Type
	// versions are those of its resources, by name.
	versions map[string]string
	removed  []string
}

func (p *proxy) note(response *discoveryv3.DeltaDiscoveryResponse) {
	r := receipt{versions: map[string]string{}, removed: response.GetRemovedResources()}
	r.kind, _ = resource.TypeOf(response.GetTypeUrl())
	for _, got := range response.GetResources() {
		r.versions[got.GetName()] = got.GetVersion()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, r)
	if len(p.got) == 1 {
		close(p.first)
	}
}

// holds returns the versions of what a proxy was sent and not told to forget, by type and name.
func (p *proxy) holds() map[string]string {
	held := map[string]string{}
	for _, r := range p.receipts() {
		for name, version := range r.versions {
			held[r.kind.String()+" "+name] = version
		}
		for _, name := range r.removed {
			delete(held, r.kind.String()+" "+name)
		}
	}
	return held
}

// receipts returns all responses so far.
func (p *proxy) receipts() []receipt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

// stick has the proxy neither acknowledge nor reject what it gets, until it is let go.
func (p *proxy) stick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck = true
}

// letGo has the proxy answer what it got in the meantime, too.
func (p *proxy) letGo() {
	p.mu.Lock()
	unread := p.unread
	p.stuck, p.unread = false, nil
	p.mu.Unlock()
	for _, response := range unread {
		p.answer(response)
	}
}

// answer acknowledges or rejects a response, and asks for what its resources name.
func (p *proxy) answer(response *discoveryv3.DeltaDiscoveryResponse) {
	p.mu.Lock()
	stuck := p.stuck
	if stuck {
		p.unread = append(p.unread, response)
	}
	p.mu.Unlock()
	if stuck {
		return
	}
	request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: response.GetTypeUrl(), ResponseNonce: response.GetNonce()}
	var named []resource.Ref
	for _, r := range response.GetResources() {
		p.mu.Lock()
		reject := p.reject
		p.mu.Unlock()
		if reject != nil && reject(r.GetName()) != "" {
			request.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: reject(r.GetName())}
			continue
		}
		named = append(named, p.take(r.GetResource())...)
	}
	p.send(request)
	for _, ref := range named {
		p.ask(ref)
	}
}

// take keeps what the tests look at and returns what a resource names.
func (p *proxy) take(body *anypb.Any) []resource.Ref {
	message, err := body.UnmarshalNew()
	if err != nil {
		return nil
	}
	if s, ok := message.(*tlsv3.Secret); ok && s.GetName() == identity.WorkloadSecret {
		p.mu.Lock()
		p.secret = s
		p.mu.Unlock()
	}
	return refer.Names(message)
}

// ask subscribes to a name, once. Virtual hosts come unasked after the first subscription to their type.
func (p *proxy) ask(ref resource.Ref) {
	p.mu.Lock()
	known := p.asked[ref]
	p.asked[ref] = true
	p.mu.Unlock()
	if known {
		return
	}
	request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: ref.Type.URL()}
	if ref.Name != "" {
		request.ResourceNamesSubscribe = []string{ref.Name}
	}
	p.send(request)
	if ref.Type == resource.RouteConfiguration {
		p.ask(resource.Ref{Type: resource.VirtualHost})
	}
}

// refuse has the proxy reject, with that text, the resources whose name holds part.
func (p *proxy) refuse(part, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reject = func(name string) string {
		if strings.Contains(name, part) {
			return text
		}
		return ""
	}
}

// certificate returns the proxy's own certificate; nil before it came.
func (p *proxy) certificate() (*x509.Certificate, error) {
	p.mu.Lock()
	secret, err := p.secret, p.err
	p.mu.Unlock()
	if secret == nil {
		return nil, errors.Join(errors.New("no certificate yet"), err)
	}
	pair, err := tls.X509KeyPair(secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes())
	if err != nil {
		return nil, err
	}
	return pair.Leaf, nil
}

// errGoesOn is the failure of a stream that has none.
var errGoesOn = errors.New("the stream goes on")

// failure returns what the stream ended with.
func (p *proxy) failure() error {
	select {
	case <-p.ended:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	default:
		return errGoesOn
	}
}

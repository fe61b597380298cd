package xds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// patience bounds every wait in these tests; none is expected to be reached.
const patience = 20 * time.Second

// tokens authenticates by a table: the token is the pod's name.
type tokens struct {
	mu      sync.Mutex
	proxies map[string]resource.Proxy
	expires time.Time
	err     error
}

func (a *tokens) Authenticate(_ context.Context, token string) (resource.Proxy, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.proxies[token]
	if !ok {
		return resource.Proxy{}, time.Time{}, errors.Join(a.err, errors.New("token is of no pod"))
	}
	return p, a.expires, a.err
}

// signer signs certificates by a function.
type signer func(*resource.Proxy) (*resource.Resource, time.Time, error)

func (f signer) Certificate(_ context.Context, p *resource.Proxy) (*resource.Resource, time.Time, error) {
	return f(p)
}

// rig is a server on an in-process listener.
type rig struct {
	*Server
	tokens   *tokens
	registry *prometheus.Registry
	listener *bufconn.Listener
	stop     context.CancelFunc
	done     chan error
}

func start(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{
		tokens: &tokens{proxies: map[string]resource.Proxy{
			"cart-1":  {Namespace: "shop", Pod: "cart-1", UID: "1", ServiceAccount: "cart", Owner: "cart"},
			"cart-2":  {Namespace: "shop", Pod: "cart-2", UID: "2", ServiceAccount: "cart", Owner: "cart"},
			"other-1": {Namespace: "shop", Pod: "other-1", UID: "3", ServiceAccount: "other", Owner: "other"},
		}},
		registry: prometheus.NewRegistry(),
		listener: bufconn.Listen(1 << 20),
		done:     make(chan error, 1),
	}
	config := Config{
		Authenticator: r.tokens, MinMinor: 38, MaxMinor: 40, Registry: r.registry,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Certificates: signer(func(p *resource.Proxy) (*resource.Resource, time.Time, error) {
			return testResource(workload, "cert-of-"+p.Pod), time.Now().Add(time.Hour), nil
		}),
	}
	if change != nil {
		change(&config)
	}
	var err error
	if r.Server, err = NewServer(config); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.done <- r.Serve(ctx, r.listener) }()
	t.Cleanup(func() {
		r.stop()
		select {
		case <-r.done:
		case <-time.After(patience):
			t.Error("the server did not stop")
		}
	})
	return r
}

// publish makes the next view from text and publishes it.
func (r *rig) publish(view *testView, lines ...string) *testView {
	next, changed := view.with(strings.Join(lines, "\n"))
	var refs []resource.ScopedRef
	for _, p := range r.tokens.proxies {
		p.Minor = 40
		for _, ref := range changed {
			refs = append(refs, testScope(&p, ref))
		}
	}
	r.Publish(next, refs)
	return next
}

// client is a proxy that acknowledges everything.
type client struct {
	t      *testing.T
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	first  bool
	// got is what was received, and not yet asked about by a test.
	got []string
}

func (r *rig) connect(t *testing.T, token string) *client {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///tulle", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token), 2*patience)
	t.Cleanup(func() { cancel(); conn.Close() })
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &client{t: t, stream: stream, first: true}
}

func node(minor uint32) *corev3.Node {
	return &corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
		Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: minor, Patch: 3},
	}}}
}

func (c *client) request(kind string, lines string) {
	c.t.Helper()
	c.send(scriptRequest(kind, lines))
}

func (c *client) send(req *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	if c.first {
		req.Node, c.first = node(40), false
	}
	// A stream that the server has ended says why to Recv.
	if err := c.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatal(err)
	}
}

// receive reads one response without acknowledging it.
func (c *client) receive() *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	resp, err := c.stream.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	kind, _ := resource.TypeOf(resp.TypeUrl)
	for _, r := range resp.Resources {
		c.got = append(c.got, kind.String()+" "+r.Name+"@"+r.Version)
	}
	for _, name := range resp.RemovedResources {
		c.got = append(c.got, kind.String()+" -"+name)
	}
	return resp
}

func (c *client) ack(resp *discoveryv3.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce})
}

// want reads and acknowledges until it got something.
func (c *client) want(what string) {
	c.t.Helper()
	for {
		for i, got := range c.got {
			if got == what {
				c.got = append(c.got[:i], c.got[i+1:]...)
				return
			}
		}
		c.ack(c.receive())
	}
}

// failure reads to the end of the stream.
func (c *client) failure() error {
	for {
		resp, err := c.stream.Recv()
		if err != nil {
			return err
		}
		c.ack(resp)
	}
}

func TestServerServesAProxy(t *testing.T) {
	r := start(t, nil)
	view := r.publish(newTestView(), "bundle proxy 1 needs=cluster:passthrough", "cluster passthrough 1")
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	r.publish(view, "cluster passthrough 2")
	c.want("cluster passthrough@2")
}

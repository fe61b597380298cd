package xds

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// envoy opens stream after stream on the connection that it has, as Envoy does.
type envoy struct {
	r           *rig
	t           *testing.T
	conn        *grpc.ClientConn
	connections atomic.Int32
}

func newEnvoy(t *testing.T, r *rig) *envoy {
	t.Helper()
	e := &envoy{r: r, t: t}
	var err error
	e.conn, err = grpc.NewClient("passthrough:///tulle", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			e.connections.Add(1)
			return r.listener.DialContext(ctx)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.conn.Close() })
	return e
}

func (e *envoy) stream(token string) *client {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token), 2*patience)
	e.t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(e.conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		e.t.Fatal(err)
	}
	return &client{t: e.t, stream: stream, first: true}
}

// TestRefusedProxiesGoElsewhere: the next try comes on another connection, which may lead to another replica.
func TestRefusedProxiesGoElsewhere(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *Config) { c.Credentials = insecure.NewCredentials() })
	e := newEnvoy(t, r)
	wantError(t, e.stream("cart-1").failure(), codes.Unavailable, "still reading")
	r.publish(newTestView(), passthrough)
	for end := time.Now().Add(patience); e.connections.Load() < 2 && time.Now().Before(end); {
		// Unavailable is the end of the connection, in the middle of a try.
		if err := e.stream("too new").failure(); status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	if n := e.connections.Load(); n < 2 {
		t.Fatalf("%d connections", n)
	}
	r.until(t, "no stream", func(s []ProxyState) bool { return len(s) == 0 })
	c := e.stream("cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
}

// TestConnectionsAge: a proxy is sent off after a while, comes back on another connection, and is sent nothing that it has.
func TestConnectionsAge(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *Config) { c.ConnectionAge, c.ConnectionGrace = time.Second, 50*time.Millisecond })
	view := r.publish(newTestView(), passthrough)
	e := newEnvoy(t, r)
	c := e.stream("cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	wantError(t, c.failure(), codes.Unavailable, "")
	again := e.stream("cart-1")
	again.send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: resource.Cluster.URL(), Node: node(40), InitialResourceVersions: map[string]string{"passthrough": "1"},
	})
	r.publish(view, "cluster passthrough 2")
	answer := again.receive()
	for len(answer.GetResources()) == 0 {
		again.ack(answer)
		answer = again.receive()
	}
	if got := answer.GetResources(); len(got) != 1 || got[0].GetVersion() != "2" {
		t.Errorf("the first resources on the new connection are %v", got)
	}
	if n := e.connections.Load(); n < 2 {
		t.Errorf("%d connections", n)
	}
}

// TestRefuse: proxies are sent off, to another replica if there is one, and served again later.
func TestRefuse(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *Config) { c.Credentials = insecure.NewCredentials() })
	r.publish(newTestView(), passthrough)
	e := newEnvoy(t, r)
	c := e.stream("cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	r.Refuse(errors.New("others know better"))
	wantError(t, c.failure(), codes.Unavailable, "others know better")
	for end := time.Now().Add(patience); e.connections.Load() < 2 && time.Now().Before(end); {
		if err := e.stream("cart-1").failure(); status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	if n := e.connections.Load(); n < 2 {
		t.Fatalf("%d connections", n)
	}
	r.Refuse(nil)
	again := newEnvoy(t, r).stream("cart-1")
	again.request("cluster", "")
	again.want("cluster passthrough@1")
}

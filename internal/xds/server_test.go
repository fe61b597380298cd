package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"google.golang.org/protobuf/types/known/anypb"

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
	seen    func()
}

func (a *tokens) Authenticate(_ context.Context, token string) (resource.Proxy, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen != nil {
		defer a.seen()
	}
	p, ok := a.proxies[token]
	if !ok {
		return resource.Proxy{}, time.Time{}, errors.Join(a.err, errors.New("token is of no pod"))
	}
	return p, a.expires, a.err
}

func (a *tokens) expire(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expires = at
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

func (r *rig) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///tulle", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (r *rig) connect(t *testing.T, token string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token), 2*patience)
	t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(r.dial(t)).DeltaAggregatedResources(ctx)
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

// until waits for a state of the server.
func (r *rig) until(t *testing.T, what string, done func([]ProxyState) bool) []ProxyState {
	t.Helper()
	timeout := time.After(patience)
	for {
		states := r.Proxies()
		if done(states) {
			return states
		}
		select {
		case <-r.Changed():
		case <-timeout:
			t.Fatalf("%s: not within %s: %+v", what, patience, states)
		}
	}
}

func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}

const passthrough = "bundle proxy 1 needs=cluster:passthrough\ncluster passthrough 1"

func TestProxyFollowsTheView(t *testing.T) {
	r := start(t, nil)
	view := r.publish(newTestView(), passthrough)
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	view = r.publish(view, "cluster passthrough 2")
	c.want("cluster passthrough@2")
	states := r.until(t, "synced", func(s []ProxyState) bool { return s[0].SyncedRevision == 2 })
	if s := states[0]; s.Proxy.Pod != "cart-1" || s.Proxy.Minor != 40 || s.EnvoyVersion != "1.40.3" || s.Pending.Count != 0 {
		t.Errorf("unexpected state %+v", s)
	}
	// What does not concern an idle proxy leaves it synced.
	view = r.publish(view, "cluster other 1")
	if s := r.Proxies()[0]; s.SyncedRevision != 3 {
		t.Errorf("synced at %d, want 3", s.SyncedRevision)
	}
	r.publish(view, "cluster passthrough 3")
	if resp := c.receive(); resp.Resources[0].Version != "3" {
		t.Errorf("got %v", resp)
	}
	if s := r.Proxies()[0]; s.SyncedRevision != 3 {
		t.Errorf("synced at %d before the acknowledgement, want 3", s.SyncedRevision)
	}
}

func TestStreamsAreRefused(t *testing.T) {
	r := start(t, nil)
	wantError(t, r.connect(t, "cart-1").failure(), codes.Unavailable, "still reading")
	r.publish(newTestView(), passthrough)
	wantError(t, r.connect(t, "forged").failure(), codes.Unauthenticated, "token is of no pod")
	r.tokens.proxies["cart-1"] = resource.Proxy{UID: "1"}
	r.tokens.err = status.Error(codes.Unavailable, "no keys yet")
	wantError(t, r.connect(t, "cart-1").failure(), codes.Unavailable, "no keys yet")
	r.tokens.err = nil

	c := r.connect(t, "cart-1")
	c.first = false
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Cluster.URL(), Node: node(37)})
	wantError(t, c.failure(), codes.FailedPrecondition, "Envoy 1.37.3 is not supported by this control plane, which serves 1.38 to 1.40")
	c = r.connect(t, "cart-1")
	c.first = false
	c.request("cluster", "")
	wantError(t, c.failure(), codes.InvalidArgument, "states no version of Envoy")
}

func TestAuthorizationHeader(t *testing.T) {
	for header, want := range map[string]string{
		"":          "want one authorization header with the pod's token, got 0",
		"Basic abc": "not of the form: Bearer <token>",
		"Bearer ":   "not of the form: Bearer <token>",
		"bearer ok": "",
	} {
		md := metadata.MD{}
		if header != "" {
			md.Set("authorization", header)
		}
		token, err := bearer(metadata.NewIncomingContext(context.Background(), md))
		if want == "" {
			if err != nil || token != "ok" {
				t.Errorf("%q: got %q, %v", header, token, err)
			}
			continue
		}
		wantError(t, err, codes.Unauthenticated, want)
	}
}

func TestEnvoyVersionFromText(t *testing.T) {
	s := &Server{config: Config{MinMinor: 38, MaxMinor: 40}}
	_, minor, err := s.envoyVersion(&corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.39.2"}})
	if err != nil || minor != 39 {
		t.Errorf("got %d, %v", minor, err)
	}
}

func TestStateOfTheWorldIsRefused(t *testing.T) {
	r := start(t, nil)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(r.dial(t)).StreamAggregatedResources(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantError(t, err, codes.Unimplemented, "DELTA_GRPC")
}

func TestStreamsEnd(t *testing.T) {
	r := start(t, nil)
	r.publish(newTestView(), passthrough)
	connected := func(token string) *client {
		c := r.connect(t, token)
		c.request("cluster", "")
		c.want("cluster passthrough@1")
		return c
	}
	older := connected("cart-1")
	newer := connected("cart-1")
	wantError(t, older.failure(), codes.Aborted, "replaced by a newer stream")
	r.Disconnect("1")
	wantError(t, newer.failure(), codes.PermissionDenied, "the pod of this proxy is gone")

	r.tokens.expire(time.Now().Add(50 * time.Millisecond))
	brief := r.connect(t, "cart-2")
	brief.request("cluster", "")
	wantError(t, brief.failure(), codes.Unauthenticated, "has expired")
	r.tokens.expire(time.Time{})

	// A stream that is being opened while its pod goes.
	wantError(t, late(t, r).failure(), codes.PermissionDenied, "the pod of this proxy is gone")
	r.until(t, "none is left", func(s []ProxyState) bool { return len(s) == 0 })
	for reason, want := range map[string]float64{"replaced": 1, "deleted": 2, "expired": 1} {
		if n := testutil.ToFloat64(r.metrics.ended.WithLabelValues(reason)); n != want {
			t.Errorf("%v streams %s, want %v", n, reason, want)
		}
	}

	last := connected("cart-2")
	r.until(t, "one stream", func(s []ProxyState) bool { return len(s) == 1 })
	r.stop()
	wantError(t, last.failure(), codes.Unavailable, "stopping")
}

// late connects as a pod that goes between its authentication and its first request.
func late(t *testing.T, r *rig) *client {
	t.Helper()
	authenticated := make(chan struct{})
	r.tokens.seen = func() { close(authenticated) }
	c := r.connect(t, "other-1")
	<-authenticated
	r.tokens.seen = nil
	r.Disconnect("3")
	c.request("cluster", "")
	return c
}

func TestProxyThatAcknowledgesNothing(t *testing.T) {
	view, _ := newTestView().with("cluster a 1")
	s := newSession(&resource.Proxy{}, view, bounds{5, 5, 5}, time.Second)
	for i := range 100 {
		if _, err := s.request(scriptRequest("cluster", "+a")); err != nil {
			wantError(t, err, codes.ResourceExhausted, "11 responses have not been acknowledged, the limit is 10")
			return
		}
		if out, _ := s.flush(time.Unix(0, 0)); len(out) != 1 {
			t.Fatalf("ask %d got %d responses", i, len(out))
		}
	}
	t.Error("nothing ended the stream")
}

// TestFreshReadsAreReadAgain: a proxy may read a resource of a view while the next is being put together, too late to be
// among its changes.
func TestFreshReadsAreReadAgain(t *testing.T) {
	r := start(t, nil)
	view := r.publish(newTestView(), passthrough, "cluster a 1")
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.request("cluster", "+a")
	c.want("cluster a@1")
	next, _ := view.with("cluster a 2")
	r.Publish(next, nil)
	c.want("cluster a@2")
}

func TestPanicEndsOneStream(t *testing.T) {
	r := start(t, nil)
	view := r.publish(newTestView(), passthrough)
	good, bad := r.connect(t, "cart-1"), r.connect(t, "other-1")
	for _, c := range []*client{good, bad} {
		c.request("cluster", "")
		c.want("cluster passthrough@1")
	}
	view, _ = view.with("")
	r.Publish(panicking{view, "boom"}, nil)
	bad.request("cluster", "+boom")
	wantError(t, bad.failure(), codes.Internal, "internal error of the control plane")
	good.request("cluster", "+fine")
	r.publish(view, "cluster fine 1")
	good.want("cluster fine@1")
	if n := testutil.ToFloat64(r.metrics.panics); n != 1 {
		t.Errorf("%v panics counted, want 1", n)
	}
	// A later connection of the proxy works.
	again := r.connect(t, "other-1")
	again.request("cluster", "")
	again.want("cluster passthrough@1")
}

// TestPanicBeforeAStreamIsContained: also where no stream is there yet.
func TestPanicBeforeAStreamIsContained(t *testing.T) {
	r := start(t, nil)
	r.publish(newTestView(), passthrough)
	r.tokens.seen = func() { panic("a bug") }
	wantError(t, r.connect(t, "cart-1").failure(), codes.Internal, "internal error of the control plane")
	r.tokens.seen = nil
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	if n := testutil.ToFloat64(r.metrics.panics); n != 1 {
		t.Errorf("%v panics counted, want 1", n)
	}
	if n := testutil.ToFloat64(r.metrics.ended.WithLabelValues("panic")); n != 1 {
		t.Errorf("%v streams ended by a panic, want 1", n)
	}
}

// panicking is a view with a bug.
type panicking struct {
	resource.View
	name string
}

func (v panicking) Resource(p *resource.Proxy, ref resource.Ref) (*resource.Resource, resource.ScopedRef) {
	if ref.Name == v.name {
		panic("a bug")
	}
	return v.View.Resource(p, ref)
}

func TestSlowProxyIsCutOff(t *testing.T) {
	r := start(t, func(c *Config) { c.SendTimeout = 50 * time.Millisecond })
	view := newTestView()
	bundle := &resource.Resource{Ref: proxyBundle, Version: "1"}
	for i := range 64 {
		big := testResource(resource.Ref{Type: resource.Cluster, Name: fmt.Sprint("big", i)}, "1")
		big = resource.WithBody(*big, &anypb.Any{TypeUrl: big.Type.URL(), Value: make([]byte, 1<<18)})
		view.resources[big.Ref] = big
		bundle.Needs = append(bundle.Needs, big.Ref)
	}
	view.resources[proxyBundle] = bundle
	r.Publish(view, nil)
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	r.until(t, "cut off", func([]ProxyState) bool {
		return testutil.ToFloat64(r.metrics.ended.WithLabelValues("slow")) == 1
	})
	wantError(t, c.failure(), codes.ResourceExhausted, "the proxy has read nothing for 50ms")
}

func TestCertificates(t *testing.T) {
	var calls atomic.Int32
	r := start(t, func(c *Config) {
		c.Certificates = signer(func(p *resource.Proxy) (*resource.Resource, time.Time, error) {
			switch n := calls.Add(1); n {
			case 1:
				return nil, time.Time{}, errors.New("issuer is not ready")
			case 2:
				panic("a bug")
			default:
				return testResource(workload, fmt.Sprint(p.Pod, n)), time.Now(), nil
			}
		})
	})
	r.publish(newTestView(), passthrough)
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	if calls.Load() != 0 {
		t.Error("a certificate was signed that nobody asked for")
	}
	c.request("secret", "+workload")
	r.until(t, "error shown", func(s []ProxyState) bool { return len(s) == 1 && s[0].CertificateError == "issuer is not ready" })
	c.want("secret workload@cart-13")
	c.want("secret workload@cart-14") // Renewed.
	r.until(t, "error gone", func(s []ProxyState) bool { return s[0].CertificateError == "" })
	if n := testutil.ToFloat64(r.metrics.panics); n != 1 {
		t.Errorf("%v panics counted, want 1", n)
	}
}

func TestCertificateRetries(t *testing.T) {
	var r renewal
	now := time.Unix(0, 0)
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		want *= time.Second
		r.done(signed{err: errors.New("no")}, now)
		if got := r.next.Sub(now); got < want/2 || got >= want*3/2 {
			t.Errorf("next try in %s, want about %s", got, want)
		}
	}
	r.done(signed{secret: testResource(workload, "1"), renewAt: now.Add(time.Hour)}, now)
	if r.next != now.Add(time.Hour) || r.failed != "" {
		t.Errorf("renewal at %s, %q", r.next, r.failed)
	}
}

// TestReissueWhileSigning: what is being signed may be of before what the reissue is for, such as another root.
func TestReissueWhileSigning(t *testing.T) {
	now := time.Unix(0, 0)
	r := renewal{running: true}
	by := now.Add(time.Minute)
	r.hasten(by)
	r.done(signed{secret: testResource(workload, "1"), renewAt: now.Add(time.Hour)}, now)
	if r.next != by {
		t.Errorf("renewal at %s, want %s", r.next, by)
	}
	r.done(signed{secret: testResource(workload, "2"), renewAt: now.Add(time.Hour)}, by)
	if r.next != now.Add(time.Hour) {
		t.Errorf("the renewal after that at %s, want %s", r.next, now.Add(time.Hour))
	}
}

func TestRejectionsNameTheirObject(t *testing.T) {
	r := start(t, nil)
	r.publish(newTestView(), "bundle proxy 1 needs=cluster:a", "cluster a 1 from=Mesh/shop/shop")
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	resp := c.receive()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce,
		ErrorDetail: status.New(codes.Internal, "Error adding/updating cluster(s) a: why").Proto()})
	s := r.until(t, "rejected", func(s []ProxyState) bool { return len(s[0].Rejections) == 1 && s[0].SyncedRevision == 1 })
	got := s[0].Rejections[0]
	if got.Origins[0].Name != "shop" || got.Version != "1" || !strings.HasSuffix(got.Message, "a: why") {
		t.Errorf("unexpected %+v", got)
	}
	if n := testutil.ToFloat64(r.metrics.nacks.WithLabelValues("cluster")); n != 1 {
		t.Errorf("%v rejections counted", n)
	}
}

// TestAsksAreAnsweredTogether steps a loop by hand: the first ask is answered at once, those within the window together.
func TestAsksAreAnsweredTogether(t *testing.T) {
	r := start(t, func(c *Config) { c.AskWindow = 5 * time.Millisecond })
	view := r.publish(newTestView(), passthrough, "cluster a 1", "cluster b 1", "cluster c 1")
	s := testStream(r.Server, view, "1")
	if err := r.add(s); err != nil {
		t.Fatal(err)
	}
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	answers := func(now time.Time, lines string) int {
		if err := s.take(scriptRequest("cluster", lines), now); err != nil {
			t.Fatal(err)
		}
		if err := s.step(context.Background(), now); err != nil {
			t.Fatal(err)
		}
		batch := s.outgoing
		if s.outgoing, s.sending = nil, (time.Time{}); len(batch) == 0 {
			return 0
		}
		return len(batch[0].items)
	}
	answers(at(0), "")
	for _, ask := range []struct {
		ms, want int
		name     string
	}{{100, 1, "+a"}, {101, 0, "+b"}, {104, 0, "+c"}} {
		if got := answers(at(ask.ms), ask.name); got != ask.want {
			t.Errorf("%d answers after %d ms, want %d", got, ask.ms, ask.want)
		}
	}
	if next := s.next(); next != at(105) {
		t.Errorf("the loop sleeps until %s, want 5 ms after the last answer", next)
	}
	if got := answers(at(105), ""); got != 2 {
		t.Errorf("%d answers at the end of the window, want 2", got)
	}
}

// testStream returns a stream without a connection.
func testStream(s *Server, view resource.View, uid string) *stream {
	t := &stream{
		server: s, log: s.config.Log, woken: make(chan struct{}, 1), ended: make(chan error, 1),
		asked: map[string]time.Time{}, renewal: renewal{results: make(chan signed, 1), panicked: s.panicked},
		allowance: newAllowance(),
		proxy:     resource.Proxy{Namespace: "shop", Pod: "p" + uid, UID: uid, Owner: uid, Minor: 40},
	}
	t.session = newSession(&t.proxy, view, s.config.bounds(), time.Second)
	return t
}

// TestNoChangeIsMissed publishes while proxies ask: whoever comes to want a resource while it changes gets the newest.
func TestNoChangeIsMissed(t *testing.T) {
	const names, views = 20, 200
	r := start(t, nil)
	view := r.publish(newTestView(), passthrough)
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	published := make(chan struct{})
	go func() {
		defer close(published)
		for n := range views {
			var lines []string
			for i := range names {
				lines = append(lines, fmt.Sprintf("cluster c%d %d", i, n))
			}
			view = r.publish(view, lines...)
		}
	}()
	for i := range names {
		c.request("cluster", fmt.Sprint("+c", i))
		for !slices.ContainsFunc(c.got, func(got string) bool { return strings.HasPrefix(got, fmt.Sprintf("cluster c%d@", i)) }) {
			c.ack(c.receive())
		}
	}
	<-published
	for i := range names {
		c.want(fmt.Sprintf("cluster c%d@%d", i, views-1))
	}
}

package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	runtimemetrics "runtime/metrics"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	// offendersEach is how many there are of each kind. Ten times as many were tried, too: a minute on a quiet machine.
	offendersEach = 20
	neighbours    = 20
	crowdServices = 300
	// bigOnes is the number of big resources.
	bigOnes = 5
	// persistence is how often an offender does again what it should not: more would only cost the machine.
	persistence  = 40
	crowdChanges = 40
	// crowdBound is what an offender may cost, in bytes, with both ends of its stream: two responses of a megabyte at most, one that is read by
	// nobody and one that is being written.
	crowdBound = 3 << 20
)

// offence is what a kind of misbehaving proxies does on its stream until that ends.
type offence struct {
	name string
	do   func(*offender) error
	// marks are parts of log lines, and labels of metrics, one of which tells of it: limits that are reached, or why the stream is ended.
	marks []string
	// ends says that the stream ends.
	ends bool
}

// TestManyOffendersAtOnce: 20 proxies that never read, 20 that acknowledge nothing, 20 that refuse everything and 20 that flood their subscriptions,
// all at once. Memory is bounded, the well-behaved get every change, once and in order, and each offender is counted and named.
func TestManyOffendersAtOnce(t *testing.T) {
	offences := []offence{
		{name: "never reads", do: (*offender).neverRead, marks: []string{"reason=slow"}, ends: true},
		{name: "never acknowledges", do: (*offender).neverAcknowledge, marks: []string{"reason=unacknowledged"}, ends: true},
		{name: "refuses everything", do: (*offender).refuseEverything, marks: []string{"limit=rejections"}},
		{name: "floods", do: (*offender).flood, marks: []string{"limit=rate", "limit=names", "reason=unacknowledged"}},
	}
	c := startCrowd(t, offences)
	before := heap()
	var all sync.WaitGroup
	for i, o := range offences {
		for j := range offendersEach {
			p := &offender{crowd: c, token: fmt.Sprintf("bad-%d-%d", i, j)}
			all.Go(func() {
				if err := p.run(o); err != nil {
					t.Errorf("%s %s: %v", o.name, p.token, err)
				}
			})
		}
	}
	peak := c.measure(offences)
	grown := float64(peak) - float64(before)
	t.Logf("%d offenders: heap of both ends grew by %.0f MB at most, %.0f kB each", len(offences)*offendersEach, grown/(1<<20), grown/float64(len(offences)*offendersEach)/1024)
	if limit := float64(len(offences) * offendersEach * crowdBound); grown > limit {
		t.Errorf("heap grew by %.0f MB, want at most %.0f", grown/(1<<20), limit/(1<<20))
	}
	c.wantAllCounted(offences)
	c.wantNeighboursServed()
	c.cancel()
	all.Wait()
}

// crowd is a server with well-behaved proxies, and how to join them.
type crowd struct {
	*rig
	t          *testing.T
	address    string
	view       *testView
	log        *safeBuffer
	ctx        context.Context
	cancel     context.CancelFunc
	neighbours []*neighbour
	changes    int
}

func startCrowd(t *testing.T, offences []offence) *crowd {
	c := &crowd{t: t, log: &safeBuffer{}}
	c.rig = start(t, func(config *Config) {
		config.Log = slog.New(slog.NewTextHandler(c.log, nil))
		config.SendTimeout, config.AckTimeout = 10*time.Second, 20*time.Second
	})
	for i := range offences {
		for j := range offendersEach {
			c.join(fmt.Sprintf("bad-%d-%d", i, j))
		}
	}
	for i := range neighbours {
		c.join(fmt.Sprint("good-", i))
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	t.Cleanup(c.cancel)
	// The in-process listener has buffers of 2 MB a connection: with real ones, what is measured is the server's.
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- c.Serve(t.Context(), listener) }() // it ends with the test
	t.Cleanup(func() {
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	c.view = newTestView()
	for i := range bigOnes {
		// 1.25 MB that all share: two responses, of which the second waits for who does not read the first.
		big := testResource(resource.Ref{Type: resource.Cluster, Name: fmt.Sprint("big", i)}, "1")
		big = resource.WithBody(*big, &anypb.Any{TypeUrl: big.Type.URL(), Value: make([]byte, 1<<18)})
		c.view.resources[big.Ref] = big
	}
	for i := range crowdServices {
		r := testResource(resource.Ref{Type: resource.Cluster, Name: serviceName(i)}, "0")
		c.view.resources[r.Ref] = r
	}
	c.Publish(c.view, nil)
	for i := range neighbours {
		n := &neighbour{crowd: c, name: fmt.Sprint("good-", i), got: map[string][]string{}}
		c.neighbours = append(c.neighbours, n)
		n.open()
	}
	c.eventually("the well-behaved are served", func() bool {
		return !slices.ContainsFunc(c.neighbours, func(n *neighbour) bool { return n.newest(serviceName(0)) != "0" })
	})
	return c
}

func (c *crowd) join(pod string) {
	c.tokens.proxies[pod] = resource.Proxy{Namespace: "shop", Pod: pod, UID: pod, ServiceAccount: pod, Owner: pod}
}

// persist has a pod have done so much already that it is near its limit of requests, and beyond that of rejections.
func (c *crowd) persist(pod string) {
	a := c.allowanceOf(pod)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.reading.take(requestBurst-4*openingCost, now)
	a.refusing.take(rejectionBurst+60<<20, now)
}

func (c *crowd) stream(token string) (deltaClient, func(), error) {
	connection, err := grpc.NewClient("passthrough:///"+c.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithInitialWindowSize(64<<10))
	if err != nil {
		return nil, nil, err
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(
		metadata.AppendToOutgoingContext(c.ctx, "authorization", "Bearer "+token))
	return stream, func() { connection.Close() }, err
}

type deltaClient = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// eventually waits for what has no signal.
func (c *crowd) eventually(what string, done func() bool) {
	c.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(3 * patience); !done(); {
		select {
		case <-tick.C:
		case <-timeout:
			c.t.Fatalf("%s: not within %s", what, 3*patience)
		}
	}
}

// change publishes the next version of a resource that only the well-behaved have asked for.
func (c *crowd) change() {
	c.changes++
	next, changed := c.view.with(fmt.Sprintf("cluster %s %d", serviceName(0), c.changes))
	c.view = next
	c.Publish(next, []resource.ScopedRef{{Scope: resource.Scope{Minor: 40}, Ref: changed[0]}})
}

// measure publishes changes until the log names all offenders, and returns the most memory that was in use.
func (c *crowd) measure(offences []offence) (peak uint64) {
	c.t.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(12 * patience)
	for {
		peak = max(peak, live())
		if c.changes < crowdChanges {
			c.change()
		} else if counts := c.named(offences); !slices.ContainsFunc(counts, func(n int) bool { return n < offendersEach }) {
			return peak
		}
		select {
		case <-tick.C:
		case <-timeout:
			c.t.Fatalf("of %d each, named are %v; the log ends with\n%s", offendersEach, c.named(offences), lastLines(c.log.String()))
		}
	}
}

// live returns the bytes that the last collection found in use. To collect each time would take all of the machine from those who are measured.
func live() uint64 {
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Uint64()
}

// named returns how many offenders of each kind a line of the log names, with its reason.
func (c *crowd) named(offences []offence) []int {
	seen := map[string]bool{}
	counts := make([]int, len(offences))
	for line := range strings.Lines(c.log.String()) {
		for i, o := range offences {
			_, pod, ok := strings.Cut(line, fmt.Sprintf("pod=shop/bad-%d-", i))
			number, _, _ := strings.Cut(pod, " ")
			if key := fmt.Sprint(i, "-", number); ok && o.told(line) && !seen[key] {
				seen[key] = true
				counts[i]++
			}
		}
	}
	return counts
}

func lastLines(log string) string { return log[max(0, len(log)-3000):] }

// told says whether a line of the log tells of it.
func (o offence) told(line string) bool {
	return slices.ContainsFunc(o.marks, func(mark string) bool { return strings.Contains(line, mark) })
}

func (c *crowd) wantAllCounted(offences []offence) {
	c.t.Helper()
	for _, o := range offences {
		var n float64
		for _, mark := range o.marks {
			if reason, ok := strings.CutPrefix(mark, "reason="); ok {
				n += testutil.ToFloat64(c.metrics.ended.WithLabelValues(reason))
			} else {
				n += testutil.ToFloat64(c.metrics.limited.WithLabelValues(strings.TrimPrefix(mark, "limit=")))
			}
		}
		if n < offendersEach {
			c.t.Errorf("%s: %v are counted as %v, want %d or more", o.name, n, o.marks, offendersEach)
		}
	}
}

// wantNeighboursServed: each has the newest version, got every one at most once and in order, and nothing that it has not asked for.
func (c *crowd) wantNeighboursServed() {
	c.t.Helper()
	last := fmt.Sprint(c.changes)
	c.eventually("the well-behaved have the newest", func() bool {
		return !slices.ContainsFunc(c.neighbours, func(n *neighbour) bool { return n.newest(serviceName(0)) != last })
	})
	for _, n := range c.neighbours {
		n.want(c.t)
	}
}

// neighbour is a well-behaved proxy.
type neighbour struct {
	*crowd
	name string

	mu  sync.Mutex
	got map[string][]string // versions by name
	err error
}

func (n *neighbour) open() {
	stream, end, err := n.stream(n.name)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(end)
	hello := scriptRequest("cluster", "+"+serviceName(0)+" +*")
	hello.Node = node(40)
	if err := stream.Send(hello); err != nil {
		n.t.Fatal(err)
	}
	go func() {
		for {
			r, err := stream.Recv()
			n.mu.Lock()
			if n.err = err; err == nil {
				for _, res := range r.Resources {
					n.got[res.Name] = append(n.got[res.Name], res.Version)
				}
			}
			n.mu.Unlock()
			if err != nil || stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}) != nil {
				return
			}
		}
	}()
}

func (n *neighbour) newest(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if v := n.got[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func (n *neighbour) want(t *testing.T) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		t.Errorf("%s: %v", n.name, n.err)
	}
	if len(n.got) != 1 {
		t.Errorf("%s got %d resources, want the one that it asked for", n.name, len(n.got))
	}
	before := -1
	for _, version := range n.got[serviceName(0)] {
		var now int
		if _, err := fmt.Sscan(version, &now); err != nil || now <= before {
			t.Errorf("%s got %v", n.name, n.got[serviceName(0)])
		}
		before = now
	}
}

// offender is a misbehaving proxy.
type offender struct {
	*crowd
	token  string
	client deltaClient
	sent   atomic.Int64

	sending sync.Mutex
}

func (p *offender) send(r *discoveryv3.DeltaDiscoveryRequest) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	return p.client.Send(r)
}

// run misbehaves until the stream ends, and fails if it ends in another way than it should.
func (p *offender) run(o offence) error {
	var end func()
	var err error
	if !o.ends {
		p.persist(p.token)
	}
	if p.client, end, err = p.stream(p.token); err != nil {
		return err
	}
	defer end()
	hello := scriptRequest("cluster", "")
	hello.Node = node(40)
	if err := p.send(hello); err != nil {
		return err
	}
	err = o.do(p)
	if !o.ends || p.ctx.Err() != nil {
		return nil
	}
	if status.Code(err) != codes.ResourceExhausted {
		return fmt.Errorf("the stream ended with %w", err)
	}
	return nil
}

// neverRead asks for more than a response and does not read until it is told of in the log: flow control stops the sender.
func (p *offender) neverRead() error {
	if err := p.send(p.bigOnes()); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for !strings.Contains(p.log.String(), "pod=shop/"+p.token+" reason=") {
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-tick.C:
		}
	}
	return p.drain(nil)
}

// bigOnes asks for all big resources.
func (p *offender) bigOnes() *discoveryv3.DeltaDiscoveryRequest {
	request := scriptRequest("cluster", "")
	for i := range bigOnes {
		request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, fmt.Sprint("big", i))
	}
	return request
}

// drain reads to the end, and answers with what is made of each response.
func (p *offender) drain(answer func(*discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest) error {
	for {
		r, err := p.client.Recv()
		if err != nil {
			return err
		}
		if answer == nil || p.sent.Add(1) > persistence {
			continue
		}
		if err := p.send(answer(r)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
}

// neverAcknowledge asks for something else each time.
func (p *offender) neverAcknowledge() error {
	if err := p.send(scriptRequest("cluster", "+"+serviceName(0))); err != nil {
		return err
	}
	return p.drain(func(*discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
		return scriptRequest("cluster", "+"+serviceName(int(p.sent.Load())%crowdServices))
	})
}

// refuseEverything refuses, and asks anew for what it refused.
func (p *offender) refuseEverything() error {
	if err := p.send(p.bigOnes()); err != nil {
		return err
	}
	return p.drain(func(r *discoveryv3.DeltaDiscoveryResponse) *discoveryv3.DeltaDiscoveryRequest {
		again := p.bigOnes()
		again.ResponseNonce, again.ErrorDetail = r.Nonce, status.New(codes.Internal, strings.Repeat("no", 500)).Proto()
		return again
	})
}

// flood subscribes to new names as fast as they are taken, and acknowledges what it gets.
func (p *offender) flood() error {
	go func() {
		for {
			r, err := p.client.Recv()
			if err != nil || p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}) != nil {
				return // with the stream
			}
		}
	}()
	for n := 0; ; {
		request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Endpoints.URL()}
		for range 20 {
			request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, fmt.Sprint("a-name-that-nobody-has-", n))
			n++
		}
		if err := p.send(request); err != nil {
			return err
		}
	}
}

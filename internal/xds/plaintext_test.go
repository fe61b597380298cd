package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/tulle-mesh/tulle/internal/resource"
)

type logClient = alsv3.AccessLogService_StreamAccessLogsClient

// log opens a log stream.
func (r *rig) log(t *testing.T, token string) logClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token), 2*patience)
	t.Cleanup(cancel)
	stream, err := alsv3.NewAccessLogServiceClient(r.dial(t)).StreamAccessLogs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func send(t *testing.T, c logClient, entries ...*accesslogv3.TCPAccessLogEntry) {
	t.Helper()
	err := c.Send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: entries},
	}})
	if err != nil && !errors.Is(err, io.EOF) { // a stream that has ended says why when it is closed
		t.Fatal(err)
	}
}

func connection(from string, port uint32) *accesslogv3.TCPAccessLogEntry {
	address := func(ip string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	return &accesslogv3.TCPAccessLogEntry{CommonProperties: &accesslogv3.AccessLogCommon{
		DownstreamDirectRemoteAddress: address(from, 40000), DownstreamLocalAddress: address("10.244.0.7", port),
	}}
}

// reported waits for reports.
func (r *rig) reported(t *testing.T, what string, done func([]PlaintextReport) bool) []PlaintextReport {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		reports := r.Plaintext()
		if done(reports) {
			return reports
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: not within %s: %+v", what, patience, reports)
		}
	}
}

// Proxies report who connects in plaintext; the control plane keeps each peer once, by address and port, and tells when one is new.
func TestPlaintextIsReported(t *testing.T) {
	r := start(t, nil)
	if _, err := r.log(t, "cart-1").CloseAndRecv(); err == nil {
		t.Error("a log stream is served before the first view")
	}
	r.publish(newTestView(), passthrough)
	c := r.log(t, "cart-1")
	nothing := &accesslogv3.TCPAccessLogEntry{}
	send(t, c, connection("10.0.0.1", 80), connection("10.0.0.1", 80), connection("::ffff:10.0.0.1", 80), connection("10.0.0.1", 81), connection("nowhere", 80), nothing)
	select {
	case <-r.Changed():
	case <-time.After(patience):
		t.Fatal("nobody is told of a new peer")
	}
	got := r.reported(t, "the peers", func(p []PlaintextReport) bool { return len(p) == 1 && p[0].Count == 2 })
	a := netip.MustParseAddr("10.0.0.1")
	want := []PlaintextReport{{
		Proxy: resource.Proxy{Namespace: "shop", Pod: "cart-1", UID: "1", ServiceAccount: "cart", Owner: "cart"},
		Count: 2, Peers: []PlaintextPeer{{Address: a, Port: 80, Reports: 3}, {Address: a, Port: 81, Reports: 1}},
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(PlaintextPeer{}, "LastSeen"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A log stream ends with its token, with its pod, and with the server; who is nobody has none.
func TestLogStreamsEnd(t *testing.T) {
	r := start(t, nil)
	r.publish(newTestView(), passthrough)
	_, err := r.log(t, "forged").CloseAndRecv()
	wantError(t, err, codes.Unauthenticated, "token is of no pod")

	r.tokens.expire(time.Now().Add(50 * time.Millisecond))
	err = r.log(t, "cart-1").RecvMsg(&alsv3.StreamAccessLogsResponse{})
	wantError(t, err, codes.Unauthenticated, "has expired")
	r.tokens.expire(time.Time{})

	c := r.log(t, "cart-1")
	send(t, c, connection("10.0.0.1", 80))
	r.reported(t, "the peer", func(p []PlaintextReport) bool { return len(p) == 1 })
	r.Disconnect("1")
	wantError(t, c.RecvMsg(&alsv3.StreamAccessLogsResponse{}), codes.PermissionDenied, "the pod of this proxy is gone")
	if p := r.Plaintext(); len(p) != 1 {
		t.Errorf("what the pod reported went with it: %+v", p)
	}

	c = r.log(t, "cart-2")
	send(t, c, connection("10.0.0.1", 80))
	r.reported(t, "the peer of the other", func(p []PlaintextReport) bool { return len(p) == 2 })
	r.stop()
	wantError(t, c.RecvMsg(&alsv3.StreamAccessLogsResponse{}), codes.Unavailable, "stopping")
}

// A proxy that opens streams without end, or reports thousands of peers, costs a bounded amount; the peers seen last are kept, and
// forgotten after their time.
func TestPlaintextIsBounded(t *testing.T) {
	l := newPlaintextLog(time.Minute)
	p := resource.Proxy{Namespace: "shop", Pod: "cart-1", UID: "1"}
	var ends []chan error
	for range maxLogStreams {
		ends = append(ends, make(chan error, 1))
		if err := l.open(p, ends[len(ends)-1]); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, l.open(p, make(chan error, 1)), codes.ResourceExhausted, "64 log streams")
	now := time.Unix(1000, 0)
	peer := func(i int) peerKey { return peerKey{netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/256, i%256)), 80} }
	const many = 3 * maxPeers
	for i := range many {
		if !l.add("1", []peerKey{peer(i)}, now.Add(time.Duration(i)*time.Millisecond)) {
			t.Fatalf("peer %d is not new", i)
		}
	}
	if l.add("1", []peerKey{peer(many - 1)}, now.Add(time.Second)) {
		t.Error("a known peer is new")
	}
	reports := l.reports(now.Add(time.Second))
	if len(reports) != 1 || reports[0].Count != maxPeers || len(reports[0].Peers) != maxSamples || reports[0].Peers[0].Address != peer(many-1).address {
		t.Errorf("got %+v, want %d peers of which the ten last are named", reports, maxPeers)
	}
	if reports := l.reports(now.Add(2 * time.Minute)); len(reports) != 0 {
		t.Errorf("after the time to live there is still %+v", reports)
	}
	for _, end := range ends {
		l.close("1", end)
	}
	// Nobody may ever ask for reports: a stream of another proxy is enough.
	if err := l.open(resource.Proxy{UID: "2"}, make(chan error, 1)); err != nil {
		t.Fatal(err)
	}
	if l.forgetGone(time.Now().Add(time.Hour)); len(l.proxies) != 1 {
		t.Errorf("a proxy without streams and peers is remembered: %+v", l.proxies)
	}
}

package xds

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	// logPace is how often a message of one log stream is read. A proxy sends one a worker every few seconds, or more when
	// many clients connect anew all the time; what it then can't send it drops.
	logPace = 200 * time.Millisecond
	// maxPeers bounds the peers that are remembered of one proxy: those that were seen last.
	maxPeers = 256
	// maxLogStreams bounds the log streams of one proxy, which opens one a worker.
	maxLogStreams = 64
)

// PlaintextPeer is somebody who connected to a proxy without mTLS where that is permitted.
type PlaintextPeer struct {
	// Address of the peer, and the port of the pod that it connected to.
	Address netip.Addr
	Port    uint16
	// LastSeen is when the last report of it arrived, by this replica's clock.
	LastSeen time.Time
	// Reports is how many there were: at least one a connection.
	Reports int
}

// PlaintextReport is what one proxy reported of who connects without mTLS, lately (see Config.PlaintextTTL).
type PlaintextReport struct {
	Proxy resource.Proxy
	// Count of the peers by address and port, and the ten that were seen last.
	Count int
	Peers []PlaintextPeer
}

// peerKey tells the peers of a proxy apart.
type peerKey struct {
	address netip.Addr
	port    uint16
}

// plaintextLog is what proxies report. It is fed by log streams, which are not the proxies' ADS streams and may end at another replica
// than those, since each worker of an Envoy connects for itself.
type plaintextLog struct {
	ttl time.Duration

	mu      sync.Mutex
	proxies map[string]*reportingProxy // by UID
	swept   time.Time                  // when forgetGone last looked
}

// reportingProxy is a proxy that has, or had lately, a log stream.
type reportingProxy struct {
	proxy   resource.Proxy
	peers   map[peerKey]*PlaintextPeer
	streams map[chan error]struct{}
}

func newPlaintextLog(ttl time.Duration) *plaintextLog {
	return &plaintextLog{ttl: ttl, proxies: map[string]*reportingProxy{}}
}

// open notes a stream, which has to end when end gets an error. The error is a gRPC status.
func (l *plaintextLog) open(p resource.Proxy, end chan error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.proxies[p.UID]
	if r == nil {
		r = &reportingProxy{peers: map[peerKey]*PlaintextPeer{}, streams: map[chan error]struct{}{}}
		l.proxies[p.UID] = r
	}
	if len(r.streams) >= maxLogStreams {
		return status.Errorf(codes.ResourceExhausted, "this proxy has %d log streams already, the limit of this control plane", maxLogStreams)
	}
	r.proxy = p
	r.streams[end] = struct{}{}
	l.forgetGone(time.Now())
	return nil
}

// forgetGone forgets proxies that have no stream any more, and whose reports are of no use, so that a replica that nobody asks
// for reports does not keep those of all pods that ever were.
func (l *plaintextLog) forgetGone(now time.Time) {
	if now.Sub(l.swept) < time.Minute {
		return
	}
	l.swept = now
	for uid, r := range l.proxies {
		last := time.Time{}
		for _, p := range r.peers {
			if p.LastSeen.After(last) {
				last = p.LastSeen
			}
		}
		if len(r.streams) == 0 && now.Sub(last) > l.ttl {
			delete(l.proxies, uid)
		}
	}
}

func (l *plaintextLog) close(uid string, end chan error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.proxies[uid]; r != nil {
		delete(r.streams, end)
	}
}

// end ends the log streams of a proxy, or of all when uid is empty. What they reported stays.
func (l *plaintextLog) end(uid string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for u, r := range l.proxies {
		if uid != "" && u != uid {
			continue
		}
		for end := range r.streams {
			select {
			case end <- err:
			default:
			}
		}
	}
}

// add takes what a proxy reports, and says whether somebody is among it who was not known.
func (l *plaintextLog) add(uid string, keys []peerKey, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.proxies[uid]
	if r == nil {
		return false
	}
	unknown := false
	for _, k := range keys {
		peer := r.peers[k]
		if peer == nil {
			if len(r.peers) >= maxPeers {
				delete(r.peers, r.oldest())
			}
			peer = &PlaintextPeer{Address: k.address, Port: k.port}
			r.peers[k] = peer
			unknown = true
		}
		peer.LastSeen = now
		peer.Reports++
	}
	return unknown
}

func (r *reportingProxy) oldest() peerKey {
	var oldest peerKey
	var at time.Time
	for k, p := range r.peers {
		if at.IsZero() || p.LastSeen.Before(at) {
			oldest, at = k, p.LastSeen
		}
	}
	return oldest
}

// reports forgets the peers of which nothing was heard for the time to live, and returns the others.
func (l *plaintextLog) reports(now time.Time) []PlaintextReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []PlaintextReport
	for uid, r := range l.proxies {
		report := PlaintextReport{Proxy: r.proxy}
		for k, p := range r.peers {
			if now.Sub(p.LastSeen) > l.ttl {
				delete(r.peers, k)
				continue
			}
			report.Peers = append(report.Peers, *p)
		}
		if report.Count = len(report.Peers); report.Count > 0 {
			slices.SortFunc(report.Peers, lastSeenFirst)
			report.Peers = report.Peers[:min(report.Count, maxSamples)]
			out = append(out, report)
		} else if len(r.streams) == 0 {
			delete(l.proxies, uid)
		}
	}
	slices.SortFunc(out, func(a, b PlaintextReport) int {
		return cmp.Or(cmp.Compare(a.Proxy.Namespace, b.Proxy.Namespace), cmp.Compare(a.Proxy.Pod, b.Proxy.Pod), cmp.Compare(a.Proxy.UID, b.Proxy.UID))
	})
	return out
}

// lastSeenFirst puts those first that were seen last.
func lastSeenFirst(a, b PlaintextPeer) int {
	return cmp.Or(b.LastSeen.Compare(a.LastSeen), a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
}

// Plaintext returns what proxies reported to this replica of who connects without mTLS. They need not be connected to it otherwise.
func (s *Server) Plaintext() []PlaintextReport { return s.plaintext.reports(time.Now()) }

// serving says whether streams are admitted: a view was published and the server does not stop.
func (s *Server) serving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view != nil && !s.stopping
}

// accessLog serves the access log service, to which proxies report plaintext connections.
type accessLog struct {
	alsv3.UnimplementedAccessLogServiceServer
	server *Server
}

type logStream = grpc.ClientStreamingServer[alsv3.StreamAccessLogsMessage, alsv3.StreamAccessLogsResponse]

// StreamAccessLogs takes a worker's reports until its token expires. Who reports is known by the token; a proxy can only speak of itself.
func (a accessLog) StreamAccessLogs(g logStream) error {
	return a.server.contain(a.server.config.Log, func() error { return a.serve(g) })
}

func (a accessLog) serve(g logStream) error {
	s := a.server
	if !s.serving() {
		return status.Error(codes.Unavailable, "this replica of the control plane serves no streams now")
	}
	proxy, expires, err := s.authenticate(g.Context())
	if err != nil {
		return err
	}
	end := make(chan error, 1)
	if err := s.plaintext.open(proxy, end); err != nil {
		return err
	}
	defer s.plaintext.close(proxy.UID, end)
	ctx, cancel := context.WithCancel(g.Context())
	defer cancel()
	received := make(chan error, 1)
	go func() {
		received <- s.contain(s.config.Log, func() error { return a.receive(ctx, g, proxy.UID) })
	}()
	var expired <-chan time.Time
	if !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case err := <-received:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case err := <-end:
		return err
	case <-expired:
		return status.Error(codes.Unauthenticated, "the token that this stream was opened with has expired")
	}
}

// receive reads at most one message in logPace; the rest waits at the proxy.
func (a accessLog) receive(ctx context.Context, g logStream, uid string) error {
	pace := time.NewTicker(logPace)
	defer pace.Stop()
	for {
		m, err := g.Recv()
		if err != nil {
			return err
		}
		a.server.metrics.logMessages.Inc()
		if keys := peersIn(m); len(keys) > 0 && a.server.plaintext.add(uid, keys, time.Now()) {
			a.server.notify()
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// peersIn returns who a message reports, once for each entry. An entry that does not say who connected to what says nothing.
func peersIn(m *alsv3.StreamAccessLogsMessage) []peerKey {
	var keys []peerKey
	for _, e := range m.GetTcpLogs().GetLogEntry() {
		if k, ok := peerIn(e.GetCommonProperties()); ok {
			keys = append(keys, k)
		}
	}
	return keys
}

func peerIn(c *accesslogv3.AccessLogCommon) (peerKey, bool) {
	address, ok := socketAddress(c.GetDownstreamDirectRemoteAddress())
	if !ok {
		return peerKey{}, false
	}
	port := c.GetDownstreamLocalAddress().GetSocketAddress().GetPortValue()
	return peerKey{address, uint16(port)}, true
}

func socketAddress(a *corev3.Address) (netip.Addr, bool) {
	address, err := netip.ParseAddr(a.GetSocketAddress().GetAddress())
	return address.Unmap(), err == nil
}

package xds

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Authenticator says who a stream's bearer token belongs to, and when it expires. An error that is a gRPC status ends the
// stream with that status (Unavailable when tokens can't be verified just now), any other with Unauthenticated.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (proxy resource.Proxy, expires time.Time, err error)
}

// Certificates signs a proxy's certificate: the Secret "workload", and when to ask for the next one.
type Certificates interface {
	Certificate(ctx context.Context, proxy *resource.Proxy) (secret *resource.Resource, renewAt time.Time, err error)
}

// Config is what a Server needs. Zero durations and counts stand for the defaults.
type Config struct {
	Authenticator Authenticator
	Certificates  Certificates
	// MinMinor and MaxMinor bound the minor versions of Envoy 1 that are served.
	MinMinor, MaxMinor uint32
	// Credentials of the listener; nil serves plaintext, for tests.
	Credentials credentials.TransportCredentials
	Registry    prometheus.Registerer
	Log         *slog.Logger

	// MaxNames bounds the names that one proxy may subscribe to, or announce, per type (10,000).
	MaxNames int
	// MaxAsked bounds the destinations that one proxy may ask for (2,000), MaxOthers those of them that stand for no Service (1,000):
	// Envoy holds each for the rest of its life, at about 0.1 MB.
	MaxAsked, MaxOthers int
	// Linger is how long a resource stays at a proxy after nothing there needs it (10 s).
	Linger time.Duration
	// LearnedTTL is how long a workload's pods are sent what one of them asked for (6 h); LearnedNames bounds these
	// names per workload (1,000), PodNames those that one pod adds (250).
	LearnedTTL             time.Duration
	LearnedNames, PodNames int
	// LearnWindow is how old an ask must be to be learned (1 min). LearnAsks bounds the asks of one pod within that time (200): one
	// that asks for more tries addresses out, and nothing that it asks for is learned.
	LearnWindow time.Duration
	LearnAsks   int
	// SendTimeout is how long a proxy may leave a response unread before its stream is ended (30 s).
	SendTimeout time.Duration
	// AckTimeout is how long a proxy may leave a response unacknowledged before its stream is ended (5 min).
	AckTimeout time.Duration
	// AskWindow: asks this close to each other are answered together (5 ms).
	AskWindow time.Duration
	// ConnectionAge is after how long, give or take a tenth, a proxy's connection is ended, so that it finds the replicas that have
	// come since (30 min). All but its stream is told before; the stream ends ConnectionGrace later (2 s).
	ConnectionAge, ConnectionGrace time.Duration
	// PlaintextTTL is how long a peer is told of that connected without mTLS (10 min).
	PlaintextTTL time.Duration
}

func (c Config) withDefaults() Config {
	c.MaxNames = cmp.Or(c.MaxNames, 10_000)
	c.MaxAsked = cmp.Or(c.MaxAsked, 2000)
	c.MaxOthers = cmp.Or(c.MaxOthers, 1000)
	c.Linger = cmp.Or(c.Linger, 10*time.Second)
	c.LearnedTTL = cmp.Or(c.LearnedTTL, 6*time.Hour)
	c.LearnedNames = cmp.Or(c.LearnedNames, 1000)
	c.PodNames = cmp.Or(c.PodNames, 250)
	c.LearnWindow = cmp.Or(c.LearnWindow, time.Minute)
	c.LearnAsks = cmp.Or(c.LearnAsks, 200)
	c.SendTimeout = cmp.Or(c.SendTimeout, 30*time.Second)
	c.AckTimeout = cmp.Or(c.AckTimeout, 5*time.Minute)
	c.AskWindow = cmp.Or(c.AskWindow, 5*time.Millisecond)
	c.ConnectionAge = cmp.Or(c.ConnectionAge, 30*time.Minute)
	c.ConnectionGrace = cmp.Or(c.ConnectionGrace, 2*time.Second)
	c.PlaintextTTL = cmp.Or(c.PlaintextTTL, 10*time.Minute)
	return c
}

func (c Config) bounds() bounds {
	return bounds{names: c.MaxNames, asked: c.MaxAsked, others: c.MaxOthers}
}

// Server serves delta ADS. Its methods may be called from any goroutine.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	config    Config
	metrics   *metrics
	changed   chan struct{}
	news      atomic.Bool
	plaintext *plaintextLog

	mu   sync.Mutex
	view resource.View
	// reshaped is the newest revision that differed in more than endpoints.
	reshaped uint64
	stopping bool
	// refusal is why no proxy is served; nil when all are.
	refusal error
	streams map[*stream]struct{}
	// newest is each pod's latest stream, by UID.
	newest map[string]*stream
	// watchers are the streams that a change of a resource concerns.
	watchers map[resource.ScopedRef]map[*stream]struct{}
	// fresh are the streams that came to want resources since the last Publish.
	fresh   map[*stream]struct{}
	learned map[workloadKey]*learnedSet
	// gone are the pods, by UID, that were lately disconnected: a stream that was being opened meanwhile must not outlive them.
	gone map[string]time.Time
	// allowances are those of pods that were connected lately, by UID.
	allowances map[string]*allowance
	// lines are the log lines about streams that end.
	lines bucket
}

// NewServer returns a server that refuses streams until the first Publish. It fails when its metrics are registered already.
func NewServer(config Config) (*Server, error) {
	m, err := newMetrics(config.Registry)
	if err != nil {
		return nil, err
	}
	config = config.withDefaults()
	return &Server{
		config: config, metrics: m, changed: make(chan struct{}, 1), plaintext: newPlaintextLog(config.PlaintextTTL),
		streams:  map[*stream]struct{}{},
		newest:   map[string]*stream{},
		watchers: map[resource.ScopedRef]map[*stream]struct{}{},
		fresh:    map[*stream]struct{}{},
		learned:  map[workloadKey]*learnedSet{},
		gone:     map[string]time.Time{},

		allowances: map[string]*allowance{},
		lines:      bucket{rate: 10, burst: 100},
	}, nil
}

// Publish makes view the configuration of all proxies. changed are the resources that may differ from the last view's, of
// all that were read before it was put together; only streams that one of them concerns are woken.
func (s *Server) Publish(view resource.View, changed []resource.ScopedRef) {
	s.PublishSince(view, changed, time.Now())
}

// PublishSince is Publish of what the control plane has known of since a time, from which is measured how long it takes to reach proxies.
func (s *Server) PublishSince(view resource.View, changed []resource.ScopedRef, seen time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range changed {
		for t := range s.watchers[ref] {
			s.change(t, ref.Ref, seen)
		}
	}
	// What a stream read of the last view while this one was being made may be missing in changed.
	for t := range s.fresh {
		for ref := range t.fresh {
			s.change(t, ref, time.Time{})
		}
		t.fresh = nil
	}
	clear(s.fresh)
	s.view = view
	if len(changed) > 0 && !slices.ContainsFunc(changed, func(r resource.ScopedRef) bool { return r.Type != resource.Endpoints }) {
		s.signal()
		return
	}
	s.reshaped = max(s.reshaped, view.Revision())
	s.notify()
}

// Reshape says of a revision that is about to be published that more than endpoints is new in it, even if that changes nothing of what proxies hold: when
// they are at it is then News.
func (s *Server) Reshape(revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reshaped = max(s.reshaped, revision)
}

// change tells a stream that a resource may have changed, in a view that was published at a time (zero: not a change to measure).
func (s *Server) change(t *stream, ref resource.Ref, published time.Time) {
	t.state.SyncedRevision, t.state.Trust = s.synced(t), s.trust(t)
	t.mail.change(ref, published)
	t.wake()
}

// Proxies returns the state of every connected proxy.
func (s *Server) Proxies() []ProxyState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ProxyState, 0, len(s.streams))
	for t := range s.streams {
		state := t.state
		state.SyncedRevision, state.Trust = s.synced(t), s.trust(t)
		out = append(out, state)
	}
	return out
}

// synced returns the revision at which a stream is synced: when it has nothing to do, nothing that was published since it
// last had concerns it.
func (s *Server) synced(t *stream) uint64 {
	if t.idle && !t.busy && t.mail.empty() {
		return s.view.Revision()
	}
	return t.state.SyncedRevision
}

// trust returns the version of the trust bundle that a stream's proxy holds, by the same reasoning as synced.
func (s *Server) trust(t *stream) string {
	if t.trusting && !t.busy && t.mail.empty() {
		return trustOf(s.view, &t.proxy)
	}
	return t.state.Trust
}

// Trust returns the version of the trust bundle that proxies are sent now. Equal bundles have equal versions on every replica.
func (s *Server) Trust() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		return ""
	}
	return trustOf(s.view, &resource.Proxy{Minor: s.config.MaxMinor})
}

// Changed returns a channel that gets a value after Proxies may have changed; several changes may share one value.
func (s *Server) Changed() <-chan struct{} { return s.changed }

// News says whether, since it was last asked, more has happened to proxies than that they were given endpoints, which come and go all the time: a
// stream came or went, something else was published, a proxy holds all of that now, or refuses something.
func (s *Server) News() bool { return s.news.Swap(false) }

// notify tells those who wait for Changed, and that it is News.
func (s *Server) notify() {
	s.news.Store(true)
	s.signal()
}

func (s *Server) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Refuse sends all proxies off, and those that come, to other replicas, and tells them why; nil ends that.
func (s *Server) Refuse(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = nil
	if why == nil {
		return
	}
	s.refusal = endingf("refused", codes.Unavailable, "%v", why)
	for t := range s.streams {
		t.end(s.refusal)
	}
}

// Disconnect ends the stream of a pod, whose UID is given, for good: its identity no longer holds.
func (s *Server) Disconnect(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone[uid] = time.Now()
	if t := s.newest[uid]; t != nil {
		t.end(endOfPod())
	}
	s.plaintext.end(uid, status.Error(codes.PermissionDenied, "the pod of this proxy is gone"))
}

func endOfPod() error {
	return endingf("deleted", codes.PermissionDenied, "the pod of this proxy is gone")
}

// Watched says whether a connected proxy is to hear of changes of a resource.
func (s *Server) Watched(ref resource.ScopedRef) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers[ref]) > 0
}

// mayLog says whether another line about a stream that ended may be logged: whoever has no token can open streams too.
func (s *Server) mayLog() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines.allow(time.Now())
}

// Reissue has the certificates of all connected proxies made anew before they are due, spread evenly over a duration.
func (s *Server) Reissue(over time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, n := time.Now(), 0
	for t := range s.streams {
		t.mail.renewBy = now.Add(over * time.Duration(n) / time.Duration(len(s.streams)))
		t.wake()
		n++
	}
}

// Serve serves on a listener until ctx is done, then ends the streams, so that the proxies go to another replica, and returns.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	g := grpc.NewServer(s.options()...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	alsv3.RegisterAccessLogServiceServer(g, accessLog{server: s})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.expireUntil(ctx)
		s.stop(g)
	}()
	err := g.Serve(listener)
	if ctx.Err() == nil {
		return err
	}
	<-done
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

func (s *Server) options() []grpc.ServerOption {
	o := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		// A stream is silent nearly always, and requests are small. By default gRPC holds 32 kB for what each connection may send.
		grpc.ReadBufferSize(4 << 10),
		grpc.WriteBufferSize(16 << 10),
		// A proxy sends few and small requests; the largest re-announces MaxNames names after a reconnect. What it sends faster
		// than it is read waits at its end: windows of a fixed size don't grow.
		grpc.MaxRecvMsgSize(4 << 20),
		grpc.InitialWindowSize(256 << 10),
		grpc.InitialConnWindowSize(512 << 10),
		grpc.MaxHeaderListSize(32 << 10),
		grpc.MaxConcurrentStreams(8),
		grpc.ConnectionTimeout(20 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: time.Minute,
			// A stream that only ended itself would come back on the same connection, and so to the same replica.
			MaxConnectionAge: s.config.ConnectionAge, MaxConnectionAgeGrace: s.config.ConnectionGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if s.config.Credentials != nil {
		o = append(o, grpc.Creds(traceable{s.config.Credentials}))
	}
	return o
}

// expireUntil learns and forgets names as time goes by, until ctx is done.
func (s *Server) expireUntil(ctx context.Context) {
	tick := time.NewTicker(s.config.LearnWindow / 6)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.ageLearned(now)
			s.forgetPods(now)
		}
	}
}

// forgetPods forgets pods that are gone for so long that no stream of theirs can be half open, and what pods without a stream did.
func (s *Server) forgetPods(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, at := range s.gone {
		if now.Sub(at) > 2*time.Minute {
			delete(s.gone, uid)
		}
	}
	for uid, a := range s.allowances {
		if s.newest[uid] == nil && a.idle(now) {
			delete(s.allowances, uid)
		}
	}
}

// allowanceOf returns what a pod may do.
func (s *Server) allowanceOf(uid string) *allowance {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.allowances[uid]
	if a == nil {
		a = newAllowance()
		s.allowances[uid] = a
	}
	return a
}

// stop ends all streams and gives connections a moment to say goodbye.
func (s *Server) stop(g *grpc.Server) {
	s.mu.Lock()
	s.stopping = true
	for t := range s.streams {
		t.end(endOfReplica())
	}
	s.mu.Unlock()
	s.plaintext.end("", status.Error(codes.Unavailable, "this replica of the control plane is stopping"))
	timer := time.AfterFunc(5*time.Second, g.Stop)
	defer timer.Stop()
	g.GracefulStop()
}

func endOfReplica() error {
	return endingf("stopping", codes.Unavailable, "this replica of the control plane is stopping")
}

// add admits a stream. An older one of the same pod has been left behind by the proxy and is ended.
func (s *Server) add(t *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return endOfReplica()
	}
	if _, gone := s.gone[t.proxy.UID]; gone {
		return endOfPod()
	}
	if s.refusal != nil {
		return s.refusal
	}
	if older := s.newest[t.proxy.UID]; older != nil {
		older.end(endingf("replaced", codes.Aborted, "replaced by a newer stream of the same proxy"))
	}
	s.newest[t.proxy.UID] = t
	s.streams[t] = struct{}{}
	s.joinLearned(t)
	s.metrics.streams.Inc()
	s.notify()
	return nil
}

// remove forgets a stream, and returns whether it was its pod's newest.
func (s *Server) remove(t *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, t)
	delete(s.fresh, t)
	newest := s.newest[t.proxy.UID] == t
	if newest {
		delete(s.newest, t.proxy.UID)
	}
	s.leaveLearned(t)
	for _, e := range t.session.entries {
		if e.watched {
			s.unwatch(t, e.key())
		}
	}
	for _, i := range t.session.takeInterest() {
		if !i.added {
			s.unwatch(t, i.key)
		}
	}
	s.metrics.streams.Dec()
	s.notify()
	return newest
}

// exchange notes what a session's interest is now and returns what happened to it meanwhile, all of one view. used is
// the revision that the session has read: what it came to want in an outdated one counts as changed.
func (s *Server) exchange(t *stream, interests []interest, used uint64) (resource.View, mail) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range interests {
		if !i.added {
			s.unwatch(t, i.key)
			continue
		}
		if s.watchers[i.key] == nil {
			s.watchers[i.key] = map[*stream]struct{}{}
		}
		s.watchers[i.key][t] = struct{}{}
		if t.fresh == nil {
			t.fresh = map[resource.Ref]struct{}{}
			s.fresh[t] = struct{}{}
		}
		t.fresh[i.key.Ref] = struct{}{}
		if used != s.view.Revision() {
			t.mail.change(i.key.Ref, time.Time{})
		}
	}
	m := t.mail
	t.mail = mail{}
	t.busy = t.busy || !m.empty()
	return s.view, m
}

func (s *Server) unwatch(t *stream, key resource.ScopedRef) {
	delete(s.watchers[key], t)
	if len(s.watchers[key]) == 0 {
		delete(s.watchers, key)
	}
}

// report takes what a stream's state is at a revision.
func (s *Server) report(t *stream, now streamState, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := &t.state
	news := now.trusting && now.trust != state.Trust || now.certificateError != state.CertificateError ||
		!now.encryption.equal(state.Encryption) || !equalRejections(now.rejections, state.Rejections)
	if now.idle {
		news = news || state.SyncedRevision < s.reshaped
		state.SyncedRevision = revision
	}
	if now.trusting {
		state.Trust = now.trust
	}
	state.Pending, state.Rejections, state.CertificateError, state.Encryption = now.pending, now.rejections, now.certificateError, now.encryption
	t.idle, t.trusting, t.busy = now.idle, now.trusting, false
	if news {
		s.notify()
	} else {
		s.signal()
	}
}

func equalRejections(a, b []Rejection) bool {
	return len(a) == len(b) && (len(a) == 0 || reflect.DeepEqual(a, b))
}

// StreamAggregatedResources refuses the state-of-the-world protocol.
func (s *Server) StreamAggregatedResources(grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	return status.Error(codes.Unimplemented, "this control plane speaks delta xDS only: set api_type: DELTA_GRPC in ads_config")
}

// mail is what happened to a stream since its loop last looked.
type mail struct {
	changed map[resource.Ref]struct{}
	// since is when the control plane learned of the oldest of the changes.
	since   time.Time
	learned []learning
	// renewBy is when a new certificate is wanted; zero: when it is due. It is no change of what the proxy should have.
	renewBy time.Time
}

func (m *mail) change(ref resource.Ref, published time.Time) {
	if m.changed == nil {
		m.changed = map[resource.Ref]struct{}{}
	}
	m.changed[ref] = struct{}{}
	if m.since.IsZero() {
		m.since = published
	}
}

func (m *mail) empty() bool {
	return len(m.changed) == 0 && len(m.learned) == 0
}

package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"runtime/debug"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// helloTimeout is how long a new stream may take to send its first request.
const helloTimeout = 10 * time.Second

type deltaStream = grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]

// stream is one proxy's stream: the session, and the loop that drives it. One goroutine receives, the gRPC handler's own runs the loop, and each
// batch is sent by another, so that a proxy that does not read can be cut off.
type stream struct {
	server  *Server
	grpc    deltaStream
	log     *slog.Logger
	proxy   resource.Proxy
	expires time.Time
	opened  resource.View // the newest one when it was opened

	requests chan *discoveryv3.DeltaDiscoveryRequest
	received chan error // why receiving ended
	sentAll  chan error // the result of the batch that was sent
	woken    chan struct{}
	ended    chan error // why the server wants it to end

	allowance *allowance
	throttled chan struct{} // the proxy sends more than it may

	// Owned by the loop.
	session *session
	// penalty is when a proxy that refuses too much may be sent something again.
	penalty time.Time
	// reached are the limits that were logged already.
	reached [limits]bool
	renewal renewal
	// outgoing is the batch that is to be sent next.
	outgoing []*response
	// sending is since when a batch has been under way; zero: none is.
	sending time.Time
	// asked is when each unanswered name was asked for; answered when asks were last answered: the first at once, those that
	// follow within the window together.
	asked    map[string]time.Time
	answered time.Time
	// changedAt is when the control plane learned of the oldest change of which nothing has been sent yet.
	changedAt time.Time
	// sentSince is when it learned of the oldest change that was sent and has not been acknowledged yet.
	sentSince time.Time
	// hold delays sending until then, to answer asks together.
	hold    time.Time
	flushAt time.Time
	// reportAt is when the state may be reported next, if there is so much in it that it costs something; late says that it has changed since.
	reportAt time.Time
	late     bool
	// reported is the state as the server has it; the gauges are this stream's share in them.
	reported                streamState
	askedGauge, pushedGauge int

	// Guarded by server.mu.
	mail  mail
	state ProxyState
	// fresh are the resources that the session came to want since the last Publish.
	fresh map[resource.Ref]struct{}
	// idle: the last report said that all is synced; trusting: that all validation contexts are; busy: mail was taken and not
	// yet reported on.
	idle, trusting, busy bool
}

// DeltaAggregatedResources serves one proxy.
func (s *Server) DeltaAggregatedResources(g deltaStream) error {
	log := s.config.Log
	if p, ok := peer.FromContext(g.Context()); ok {
		log = log.With("address", p.Addr.String())
	}
	var t *stream
	err := s.contain(log, func() (err error) {
		t, err = s.open(g)
		return err
	})
	if err == nil {
		log = t.log
		err = s.contain(log, t.serve)
	}
	if t == nil && err != nil || status.Code(err) == codes.Unavailable {
		part(g.Context())
	}
	reason := reasonOf(err)
	s.metrics.ended.WithLabelValues(reason).Inc()
	s.notify()
	if reason != "closed" && (t != nil && blames(reason) && t.allowance.line(time.Now()) || s.mayLog()) {
		log.Warn("xDS stream ended", "reason", reason, "error", err)
	}
	return err
}

// open finds out whose stream it is.
func (s *Server) open(g deltaStream) (*stream, error) {
	s.mu.Lock()
	view, refusal := s.view, s.refusal
	s.mu.Unlock()
	if view == nil {
		refusal = endingf("starting", codes.Unavailable, "this replica of the control plane is still reading the cluster's state")
	}
	if refusal != nil {
		return nil, refusal
	}
	proxy, expires, err := s.authenticate(g.Context())
	if err != nil {
		return nil, err
	}
	return &stream{
		server: s, grpc: g, proxy: proxy, expires: expires, opened: view,
		log:       s.config.Log.With("pod", proxy.Namespace+"/"+proxy.Pod),
		requests:  make(chan *discoveryv3.DeltaDiscoveryRequest, 16),
		received:  make(chan error, 1),
		sentAll:   make(chan error, 1),
		woken:     make(chan struct{}, 1),
		ended:     make(chan error, 1),
		throttled: make(chan struct{}, 1),
		asked:     map[string]time.Time{},
		allowance: s.allowanceOf(proxy.UID),
		renewal:   renewal{results: make(chan signed, 1), panicked: s.panicked},
	}, nil
}

// contain turns a panic, a programming error that shows on one stream, into the end of that stream.
func (s *Server) contain(log *slog.Logger, run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(log, p)
			err = endingf("panic", codes.Internal, "internal error of the control plane, see its log")
		}
	}()
	return run()
}

// panicked counts and reports a panic.
func (s *Server) panicked(log *slog.Logger, p any) {
	s.metrics.panics.Inc()
	log.Error("panic in xDS stream", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// serve runs a stream to its end.
func (t *stream) serve() error {
	ctx, cancel := context.WithCancel(t.grpc.Context())
	defer cancel()
	go t.receive(ctx)
	first, err := t.hello(ctx)
	if err != nil {
		return err
	}
	version, minor, err := t.server.envoyVersion(first.GetNode())
	if err != nil {
		return err
	}
	t.proxy.Minor = minor
	t.session = newSession(&t.proxy, t.opened, t.server.config.bounds(), t.server.config.Linger)
	t.opened = nil // a stream lives longer than a view
	t.state = ProxyState{Proxy: t.proxy, ConnectedAt: time.Now(), EnvoyVersion: version}
	if err := t.server.add(t); err != nil {
		return err
	}
	defer t.leave()
	t.log.Info("proxy connected", "envoy", version)
	if err := t.takeAll(first); err != nil {
		return err
	}
	return t.loop(ctx)
}

func (t *stream) leave() {
	if t.server.remove(t) {
		t.server.metrics.forget(&t.proxy)
	}
	t.server.metrics.asked.Sub(float64(t.askedGauge))
	t.server.metrics.pushed.Sub(float64(t.pushedGauge))
}

func (t *stream) hello(ctx context.Context) (*discoveryv3.DeltaDiscoveryRequest, error) {
	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	select {
	case first := <-t.requests:
		return first, nil
	case err := <-t.received:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, endingf("silent", codes.DeadlineExceeded, "no request within %s", helloTimeout)
	}
}

// receive passes requests to the loop. When the loop is behind, or the proxy sends more than it may, it waits, and so, by flow
// control, does the proxy.
func (t *stream) receive(ctx context.Context) {
	t.received <- t.server.contain(t.log, func() error {
		if err := t.waitToRead(ctx, openingCost); err != nil {
			return err
		}
		for {
			req, err := t.grpc.Recv()
			if err != nil {
				return err
			}
			if err := t.waitToRead(ctx, 1+proto.Size(req)/requestUnit); err != nil {
				return err
			}
			select {
			case t.requests <- req:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// waitToRead waits until the proxy may send something of a cost.
func (t *stream) waitToRead(ctx context.Context, cost int) error {
	wait := t.allowance.read(float64(cost), time.Now())
	if wait == 0 {
		return nil
	}
	select {
	case t.throttled <- struct{}{}:
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send sends a batch off the loop's goroutine. There is one at a time, and mostly none: a goroutine that waited for the next would hold its stack.
func (t *stream) send(batch []*response) {
	t.sentAll <- t.server.contain(t.log, func() error { return t.sendBatch(batch) })
}

func (t *stream) sendBatch(batch []*response) error {
	m := t.server.metrics
	for _, r := range batch {
		if err := t.grpc.Send(r.message); err != nil {
			return err
		}
		m.pushes.WithLabelValues(r.kind.String()).Inc()
		m.bytes.Add(float64(proto.Size(r.message)))
	}
	return nil
}

// wake has the loop look at its mail.
func (t *stream) wake() {
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// end has the loop end with an error; the first one counts.
func (t *stream) end(err error) {
	select {
	case t.ended <- err:
	default:
	}
}

func (t *stream) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		if err := t.step(ctx, now); err != nil {
			return err
		}
		if len(t.outgoing) > 0 {
			go t.send(t.outgoing)
			t.outgoing = nil
		}
		if next := t.next(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(next.Sub(now))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-t.ended:
			return err
		case err := <-t.received:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case req := <-t.requests:
			if err := t.takeAll(req); err != nil {
				return err
			}
		case s := <-t.renewal.results:
			t.renewed(s)
		case err := <-t.sentAll:
			if err != nil {
				return err
			}
			t.sending = time.Time{}
		case <-t.throttled:
			t.limit(limitRate, 1)
		case <-t.woken:
		case <-timer.C:
		}
	}
}

// next is when the loop has something to do if nothing happens before; zero: never.
func (t *stream) next() time.Time {
	next := t.expires
	earlier := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	switch {
	case !t.sending.IsZero():
		earlier(t.sending.Add(t.server.config.SendTimeout))
	case !t.hold.IsZero() || !t.penalty.IsZero():
		earlier(t.resumes()) // and nothing is flushed before, however long it has been due
	default:
		earlier(t.flushAt)
		if t.late {
			earlier(t.reportAt)
		}
	}
	if since := t.session.unacknowledgedSince(); !since.IsZero() {
		earlier(since.Add(t.server.config.AckTimeout))
	}
	if t.session.subscribed(workload) && !t.renewal.running {
		earlier(t.renewal.next)
	}
	return next
}

// resumes is when something may be sent again; zero, or a time that has passed: now.
func (t *stream) resumes() time.Time {
	if t.hold.After(t.penalty) {
		return t.hold
	}
	return t.penalty
}

// step does all that is due.
func (t *stream) step(ctx context.Context, now time.Time) error {
	if !t.expires.IsZero() && !now.Before(t.expires) {
		return endingf("expired", codes.Unauthenticated, "the token that this stream was opened with has expired")
	}
	if since := t.session.unacknowledgedSince(); !since.IsZero() && now.Sub(since) >= t.server.config.AckTimeout {
		return endingf("unacknowledged", codes.ResourceExhausted, "the proxy has acknowledged nothing that it was sent for %s", t.server.config.AckTimeout)
	}
	if t.session.subscribed(workload) && t.renewal.due(now) {
		t.renewal.start(ctx, t.server.config.Certificates, &t.proxy, t.log)
	}
	t.exchange()
	if !t.sending.IsZero() {
		if now.Sub(t.sending) >= t.server.config.SendTimeout {
			return endingf("slow", codes.ResourceExhausted, "the proxy has read nothing for %s", t.server.config.SendTimeout)
		}
		return nil
	}
	if now.Before(t.resumes()) {
		return nil
	}
	t.penalty = time.Time{}
	if !t.hold.IsZero() {
		t.hold, t.answered = time.Time{}, now
	}
	var batch []*response
	batch, t.flushAt = t.session.flush(now)
	if len(batch) > 0 {
		t.sending = now
		t.measure(batch, now)
		t.outgoing = batch
	}
	t.report(now)
	return nil
}

// exchange brings the session to the newest view, until nothing is new.
func (t *stream) exchange() {
	for {
		view, m := t.server.exchange(t, t.session.takeInterest(), t.session.view.Revision())
		t.renewal.hasten(m.renewBy)
		if m.empty() && view.Revision() == t.session.view.Revision() {
			return
		}
		refs := make([]resource.Ref, 0, len(m.changed))
		for ref := range m.changed {
			refs = append(refs, ref)
		}
		t.session.update(view, refs)
		t.session.learn(m.learned)
		if t.changedAt.IsZero() {
			t.changedAt = m.since
		}
	}
}

// takeAll takes a request and those behind it.
func (t *stream) takeAll(req *discoveryv3.DeltaDiscoveryRequest) error {
	now := time.Now()
	for {
		if err := t.take(req, now); err != nil {
			return err
		}
		select {
		case req = <-t.requests:
		default:
			return nil
		}
	}
}

func (t *stream) take(req *discoveryv3.DeltaDiscoveryRequest, now time.Time) error {
	kind, known := resource.TypeOf(req.GetTypeUrl())
	if !known {
		if t.allowance.line(now) {
			t.log.Warn("proxy asks for a type of resource that the control plane does not have", "type", shortened(req.GetTypeUrl()))
		}
		return nil
	}
	if req.GetErrorDetail() != nil {
		t.refused(kind, req, now)
	}
	asks, err := t.session.request(req)
	if err != nil {
		return err
	}
	for l, n := range t.session.takeLimited() {
		t.limit(limit(l), n)
	}
	if len(asks) == 0 {
		t.hold = time.Time{} // Answers and first requests are never held back.
		return nil
	}
	for _, name := range asks {
		if _, ok := t.asked[name]; !ok && len(t.asked) < t.server.config.MaxNames {
			t.asked[name] = now
		}
	}
	if again := t.answered.Add(t.server.config.AskWindow); now.Before(again) {
		t.hold = again
	} else {
		t.answered = now
	}
	t.learn(asks, now)
	return nil
}

// refused counts and reports a rejection. Whoever refuses too much is sent the next response later.
func (t *stream) refused(kind resource.Type, req *discoveryv3.DeltaDiscoveryRequest, now time.Time) {
	t.server.metrics.nacks.WithLabelValues(kind.String()).Inc()
	if t.allowance.line(now) {
		t.log.Warn("proxy refuses configuration", "type", kind.String(), "message", shortened(req.GetErrorDetail().GetMessage()))
	}
	if wait := t.allowance.refuse(t.session.sizeOf(req.GetResponseNonce()), now); wait > 0 {
		t.penalty = now.Add(wait)
		t.limit(limitRejections, 1)
	}
}

// limit counts what was over a limit, and names the proxy: in the log once a stream and limit.
func (t *stream) limit(l limit, n int) {
	if n == 0 {
		return
	}
	t.server.metrics.limit(l, n, &t.proxy, !t.reached[l])
	if !t.reached[l] {
		t.reached[l] = true
		t.log.Warn("proxy has reached a limit: "+l.consequence(), "limit", l.String())
	}
}

// learn passes on what the proxy asked for and its siblings may need: names that the view says may be learned.
func (t *stream) learn(asks []string, now time.Time) {
	if !t.server.mayTeach(t, len(asks), now) {
		t.limit(limitLearned, len(asks))
		return
	}
	var names []string
	for _, name := range asks {
		if r, _ := t.session.view.Resource(&t.proxy, resource.Ref{Type: resource.Bundle, Name: name}); r != nil {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		t.server.teach(t, names, now)
	}
}

func (t *stream) renewed(s signed) {
	if s.err != nil {
		t.log.Error("sign the proxy's certificate", "error", s.err)
	}
	if secret := t.renewal.done(s, time.Now()); secret != nil {
		t.session.provide(secret)
	}
}

// measure observes how long changes and asks took.
func (t *stream) measure(batch []*response, now time.Time) {
	m := t.server.metrics
	if !t.changedAt.IsZero() {
		m.propagation.Observe(now.Sub(t.changedAt).Seconds())
		if t.sentSince.IsZero() {
			t.sentSince = t.changedAt
		}
		t.changedAt = time.Time{}
	}
	for _, r := range batch {
		if r.kind != resource.Cluster {
			continue
		}
		for _, name := range r.answers {
			if at, ok := t.asked[name]; ok {
				delete(t.asked, name)
				m.resolve.Observe(now.Sub(at).Seconds())
			}
		}
	}
}

// muchToReport is how much may be in a state that is reported with each request. More is reported once a second: a proxy that has the control
// plane count thousands of made-up names may not have it done with each of them.
const muchToReport = 1000

// report tells the server what has changed in the stream's state.
func (t *stream) report(now time.Time) {
	if t.late = now.Before(t.reportAt); t.late {
		return
	}
	names, pushed := t.session.types[resource.Cluster].names, len(t.session.learned)
	t.server.metrics.asked.Add(float64(names - t.askedGauge))
	t.server.metrics.pushed.Add(float64(pushed - t.pushedGauge))
	t.askedGauge, t.pushedGauge = names, pushed

	state := streamState{
		pending: t.session.pending(), rejections: t.session.rejections(),
		certificateError: t.renewal.failed, encryption: t.session.encryption(), idle: t.session.synced(),
		trusting: t.session.trusting(), trust: trustOf(t.session.view, &t.proxy),
	}
	if state.pending.Count+len(state.rejections) > muchToReport {
		t.reportAt = now.Add(time.Second)
	}
	if state.idle {
		t.changedAt = time.Time{}
		if !t.sentSince.IsZero() {
			t.server.metrics.acknowledgement.Observe(time.Since(t.sentSince).Seconds())
			t.sentSince = time.Time{}
		}
	}
	if t.busy || !reflect.DeepEqual(state, t.reported) {
		t.reported = state
		t.server.report(t, state, t.session.view.Revision())
	}
}

// streamState is what a loop reports.
type streamState struct {
	pending          Pending
	rejections       []Rejection
	certificateError string
	encryption       Encryption
	// idle: the proxy has all that the view has for it.
	idle bool
	// trusting: it has all validation contexts of the view, whose trust bundle has this version.
	trusting bool
	trust    string
}

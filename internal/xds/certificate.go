package xds

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const (
	minRetry = time.Second
	maxRetry = 30 * time.Second
	// certificateTimeout bounds one try to have a certificate signed.
	certificateTimeout = 30 * time.Second
)

// renewal keeps a stream's certificate current. Between tries it is only a time.
type renewal struct {
	next    time.Time
	running bool
	// hastened is for when a try is wanted that was called for while one was under way, which may be of before what called for it.
	hastened time.Time
	retry    time.Duration
	failed   string
	results  chan signed
	// panicked is told of a panic of whoever signs.
	panicked func(*slog.Logger, any)
}

type signed struct {
	secret  *resource.Resource
	renewAt time.Time
	err     error
}

// due says whether it is time to ask for a certificate.
func (r *renewal) due(now time.Time) bool { return !r.running && !now.Before(r.next) }

// hasten plans the next try for a time, unless it comes before (zero: leaves it).
func (r *renewal) hasten(by time.Time) {
	switch {
	case by.IsZero():
	case r.running:
		r.hastened = earliest(r.hastened, by)
	case by.Before(r.next):
		r.next = by
	}
}

// start asks for a certificate off the caller's goroutine; the answer comes by results.
func (r *renewal) start(ctx context.Context, c Certificates, proxy *resource.Proxy, log *slog.Logger) {
	r.running = true
	go func() {
		ctx, cancel := context.WithTimeout(ctx, certificateTimeout)
		defer cancel()
		r.results <- r.sign(ctx, c, proxy, log)
	}()
}

func (r *renewal) sign(ctx context.Context, c Certificates, proxy *resource.Proxy, log *slog.Logger) (s signed) {
	defer func() {
		if p := recover(); p != nil {
			r.panicked(log, p)
			s = signed{err: fmt.Errorf("panic: %v", p)}
		}
	}()
	s.secret, s.renewAt, s.err = c.Certificate(ctx, proxy)
	if s.err == nil && (s.secret == nil || s.secret.Ref != workload) {
		s.err = fmt.Errorf("no secret %q was made", workload.Name)
	}
	return s
}

// done takes an answer and plans the next try. It returns the new certificate, nil when there is none; then the proxy keeps
// the one it has.
func (r *renewal) done(s signed, now time.Time) *resource.Resource {
	r.running = false
	if s.err != nil {
		r.failed = s.err.Error()
		r.retry = min(max(2*r.retry, minRetry), maxRetry)
		r.next = now.Add(r.retry/2 + rand.N(r.retry))
		return nil
	}
	r.failed, r.retry = "", 0
	r.next = earliest(s.renewAt, r.hastened)
	r.hastened = time.Time{}
	if earliest := now.Add(minRetry); r.next.Before(earliest) {
		r.next = earliest
	}
	return s.secret
}

package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// silence is how long an answer of the API server may bring nothing before it counts as dead. The API server ends other requests after a minute,
// and sends a bookmark to each watch that allows it, as those of informers do, about once a minute. Where none come, a watch begins anew every
// three minutes instead of every five to ten, from where it was, which costs little.
//
// client-go notices within 45 s a connection on which nothing comes back. It does not notice a watch that a load balancer keeps open without an
// API server behind it: that ends only when an API server ends it.
const silence = 3 * time.Minute

// impatient is a way to the API server on which what is silent for too long ends.
type impatient struct {
	http.RoundTripper
	silence time.Duration
	log     *slog.Logger
}

// RoundTrip implements http.RoundTripper.
func (i impatient) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		return i.RoundTripper.RoundTrip(r)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	over := fmt.Errorf("nothing came from the API server for %s", i.silence)
	timer := time.AfterFunc(i.silence, func() {
		i.log.Warn("a request to the API server is ended: "+over.Error(), "path", r.URL.Path)
		cancel(over)
	})
	response, err := i.RoundTripper.RoundTrip(r.WithContext(ctx))
	if err != nil {
		timer.Stop()
		defer cancel(nil)
		if errors.Is(context.Cause(ctx), over) {
			return nil, over
		}
		return nil, err
	}
	response.Body = &awaited{ReadCloser: response.Body, ctx: ctx, cancel: cancel, timer: timer, silence: i.silence, over: over, watch: r.URL.Query().Get("watch") != ""}
	return response, nil
}

// WrappedRoundTripper implements k8s.io/apimachinery's net.RoundTripperWrapper.
func (i impatient) WrappedRoundTripper() http.RoundTripper { return i.RoundTripper }

// awaited is an answer of which something must come now and then.
type awaited struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	silence time.Duration
	over    error
	watch   bool
	closing sync.Once
}

// Read implements io.Reader. A watch that is silent ends as if the API server had ended it: its informer goes on from where it was.
func (a *awaited) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	switch {
	case err == nil:
		a.timer.Reset(a.silence)
	case !errors.Is(context.Cause(a.ctx), a.over):
		a.timer.Stop()
	case a.watch:
		return n, io.EOF
	default:
		return n, a.over
	}
	return n, err
}

// Close implements io.Closer.
func (a *awaited) Close() error {
	a.closing.Do(func() {
		a.timer.Stop()
		a.cancel(nil)
	})
	return a.ReadCloser.Close()
}

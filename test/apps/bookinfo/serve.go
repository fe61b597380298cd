package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// identity says who made a response.
type identity struct {
	Service string `json:"service"`
	Version string `json:"version"`
	Pod     string `json:"pod"`
}

// service is what all HTTP services have in common: a name, a version, counters and a health that can be switched off.
type service struct {
	identity
	listen  string
	served  atomic.Int64
	failed  atomic.Int64
	failing atomic.Bool
	// failPercent of the requests are answered with an error, evenly spread: what a bad release does.
	failPercent int64
	asked       atomic.Int64
	// linger is how long it goes on serving after it was told to stop, so that clients learn of it first: where a preStop hook can't sleep.
	linger time.Duration
}

// counts is what a service reports about itself.
type counts struct {
	ServedBy identity `json:"servedBy"`
	Requests int64    `json:"requests"`
	Failed   int64    `json:"failed"`
}

// newService returns a service whose flags are registered in the returned set.
func newService(name string) (*service, *flag.FlagSet) {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	s := &service{identity: identity{Service: name, Pod: hostname}}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.StringVar(&s.listen, "listen", ":9080", "`address` to listen on")
	flags.StringVar(&s.Version, "version", "v1", "`version` that responses name")
	flags.DurationVar(&s.linger, "linger", 0, "how `long` to go on serving when told to stop")
	flags.Int64Var(&s.failPercent, "fail-percent", 0, "of a hundred requests, answer this `many` with an error")
	return s, flags
}

// counted wraps what the service is for; probes and counters are not counted. It answers in its place when the request is one of those that fail.
func (s *service) counted(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		if n := s.asked.Add(1); n*s.failPercent/100 > (n-1)*s.failPercent/100 {
			writeJSON(recorder, http.StatusInternalServerError, problem{s.identity, "one of those that fail"})
		} else {
			next(recorder, r)
		}
		s.count(recorder.status >= http.StatusInternalServerError)
	}
}

func (s *service) count(failed bool) {
	s.served.Add(1)
	if failed {
		s.failed.Add(1)
	}
}

// routes returns a mux with /healthz, /counts, and the same as /metrics for Prometheus.
//
// PUT /healthz?failing=true makes the service say that it is ill, so that one can see what its probes then do.
func (s *service) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if s.failing.Load() {
			http.Error(w, "failing", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("PUT /healthz", func(w http.ResponseWriter, r *http.Request) {
		s.failing.Store(r.URL.Query().Get("failing") == "true")
		fmt.Fprintf(w, "failing: %t\n", s.failing.Load())
	})
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, counts{ServedBy: s.identity, Requests: s.served.Load(), Failed: s.failed.Load()})
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "text/plain; version=0.0.4")
		fmt.Fprintf(w, "# TYPE bookinfo_requests_total counter\nbookinfo_requests_total{app=%q} %d\n", s.Service, s.served.Load())
		fmt.Fprintf(w, "# TYPE bookinfo_failed_total counter\nbookinfo_failed_total{app=%q} %d\n", s.Service, s.failed.Load())
	})
	return mux
}

// serve serves handler on s.listen until ctx ends, then finishes the requests that it has.
func (s *service) serve(ctx context.Context, handler http.Handler) error {
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Service, err)
	}
	return serveOn(lingering(ctx, s.linger), listener, handler)
}

// lingering ends some time after ctx does.
func lingering(ctx context.Context, linger time.Duration) context.Context {
	later, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(linger, end) })
	return later
}

// idleTimeout is longer than the hour after which Envoy gives up an idle connection: when the server closes first, a
// request may just be on its way and has no answer.
const idleTimeout = 2 * time.Hour

func serveOn(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: idleTimeout, IdleTimeout: idleTimeout}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return err
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// statusRecorder remembers the status that a handler wrote.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	// The client has gone when this fails; there is nobody left to tell.
	_ = encoder.Encode(value)
}

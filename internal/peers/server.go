package peers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/xds"
)

const (
	// path of the stream of reports.
	path = "/v1/proxies"
	// heartbeat is how often a stream says at least that nothing has changed.
	heartbeat = 2 * time.Second
	// gather is how long changes are gathered before they are told.
	gather = 250 * time.Millisecond
	// maxStreams bounds the streams that are served at once. There is one leader, or two for the moment in which one has not noticed.
	maxStreams = 8
)

// Server serves what this replica knows of its proxies to other replicas, and to nobody else.
type Server struct {
	// Generations returns those of the newest snapshot, Proxies the state of every connected proxy, Plaintext what proxies reported of who
	// connects without mTLS.
	Generations func() []Generation
	Proxies     func() []xds.ProxyState
	Plaintext   func() []xds.PlaintextReport
	// SeesNow says whether this replica sees the API server; see Sight.
	SeesNow func(context.Context) bool
	// TLS must refuse whoever is not a replica.
	TLS *tls.Config
	Log *slog.Logger

	mu      sync.Mutex
	changed chan struct{} // closed when something has changed, and made anew
	streams int
}

// Changed tells the streams that Generations or Proxies may return something else.
func (s *Server) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = nil
}

// change returns a channel that is closed by the next call of Changed.
func (s *Server) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// Serve serves until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path, s.stream)
	mux.HandleFunc("GET "+sightPath, func(w http.ResponseWriter, r *http.Request) {
		if s.SeesNow(r.Context()) {
			w.WriteHeader(http.StatusNoContent)
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{
		Handler: mux, TLSConfig: s.TLS, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 10 * time.Second, MaxHeaderBytes: 1 << 14,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
		// HTTP/1.1: a connection has one stream, and ends with it.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(closing) != nil {
			_ = server.Close() // a stream that is not read ends with its connection
		}
	}()
	err := server.ServeTLS(listener, "", "")
	if ctx.Err() == nil {
		return fmt.Errorf("serve other replicas: %w", err)
	}
	<-done
	return nil
}

// stream writes reports, one a line, until the reader or the server ends.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		http.Error(w, "too many replicas read", http.StatusServiceUnavailable)
		return
	}
	defer s.leave()
	control, encoder := http.NewResponseController(w), json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/jsonl")
	var o outbox
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		change := s.change()
		meshes := s.Generations()
		report := o.next(time.Now(), meshes, s.Proxies(), s.Plaintext())
		if err := errors.Join(control.SetWriteDeadline(time.Now().Add(SilentAfter)), encoder.Encode(report), control.Flush()); err != nil {
			s.Log.Warn("a replica does not read what it asked for", "replica", r.RemoteAddr, "error", err)
			return
		}
		if !wait(r.Context(), change, beat.C) {
			return
		}
	}
}

// wait returns when there is something to tell; false when there never will be.
func wait(ctx context.Context, change <-chan struct{}, beat <-chan time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-beat:
		return true
	case <-change:
	}
	timer := time.NewTimer(gather)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == maxStreams {
		return false
	}
	s.streams++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
}

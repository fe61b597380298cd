package echo

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
)

// keptBody is how much of an HTTP body is sent back.
const keptBody = 4096

// Server is a running backend.
type Server struct {
	config Config
	http   *http.Server
	grpc   *grpc.Server
	wg     sync.WaitGroup

	mu     sync.Mutex
	counts map[Protocol]int
	conns  int                    // accepted
	open   map[io.Closer]struct{} // listeners, and connections that http does not own
}

// Start listens on all ports of c and serves. On an error nothing is left open.
func Start(c Config, listen ListenFunc) (*Server, error) {
	s := &Server{config: c, counts: map[Protocol]int{}, open: map[io.Closer]struct{}{}}
	s.grpc = s.newGRPC()
	s.http = &http.Server{Handler: s, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	for _, group := range []struct {
		ports []uint16
		serve func(net.Listener)
	}{
		{c.HTTPPorts, func(l net.Listener) { _ = s.http.Serve(l) }}, // ends with http.ErrServerClosed
		{c.TCPPorts, func(l net.Listener) { s.serveConns(l, s.echoLines) }},
		{c.GreetingPorts, func(l net.Listener) { s.serveConns(l, s.greet) }},
	} {
		for _, port := range group.ports {
			l, err := listen("tcp", ":"+strconv.Itoa(int(port)))
			if err != nil {
				return nil, errors.Join(fmt.Errorf("backend %s: %w", c.Name, err), s.Close())
			}
			s.track(l)
			s.wg.Go(func() { group.serve(counted{l, s}) })
		}
	}
	return s, nil
}

// Close ends the backend and its connections.
func (s *Server) Close() error {
	err := s.http.Close()
	s.grpc.Stop()
	s.mu.Lock()
	open := maps.Clone(s.open)
	s.mu.Unlock()
	for c := range open {
		if closed := c.Close(); !errors.Is(closed, net.ErrClosed) {
			err = errors.Join(err, closed)
		}
	}
	s.wg.Wait()
	return err
}

// Counts returns the number of requests by protocol.
func (s *Server) Counts() map[Protocol]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// Count returns the number of requests.
func (s *Server) Count() int {
	n := 0
	for _, c := range s.Counts() {
		n += c
	}
	return n
}

// Connections returns the number of connections that were opened to it, whether something was said on them or not.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// counted is a listener that counts what it accepts.
type counted struct {
	net.Listener
	s *Server
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.s.mu.Lock()
		l.s.conns++
		l.s.mu.Unlock()
	}
	return c, err
}

func (s *Server) count(p Protocol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[p]++
}

func (s *Server) track(c io.Closer) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, c)
	}
}

func (s *Server) answer(p Protocol, client string) Answer {
	return Answer{Name: s.config.Name, Version: s.config.Version, Protocol: p, Client: client}
}

// ServeHTTP answers with what it got. The query may ask for a delay (delay=1s) and a status (status=503);
// /count answers the counts and is not counted.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		s.grpc.ServeHTTP(w, r)
	case r.URL.Path == "/count":
		writeJSON(w, http.StatusOK, s.Counts())
	case websocket.IsWebSocketUpgrade(r):
		s.serveWebSocket(w, r)
	default:
		s.serveHTTP(w, r)
	}
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	protocol := HTTP1
	if r.ProtoMajor == 2 {
		protocol = HTTP2
	}
	s.count(protocol)
	status, delay, err := wishes(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a := s.httpAnswer(protocol, r)
	hash := sha256.New()
	var kept strings.Builder
	if a.BodyBytes, err = io.Copy(io.MultiWriter(hash, limited(&kept, keptBody)), r.Body); err != nil {
		return // the client went away: nobody listens
	}
	a.Body, a.BodySHA256 = kept.String(), hex.EncodeToString(hash.Sum(nil))
	select {
	case <-time.After(delay):
		writeJSON(w, status, a)
	case <-r.Context().Done():
	}
}

func (s *Server) httpAnswer(p Protocol, r *http.Request) Answer {
	a := s.answer(p, r.RemoteAddr)
	a.Method, a.Path, a.Host, a.Headers = r.Method, r.URL.Path, r.Host, r.Header
	return a
}

func wishes(r *http.Request) (status int, delay time.Duration, err error) {
	status = http.StatusOK
	if v := r.URL.Query().Get("status"); v != "" {
		if status, err = strconv.Atoi(v); err != nil || status < 200 || status > 599 {
			return 0, 0, fmt.Errorf("status %q: must be a number from 200 to 599", v)
		}
	}
	if v := r.URL.Query().Get("delay"); v != "" {
		if delay, err = time.ParseDuration(v); err != nil {
			return 0, 0, err
		}
	}
	return status, delay, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only when the client went away
}

// serveWebSocket answers each message with its Answer.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	s.count(WebSocket)
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade answered
	}
	defer s.track(c)()
	defer c.Close()
	for {
		_, message, err := c.ReadMessage()
		if err != nil {
			return
		}
		a := s.httpAnswer(WebSocket, r)
		a.Body, a.BodyBytes = string(message), int64(len(message))
		if c.WriteJSON(a) != nil {
			return
		}
	}
}

func (s *Server) serveConns(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		forget := s.track(c)
		s.wg.Go(func() {
			defer forget()
			defer c.Close()
			serve(c)
		})
	}
}

// echoLines answers each line with an Answer in one line.
func (s *Server) echoLines(c net.Conn) {
	s.count(TCP)
	s.answerLines(c, TCP)
}

// greet is echoLines that starts by itself.
func (s *Server) greet(c net.Conn) {
	s.count(Greeting)
	if json.NewEncoder(c).Encode(s.answer(Greeting, c.RemoteAddr().String())) == nil {
		s.answerLines(c, Greeting)
	}
}

func (s *Server) answerLines(c net.Conn, p Protocol) {
	out := json.NewEncoder(c)
	for lines := bufio.NewScanner(c); lines.Scan(); {
		a := s.answer(p, c.RemoteAddr().String())
		a.Body, a.BodyBytes = lines.Text(), int64(len(lines.Bytes()))
		if out.Encode(a) != nil {
			return
		}
	}
}

// limited writes the first n bytes and drops the rest.
func limited(w io.Writer, n int) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		part := p[:min(len(p), n)]
		n -= len(part)
		if _, err := w.Write(part); err != nil {
			return 0, err
		}
		return len(p), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Run serves until ctx ends.
func Run(ctx context.Context, c Config) error {
	s, err := Start(c, net.Listen)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// relay is a reverse proxy before the API server, as a load balancer is one. It can be given another API server, and rules about what becomes of
// requests. It counts what an outage shows.
type relay struct {
	server *httptest.Server
	// held are requests that wait, pages those lists that were answered in parts, broken those that were cut short, expired the answers by which the
	// API server says that it does not remember so far back.
	held, pages, broken, expired atomic.Int64

	// gently has what is cut end as an API server ends it that shuts down, not in the middle of something.
	gently atomic.Bool

	mu       sync.Mutex
	upstream *url.URL
	rule     conduct
	asked    map[string]int           // requests since the rule, by what they are about
	ongoing  map[*http.Request]func() // cuts it
}

// conduct decides what becomes of a request; nil: what it asks for.
type conduct func(w http.ResponseWriter, r *http.Request, pass http.Handler)

// newRelay starts a relay to the world's API server, until the test ends.
func (w *world) newRelay(t *testing.T) *relay {
	t.Helper()
	r := &relay{asked: map[string]int{}, ongoing: map[*http.Request]func(){}}
	r.redirect(t, w.admin)
	transport, err := rest.TransportFor(rest.AnonymousClientConfig(w.admin))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			r.mu.Lock()
			defer r.mu.Unlock()
			p.SetURL(r.upstream)
		},
		ModifyResponse: func(response *http.Response) error {
			if response.StatusCode == http.StatusGone {
				r.expired.Add(1)
			}
			response.Body = &reading{&looking{response.Body, func() { r.expired.Add(1) }}, response.Request.Context(), r}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) { r.serve(w, request, proxy) }))
	r.server.EnableHTTP2 = true
	r.server.StartTLS()
	t.Cleanup(func() {
		r.obey(nil)
		r.cut()
		r.server.CloseClientConnections()
		r.server.Close()
	})
	return r
}

// redirect has the relay ask another API server.
func (r *relay) redirect(t *testing.T, to *rest.Config) {
	t.Helper()
	upstream, err := url.Parse(to.Host)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upstream = upstream
}

// obey has it follow a rule from now on.
func (r *relay) obey(to conduct) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rule, r.asked = to, map[string]int{}
}

// nth counts requests about the same, since the rule.
func (r *relay) nth(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[what]++
	return r.asked[what]
}

// cut ends all requests that are under way, watches above all.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, end := range r.ongoing {
		end()
	}
}

// through has a configuration go by way of the relay.
func (r *relay) through(c *rest.Config) {
	c.Host = r.server.URL
	c.TLSClientConfig = rest.TLSClientConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})}
}

func (r *relay) serve(w http.ResponseWriter, request *http.Request, proxy http.Handler) {
	ctx, end := context.WithCancel(request.Context())
	ending := request.WithContext(ctx)
	r.mu.Lock()
	follow := r.rule
	r.ongoing[request] = end
	r.mu.Unlock()
	defer func() {
		end()
		r.mu.Lock()
		delete(r.ongoing, request)
		r.mu.Unlock()
	}()
	if follow == nil {
		proxy.ServeHTTP(w, ending)
		return
	}
	follow(w, ending, proxy)
}

// looking looks for the words of an API server that does not remember so far back: in a watch they are an event.
type looking struct {
	io.ReadCloser
	found func()
}

// Read implements io.Reader.
func (l *looking) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if bytes.Contains(p[:n], []byte("too old resource version")) {
		l.found()
	}
	return n, err
}

// reading is an answer that ends, when it is cut, as the relay is told.
type reading struct {
	io.ReadCloser
	asked context.Context
	relay *relay
}

// Read implements io.Reader.
func (b *reading) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.asked.Err() != nil && b.relay.gently.Load() {
		return n, io.EOF
	}
	return n, err
}

// short is an answer that ends in the middle.
type short struct {
	http.ResponseWriter
	left  int
	relay *relay
}

// Write implements io.Writer.
func (s *short) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:min(len(p), s.left)])
	s.left -= n
	if s.left == 0 && err == nil {
		s.relay.broken.Add(1)
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// Unwrap lets answers be flushed.
func (s *short) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// times returns how many requests there were about something, since the rule.
func (r *relay) times(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[what]
}

// hold has a request wait.
func (r *relay) hold(request *http.Request, until <-chan struct{}) {
	r.held.Add(1)
	select {
	case <-until:
	case <-request.Context().Done():
	}
}

func released(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cutShort passes a request on, and ends the answer after so many bytes.
func (r *relay) cutShort(w http.ResponseWriter, request *http.Request, pass http.Handler, after int) {
	pass.ServeHTTP(&short{w, after, r}, request)
}

// refuse answers as an API server does.
func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{ // who asked may be gone
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "refused by a test",
	})
}

// unavailable is an API server that has none behind it.
func unavailable(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
}

// Which kind a request is about, and whether it is a watch.
func about(r *http.Request) string { return path.Base(r.URL.Path) }

func isWatch(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }

// isStream says whether a request is for a watch that begins with all objects of a kind.
func isStream(r *http.Request) bool {
	return isWatch(r) && r.URL.Query().Get("sendInitialEvents") == "true"
}

// witness sees which kinds an operator watches, wherever its requests go.
type witness struct {
	mu     sync.Mutex
	opened map[string]int
}

// see has it look at what goes by a configuration.
func (s *witness) see(c *rest.Config) {
	s.opened = map[string]int{}
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil && response.StatusCode == http.StatusOK && isWatch(r) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.opened[r.URL.Path]++
				response.Body = &looking{response.Body, func() {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.opened[r.URL.Path]-- // it was none
				}}
			}
			return response, err
		})
	})
}

// watches returns how often each kind's watch was opened so far.
func (s *witness) watches() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.opened)
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// anotherAPIServer starts a second API server on the same etcd, with the same users and keys, until the test ends.
func (w *world) anotherAPIServer(t *testing.T) *rest.Config {
	t.Helper()
	pid := w.apiServer()
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		t.Fatal(err)
	}
	arguments := strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
	port := freePort(t)
	for i, a := range arguments {
		if strings.HasPrefix(a, "--secure-port=") {
			arguments[i] = "--secure-port=" + port
		}
	}
	var log bytes.Buffer
	server := exec.Command(arguments[0], arguments[1:]...)
	server.Stdout, server.Stderr = &log, &log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it ends by the signal
		if t.Failed() {
			t.Logf("the other API server:\n%s", tail(log.String()))
		}
	})
	other := rest.CopyConfig(w.admin)
	other.Host = "https://127.0.0.1:" + port
	client, err := rest.HTTPClientFor(other)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other API server is ready", func() error {
		response, err := client.Get(other.Host + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", response.Status)
		}
		return nil
	})
	return other
}

// freePort returns a port of the loopback address that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// app is the whole of Bookinfo on loopback.
type app struct {
	url                                                             string
	productpage, details, reviewsService, ratingsService, dataStore *service
}

// startApp starts Bookinfo with one version of reviews. What ratings is asked with goes through wrap.
func startApp(t *testing.T, version string, wrap func(http.Handler) http.Handler) *app {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var store sync.WaitGroup
	t.Cleanup(func() { stop(); store.Wait() })

	a := &app{
		productpage: named("productpage", "v1"), details: named("details", "v1"), reviewsService: named("reviews", version),
		ratingsService: named("ratings", "v1"), dataStore: named("datastore", "v1"),
	}
	store.Go(func() {
		if err := serveStore(ctx, a.dataStore, listener); err != nil {
			t.Error(err)
		}
	})
	serve := func(handler http.Handler) string {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return server.URL
	}
	ratings := serve(wrap(ratingsHandler(a.ratingsService, listener.Addr().String())))
	reviews := serve(reviewsHandler(a.reviewsService, ratings))
	handler, err := productpageHandler(a.productpage, serve(detailsHandler(a.details)), reviews)
	if err != nil {
		t.Fatal(err)
	}
	a.url = serve(handler)
	return a
}

func named(name, version string) *service {
	s, _ := newService(name)
	s.Version = version
	return s
}

func unwrapped(h http.Handler) http.Handler { return h }

func getBody(t *testing.T, url string, header http.Header) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestVersionsOfReviews(t *testing.T) {
	for version, want := range map[string]struct {
		color   string
		stars   int
		queries int64
	}{
		"v1": {"", 0, 0},
		"v2": {"black", 5, 1},
		"v3": {"red", 5, 1},
	} {
		t.Run(version, func(t *testing.T) {
			a := startApp(t, version, unwrapped)
			status, body := getBody(t, a.url+"/api/products/0", nil)
			if status != http.StatusOK {
				t.Fatalf("status %d: %s", status, body)
			}
			var got product
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatal(err)
			}
			if got.ServedBy.Service != "productpage" || got.Details.ServedBy.Service != "details" {
				t.Errorf("served by %+v and %+v", got.ServedBy, got.Details.ServedBy)
			}
			if got.Reviews.ServedBy.Version != version || got.Reviews.Color != want.color || got.Reviews.Reviews[0].Stars != want.stars {
				t.Errorf("reviews: %+v", got.Reviews)
			}
			if n := a.dataStore.served.Load(); n != want.queries {
				t.Errorf("the data store answered %d queries, want %d", n, want.queries)
			}
			if n := a.reviewsService.served.Load(); n != 1 {
				t.Errorf("reviews counted %d requests, want 1", n)
			}
		})
	}
}

func TestForwardsTheUser(t *testing.T) {
	seen := make(chan string, 1)
	a := startApp(t, "v2", func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Header.Get("end-user")
			h.ServeHTTP(w, r)
		})
	})
	getBody(t, a.url+"/api/products/0", http.Header{"End-User": {"jason"}})
	if user := <-seen; user != "jason" {
		t.Errorf("ratings saw the user %q, want jason", user)
	}
	getBody(t, a.url+"/", http.Header{"Cookie": {"user=jason"}})
	if user := <-seen; user != "jason" {
		t.Errorf("after signing in on the page, ratings saw the user %q, want jason", user)
	}
}

func TestPage(t *testing.T) {
	a := startApp(t, "v3", unwrapped)
	status, body := getBody(t, a.url+"/", nil)
	for _, want := range []string{"A Field Guide to Nets", "★★★★★", `class="stars red"`, "<code>reviews v3</code>", "Sign in as jason"} {
		if !strings.Contains(body, want) {
			t.Errorf("status %d: the page lacks %s", status, want)
		}
	}
}

func TestAPartThatFailsIsNamed(t *testing.T) {
	a := startApp(t, "v2", func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
		})
	})
	status, body := getBody(t, a.url+"/api/products/0", nil)
	if status != http.StatusBadGateway || !strings.Contains(body, "no healthy upstream") {
		t.Errorf("got %d %s, want 502 with the reason", status, body)
	}
	if status, _ := getBody(t, a.url+"/api/products/7", nil); status != http.StatusNotFound {
		t.Errorf("unknown book: %d, want 404", status)
	}
}

func TestHealthCanBeSwitchedOff(t *testing.T) {
	a := startApp(t, "v1", unwrapped)
	for failing, want := range map[string]int{"true": http.StatusServiceUnavailable, "false": http.StatusOK} {
		if err := fetch(t.Context(), http.MethodPut, a.url+"/healthz?failing="+failing, nil, io.Discard); err != nil {
			t.Fatal(err)
		}
		if status, _ := getBody(t, a.url+"/healthz", nil); status != want {
			t.Errorf("failing=%s: %d, want %d", failing, status, want)
		}
	}
	if n := a.productpage.served.Load(); n != 0 {
		t.Errorf("probes were counted as %d requests", n)
	}
}

func TestStoreProtocol(t *testing.T) {
	for line, want := range map[string]string{
		"GET ratings/0": `VALUE {"Reader One":5,"Reader Two":4}`,
		"GET ratings/1": "NONE",
		"FLUSH":         "ERROR unknown command",
	} {
		if got := storeReply(line); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	if _, _, err := lookUp(t.Context(), "127.0.0.1:1", "a\nGET b"); err == nil || !strings.Contains(err.Error(), "line break") {
		t.Errorf("a key with a line break: %v", err)
	}
}

func TestUnknownCommand(t *testing.T) {
	err := run(t.Context(), []string{"teapot"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "productpage") {
		t.Errorf("got %v, want the list of commands", err)
	}
	err = run(t.Context(), []string{"reviews", "-version", "v9"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "v1, v2 and v3") {
		t.Errorf("got %v, want the list of versions", err)
	}
}

func TestFailPercentIsExact(t *testing.T) {
	s := named("details", "bad")
	s.failPercent = 30
	server := httptest.NewServer(detailsHandler(s))
	t.Cleanup(server.Close)
	failed := 0
	for range 100 {
		if status, _ := getBody(t, server.URL+"/details/0", nil); status == http.StatusInternalServerError {
			failed++
		}
	}
	if failed != 30 || s.failed.Load() != 30 || s.served.Load() != 100 {
		t.Errorf("%d of 100 failed, and %d of %d as counted: want 30", failed, s.failed.Load(), s.served.Load())
	}
}

func TestLingering(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	later := lingering(ctx, 50*time.Millisecond)
	began := time.Now()
	stop()
	<-later.Done()
	if waited := time.Since(began); waited < 50*time.Millisecond {
		t.Errorf("served for %s after the signal, want 50ms", waited)
	}
}

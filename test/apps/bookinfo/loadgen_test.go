package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// load runs args of the subcommand load against a load generator for target and returns its report.
func load(t *testing.T, target string, args ...string) loadReport {
	t.Helper()
	g := newLoadgen(target)
	g.start(plan{URL: target})
	t.Cleanup(func() { g.current().end() })
	server := httptest.NewServer(g.handler(http.NewServeMux()))
	t.Cleanup(server.Close)
	var out bytes.Buffer
	if err := runLoad(t.Context(), append(args, "-server", server.URL), &out); err != nil {
		t.Fatal(err)
	}
	var report loadReport
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	return report
}

func TestLoadCountsWhatItGets(t *testing.T) {
	a := startApp(t, "v2", unwrapped)
	report := load(t, a.url+"/api/products/0", "-rate", "200", "-for", "500ms", "-tester", "jason", "-tester-every", "4")
	if report.Sent != 100 || report.Succeeded != 100 || report.Statuses["200"] != 100 || report.InFlight != 0 {
		t.Errorf("report: %+v, want 100 requests, all answered 200", report)
	}
	if got := report.Versions["jason"]["reviews"]["v2"]; got != 25 {
		t.Errorf("jason saw reviews v2 %d times, want 25", got)
	}
	if got := report.Versions[""]["ratings"]["v1"]; got != 75 {
		t.Errorf("everybody else saw ratings v1 %d times, want 75", got)
	}
	if got := a.dataStore.served.Load(); got != 100 {
		t.Errorf("the data store counted %d, want 100", got)
	}
	if report.LatencyMS["p50"] <= 0 || report.LatencyMS["p50"] > report.LatencyMS["p99"] || report.LatencyMS["p99"] > report.LatencyMS["max"] {
		t.Errorf("latencies %v", report.LatencyMS)
	}
}

// Each request of a fresh run has a connection of its own; those of others share some.
func TestLoadMakesConnections(t *testing.T) {
	var connections atomic.Int64
	target := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, product{})
	}))
	target.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	target.Start()
	t.Cleanup(target.Close)
	if report := load(t, target.URL, "-rate", "100", "-for", "200ms", "-fresh"); report.Succeeded != 20 || connections.Load() != 20 {
		t.Errorf("%d requests over %d connections, want 20 over 20", report.Succeeded, connections.Load())
	}
	before := connections.Load()
	if report := load(t, target.URL, "-rate", "100", "-for", "200ms"); report.Succeeded != 20 || connections.Load() >= before+20 {
		t.Errorf("%d requests over %d connections, want 20 over fewer", report.Succeeded, connections.Load()-before)
	}
}

func TestLoadStops(t *testing.T) {
	var served atomic.Int64
	tenth := make(chan struct{})
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1) == 10 {
			close(tenth)
		}
		writeJSON(w, http.StatusOK, product{})
	}))
	defer target.Close()
	g := newLoadgen(target.URL)
	g.start(plan{URL: g.target, Rate: 100})
	server := httptest.NewServer(g.handler(http.NewServeMux()))
	defer server.Close()
	<-tenth
	var out bytes.Buffer
	if err := runLoad(t.Context(), []string{"-stop", "-server", server.URL}, &out); err != nil {
		t.Fatal(err)
	}
	var report loadReport
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if report.Sent < 10 || report.InFlight != 0 || report.Succeeded != report.Sent || served.Load() != report.Sent {
		t.Errorf("report: %+v; the server counted %d", report, served.Load())
	}
}

func TestLoadCountsFailures(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusBadGateway, product{Error: "reviews: refused"})
	}))
	defer server.Close()
	report := load(t, server.URL, "-rate", "100", "-for", "100ms")
	if report.Statuses["502"] != 10 || report.Succeeded != 0 || report.LastError != "reviews: refused" {
		t.Errorf("report: %+v, want ten answers 502 with their error", report)
	}
}

// A request on a kept connection that the server closes without an answer is one failure and not a second request.
func TestLoadRepeatsNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var received atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if received.Add(1)%2 == 0 {
			connection, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			connection.Close()
			return
		}
		writeJSON(w, http.StatusOK, product{})
	})}
	go server.Serve(listener)
	defer server.Close()
	report := load(t, "http://"+listener.Addr().String(), "-rate", "20", "-for", "500ms")
	if report.Sent != 10 || report.Statuses["none"] != 5 || received.Load() != 10 {
		t.Errorf("sent %d, %v, the server received %d; want 10 sent, 5 without an answer, 10 received", report.Sent, report.Statuses, received.Load())
	}
}

func TestPlanIsChecked(t *testing.T) {
	server := httptest.NewServer(newLoadgen("").handler(http.NewServeMux()))
	defer server.Close()
	for _, query := range []string{"", "rate=-1", "rate=NaN", "rate=10000", "rate=1&for=soon", "rate=1&tester-every=half"} {
		if err := fetch(t.Context(), http.MethodPut, server.URL+"/run?"+query, nil, new(bytes.Buffer)); err == nil {
			t.Errorf("PUT /run?%s was accepted", query)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	for n := range 1000 {
		h.add(time.Duration(n+1) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.9: 900 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := h.quantile(q); got < want || float64(got) > 1.02*float64(want) {
			t.Errorf("quantile %v: %v, want %v to 2 %% above", q, got, want)
		}
	}
	h.add(5 * time.Minute)
	if got := h.quantile(1); got > 5*time.Minute {
		t.Errorf("quantile 1: %v, above the largest", got)
	}
}

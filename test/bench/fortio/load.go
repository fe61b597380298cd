package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"fortio.org/fortio/fgrpc"
	"fortio.org/fortio/fhttp"
	"fortio.org/fortio/periodic"
	"fortio.org/fortio/tcprunner"
	"golang.org/x/net/http2"
)

// loadOptions are those of one load.
type loadOptions struct {
	protocol, address string
	rate              float64
	callers           int
	duration          time.Duration
}

// load sends requests and returns what came of them.
func load(o loadOptions) (*Report, error) {
	times := newStopwatch(o.callers)
	options := periodic.RunnerOptions{
		QPS: o.rate, Duration: o.duration, NumThreads: o.callers, Out: io.Discard, AccessLogger: times, Uniform: o.rate > 0,
	}
	if o.rate == 0 {
		options.QPS = -1 // as many as there can be
	}
	before, began := cpu(), time.Now()
	results, connections, err := runner(o, options)
	if err != nil {
		return nil, err
	}
	took, failed := times.all()
	if int64(len(took)) != results.DurationHistogram.Count || len(took) == 0 {
		return nil, fmt.Errorf("%d requests were timed, and fortio counts %d", len(took), results.DurationHistogram.Count)
	}
	r := &Report{Failed: failed, P50: quantile(took, 0.5), P90: quantile(took, 0.9), P99: quantile(took, 0.99)}
	r.CPU = float64(cpu()-before) / float64(time.Since(began))
	r.Sent = results.DurationHistogram.Count + int64(o.callers) // each opens its connection by one that is not timed
	r.Rate = results.ActualQPS
	r.Connections = connections
	return r, nil
}

// runner sends them by the protocol's runner, and returns how many connections it opened, too.
func runner(o loadOptions, options periodic.RunnerOptions) (periodic.RunnerResults, int64, error) {
	switch o.protocol {
	case "http1":
		h := &fhttp.HTTPRunnerOptions{RunnerOptions: options}
		h.URL = "http://" + o.address + "/"
		r, err := fhttp.RunHTTPTest(h)
		if err != nil {
			return periodic.RunnerResults{}, 0, err
		}
		return r.RunnerResults, r.SocketCount, nil
	case "http2":
		return loadHTTP2(o, options)
	case "grpc":
		r, err := fgrpc.RunGRPCTest(&fgrpc.GRPCRunnerOptions{RunnerOptions: options, Destination: o.address, UsePing: true})
		if err != nil {
			return periodic.RunnerResults{}, 0, err
		}
		// gRPC does not say how many it opened; a broken one fails the calls that were on it.
		return r.RunnerResults, int64(o.callers), nil
	case "tcp":
		t := &tcprunner.RunnerOptions{RunnerOptions: options}
		t.Destination = "tcp://" + o.address
		r, err := tcprunner.RunTCPTest(t)
		if err != nil {
			return periodic.RunnerResults{}, 0, err
		}
		return r.RunnerResults, int64(r.SocketCount), nil
	default:
		return periodic.RunnerResults{}, 0, fmt.Errorf("protocol %q: it is http1, http2, grpc or tcp", o.protocol)
	}
}

// caller speaks HTTP/2 without TLS, which fortio's own client does not.
type caller struct {
	client *http.Client
	url    string
}

// Run implements periodic.Runnable.
func (c *caller) Run(ctx context.Context, _ periodic.ThreadID) (bool, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return false, err.Error()
	}
	return resp.StatusCode == http.StatusOK, resp.Status
}

func loadHTTP2(o loadOptions, options periodic.RunnerOptions) (periodic.RunnerResults, int64, error) {
	options.RunType = "HTTP/2"
	r := periodic.NewPeriodicRunner(&options)
	defer r.Options().Abort()
	var opened atomic.Int64
	for i := range o.callers {
		transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			opened.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		}}
		defer transport.CloseIdleConnections()
		c := &caller{&http.Client{Transport: transport}, "http://" + o.address + "/"}
		if ok, why := c.Run(context.Background(), 0); !ok {
			return periodic.RunnerResults{}, 0, fmt.Errorf("%s: %s", o.address, why)
		}
		r.Options().Runners[i] = c
	}
	results := r.Run()
	r.Options().ReleaseRunners()
	return results, opened.Load(), nil
}

// stopwatch notes each request's time: it is a periodic.AccessLogger. Each caller has a place of its own.
type stopwatch struct{ callers []times }

type times struct {
	took   []float64 // in seconds
	failed int64
}

func newStopwatch(callers int) *stopwatch { return &stopwatch{make([]times, callers)} }

// Start implements periodic.AccessLogger.
func (s *stopwatch) Start(ctx context.Context, _ periodic.ThreadID, _ int64, _ time.Time) context.Context {
	return ctx
}

// Report implements periodic.AccessLogger. latency is in seconds.
func (s *stopwatch) Report(_ context.Context, thread periodic.ThreadID, _ int64, _ time.Time, latency float64, ok bool, _ string) {
	t := &s.callers[thread]
	t.took = append(t.took, latency)
	if !ok {
		t.failed++
	}
}

// Info implements periodic.AccessLogger.
func (s *stopwatch) Info() string { return "stopwatch" }

// all returns all times in seconds, sorted, and how many requests failed.
func (s *stopwatch) all() (took []float64, failed int64) {
	for _, t := range s.callers {
		took = append(took, t.took...)
		failed += t.failed
	}
	slices.Sort(took)
	return took, failed
}

// quantile returns the q-th part of sorted seconds, in milliseconds.
func quantile(sorted []float64, q float64) float64 {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)] * 1000
}

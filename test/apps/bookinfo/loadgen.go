package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// maxRate is in requests a second.
const maxRate = 5000

// loadgen is the load generator: one run at a time.
type loadgen struct {
	target string
	client *http.Client
	mu     sync.Mutex
	run    *loadRun
}

func runLoadgen(ctx context.Context, args []string, _ io.Writer) error {
	s, flags := newService("loadgen")
	target := flags.String("url", "http://productpage:9080/api/products/"+bookID, "`URL` that is asked")
	query := planFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	first, err := parsePlan(*target, query())
	if err != nil {
		return err
	}
	g := newLoadgen(*target)
	g.start(first)
	defer func() { g.current().end() }()
	return s.serve(ctx, g.handler(s.routes()))
}

func newLoadgen(target string) *loadgen {
	transport := &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 256, IdleConnTimeout: 60 * time.Second}
	return &loadgen{target: target, client: &http.Client{Transport: transport}}
}

// handler serves PUT /run?rate=…&for=…&tester=…&tester-every=…&fresh=…, which replaces the run; DELETE /run, which ends it and
// answers with its report; and GET /report, which with ?wait answers when the run has ended.
func (g *loadgen) handler(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("PUT /run", func(w http.ResponseWriter, r *http.Request) {
		p, err := parsePlan(g.target, r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		g.start(p)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /run", func(w http.ResponseWriter, _ *http.Request) {
		run := g.current()
		run.end()
		run.writeReport(w)
	})
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, r *http.Request) {
		run := g.current()
		if r.URL.Query().Has("wait") {
			select {
			case <-run.ended:
			case <-r.Context().Done():
				return
			}
		}
		run.writeReport(w)
	})
	return mux
}

// start ends the current run, waits until nothing of it is in flight, and starts the next.
func (g *loadgen) start(p plan) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run != nil {
		g.run.end()
	}
	g.run = startRun(p, g.client)
}

func (g *loadgen) current() *loadRun {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.run
}

// planFlags registers the flags of a plan and returns what they were set to, as PUT /run takes it.
func planFlags(flags *flag.FlagSet) func() url.Values {
	rate := flags.Float64("rate", 10, "`requests` a second; 0 sends none")
	length := flags.Duration("for", 0, "how long to send; 0 is until the next run")
	tester := flags.String("tester", "", "`name` of the user that testers send as header end-user")
	every := flags.Int("tester-every", 0, "every `n`-th request is a tester's; 0 is none")
	fresh := flags.Bool("fresh", false, "make a connection for each request")
	return func() url.Values {
		return url.Values{
			"rate": {fmt.Sprint(*rate)}, "for": {length.String()},
			"tester": {*tester}, "tester-every": {strconv.Itoa(*every)}, "fresh": {strconv.FormatBool(*fresh)},
		}
	}
}

func parsePlan(target string, query url.Values) (plan, error) {
	p := plan{URL: target, Tester: query.Get("tester")}
	var err error
	if p.Rate, err = strconv.ParseFloat(query.Get("rate"), 64); err != nil || !(p.Rate >= 0 && p.Rate <= maxRate) {
		return plan{}, fmt.Errorf("rate %q: give a number from 0 to %d", query.Get("rate"), maxRate)
	}
	if text := query.Get("for"); text != "" {
		if p.For, err = time.ParseDuration(text); err != nil || p.For < 0 {
			return plan{}, fmt.Errorf("for %q: give a duration such as 20s", text)
		}
	}
	if text := query.Get("tester-every"); text != "" {
		if p.TesterEvery, err = strconv.Atoi(text); err != nil || p.TesterEvery < 0 {
			return plan{}, fmt.Errorf("tester-every %q: give a whole number", text)
		}
	}
	if text := query.Get("fresh"); text != "" {
		if p.Fresh, err = strconv.ParseBool(text); err != nil {
			return plan{}, fmt.Errorf("fresh %q: give true or false", text)
		}
	}
	return p, nil
}

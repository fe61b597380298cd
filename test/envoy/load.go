package envoy

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/tulle-mesh/tulle/test/echo"
)

// Report counts the calls of a load. Answers that are not a backend's are failures, as are statuses that are not 200.
type Report struct {
	// Sent is the number of calls.
	Sent int
	// By is the number of good answers by backend, as name, and by version, as "version v1".
	By map[string]int
	// Failures counts what went wrong, by text.
	Failures map[string]int
}

// OK is the number of good answers.
func (r Report) OK() int { return r.Sent - r.Failed() }

// Failed is the number of failures.
func (r Report) Failed() int {
	n := 0
	for _, c := range r.Failures {
		n += c
	}
	return n
}

func (r Report) String() string {
	var lines []string
	for text, n := range r.Failures {
		lines = append(lines, fmt.Sprintf("%d× %s", n, text))
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d sent, %d failed %s", r.Sent, r.Failed(), strings.Join(lines, "\n"))
}

// recorder makes a Report; it is for concurrent use.
type recorder struct {
	mu     sync.Mutex
	report Report
}

func newRecorder() *recorder {
	return &recorder{report: Report{By: map[string]int{}, Failures: map[string]int{}}}
}

func (r *recorder) add(resp *echo.Response, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Sent++
	switch {
	case err != nil:
		r.report.Failures[err.Error()]++
	case resp.Answer == nil || resp.Status != http.StatusOK:
		r.report.Failures[fmt.Sprintf("status %d %q", resp.Status, resp.Text)]++
	default:
		r.report.By[resp.Name]++
		r.report.By["version "+resp.Version]++
	}
}

// Call is a request and how to send it.
type Call struct {
	Protocol echo.Protocol
	echo.Request
	// KeepAlive lets the HTTP calls of a worker share a connection.
	KeepAlive bool
}

// Burst sends all calls at the same time, each on a connection of its own.
func (p *Pod) Burst(calls []Call) Report {
	r := newRecorder()
	start := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range calls {
		wg.Go(func() {
			<-start
			r.add(p.Call(c.Protocol, c.Request))
		})
	}
	close(start)
	wg.Wait()
	return r.report
}

// Repeat sends a call n times, by some workers.
func (p *Pod) Repeat(n, workers int, c Call) Report {
	work := make(chan struct{})
	l := p.load(workers, c, func() bool { _, ok := <-work; return ok })
	for range n {
		work <- struct{}{}
	}
	close(work)
	return l.wait()
}

// Load is traffic that goes on until it is stopped.
type Load struct {
	stop chan struct{}
	wait func() Report
	// Enough is closed once every worker has had an answer: the load has begun.
	Begun <-chan struct{}
}

// Stop ends the load after the calls that are under way.
func (l *Load) Stop() Report {
	close(l.stop)
	return l.wait()
}

// StartLoad sends a call over and over, by some workers, and returns once each of them has had an answer.
func (p *Pod) StartLoad(workers int, c Call) *Load {
	stop := make(chan struct{})
	l := p.load(workers, c, func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	})
	l.stop = stop
	<-l.Begun
	return l
}

func (p *Pod) load(workers int, c Call, more func() bool) *Load {
	r := newRecorder()
	var all, begun sync.WaitGroup
	begun.Add(workers)
	for range workers {
		all.Go(func() {
			client := echo.NewClient(echo.ClientOptions{Dial: p.ns.DialContext, KeepAlive: c.KeepAlive})
			defer client.Close()
			first := sync.OnceFunc(begun.Done)
			defer first()
			for more() {
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				r.add(client.Call(ctx, c.Protocol, c.Request))
				cancel()
				first()
			}
		})
	}
	ch := make(chan struct{})
	go func() { begun.Wait(); close(ch) }()
	return &Load{Begun: ch, wait: func() Report { all.Wait(); return r.report }}
}

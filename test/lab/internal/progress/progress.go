// Package progress tells a person at a terminal what a long command is doing:
// one line when a step starts, one every few seconds while it runs, one when
// it ends.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// interval is the longest silence while a step runs.
const interval = 10 * time.Second

// Reporter writes progress lines. It is safe for concurrent use.
type Reporter struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

// New returns a Reporter whose clock starts now.
func New(out io.Writer) *Reporter {
	return &Reporter{out: out, start: time.Now()}
}

// Printf writes one line, prefixed with the time since the Reporter was made.
func (r *Reporter) Printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	fmt.Fprintf(r.out, "[%6.1fs] %s\n", time.Since(r.start).Seconds(), line)
}

// Step is a running step. Its state is what the periodic line shows.
type Step struct {
	mu    sync.Mutex
	state string
}

// Set replaces the text that the next periodic line shows.
func (s *Step) Set(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = fmt.Sprintf(format, args...)
}

func (s *Step) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run calls fn as one step: it announces the step, repeats its state while fn
// runs, and says how long it took. It returns fn's error unchanged and does
// not print it: that is for the caller.
func (r *Reporter) Run(title string, fn func(*Step) error) error {
	r.Printf("%s", title)
	step := &Step{state: "working"}
	started := time.Now()
	stop := make(chan struct{})
	var ticking sync.WaitGroup
	ticking.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				r.Printf("  ... %s: %s (%s so far)", title, step.get(), time.Since(started).Round(time.Second))
			}
		}
	})
	err := fn(step)
	close(stop)
	ticking.Wait()
	if err != nil {
		return err
	}
	r.Printf("%s: done in %s", title, time.Since(started).Round(100*time.Millisecond))
	return nil
}

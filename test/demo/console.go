package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
)

// step is one named step of the demo. It returns what came of it, in a few words.
type step struct {
	name string
	run  func(context.Context) (outcome string, err error)
}

// patience is how often a step that takes long says what it is doing.
const patience = 10 * time.Second

// console prints steps with the time since the start.
type console struct {
	now   func() time.Time
	start time.Time

	mu    sync.Mutex
	out   io.Writer
	doing string
}

func newConsole(out io.Writer, now func() time.Time) *console {
	return &console{out: out, now: now, start: now()}
}

// heading prints what begins, and more about it.
func (c *console) heading(text, more string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, "\n%s\n\n%s", text, more)
}

// line prints one line of a step.
func (c *console) line(step, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed := c.now().Sub(c.start)
	fmt.Fprintf(c.out, "%3d:%02d  %-13s %s\n", int(elapsed.Minutes()), int(elapsed.Seconds())%60, step, text)
}

// set says what the running step is doing; it is printed only when that takes long.
func (c *console) set(doing string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doing = doing
}

// run runs steps until one fails.
func (c *console) run(ctx context.Context, steps []step) error {
	for i, s := range steps {
		outcome, err := c.runOne(ctx, s)
		if err != nil {
			return fmt.Errorf("step %d of %d, %s: %w", i+1, len(steps), s.name, err)
		}
		c.line(s.name, outcome)
	}
	return nil
}

// runOne runs a step and says every now and then what it is doing.
func (c *console) runOne(ctx context.Context, s step) (outcome string, err error) {
	c.set("")
	done := make(chan struct{})
	go func() {
		defer close(done)
		outcome, err = s.run(ctx)
	}()
	ticker := time.NewTicker(patience)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return outcome, err
		case <-ticker.C:
			c.mu.Lock()
			doing := c.doing
			c.mu.Unlock()
			c.line(s.name, "… "+doing)
		}
	}
}

// status takes the lines that a program writes as what the running step is doing.
type status struct {
	console *console
	pending []byte
}

// Write implements io.Writer.
func (s *status) Write(text []byte) (int, error) {
	s.pending = append(s.pending, text...)
	for {
		line, rest, found := bytes.Cut(s.pending, []byte("\n"))
		if !found {
			return len(text), nil
		}
		// The lab starts its lines with a time of its own.
		s.console.set(strings.TrimSpace(regexp.MustCompile(`^\[ *[0-9.]+s\]`).ReplaceAllString(string(line), "")))
		s.pending = rest
	}
}

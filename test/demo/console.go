package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// step is one named step of the demo. It returns what came of it, in a few words.
type step struct {
	name string
	run  func(context.Context) (outcome string, err error)
}

// silence is the longest that a step says nothing.
const silence = 10 * time.Second

// console prints steps with the time since the start.
type console struct {
	now   func() time.Time
	start time.Time

	mu     sync.Mutex
	out    io.Writer
	latest time.Time // when the last line was printed
}

func newConsole(out io.Writer, now func() time.Time) *console {
	return &console{out: out, now: now, start: now()}
}

func (c *console) heading(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, "\n%s\n\n", text)
	c.latest = c.now()
}

// line prints one line of a step.
func (c *console) line(step, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed := c.now().Sub(c.start)
	fmt.Fprintf(c.out, "%3d:%02d  %-13s %s\n", int(elapsed.Minutes()), int(elapsed.Seconds())%60, step, text)
	c.latest = c.now()
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

// runOne runs a step and says that it is still at work when nothing else was printed for a while.
func (c *console) runOne(ctx context.Context, s step) (outcome string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		outcome, err = s.run(ctx)
	}()
	ticker := time.NewTicker(silence)
	defer ticker.Stop()
	began := c.now()
	for {
		select {
		case <-done:
			return outcome, err
		case <-ticker.C:
			c.mu.Lock()
			quiet := c.now().Sub(c.latest) >= silence
			c.mu.Unlock()
			if quiet {
				c.line(s.name, fmt.Sprintf("… %d s", int(c.now().Sub(began).Seconds())))
			}
		}
	}
}

// pipe prints what a program writes, line by line, as lines of a step. The returned function waits for its end.
func (c *console) pipe(step string) (io.WriteCloser, func()) {
	reader, writer := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			c.line(step, lines.Text())
		}
		// A line too long to print must not block the program.
		_, _ = io.Copy(io.Discard, reader)
	}()
	return writer, func() { writer.Close(); <-done }
}

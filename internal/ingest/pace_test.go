package ingest

import (
	"testing"
	"time"
)

// at is a time in milliseconds after some quiet past.
func at(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

func TestPacer(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		published int   // the last publish, in ms
		idle      []int // changes since that made no difference
		changes   []int // changes since then that wait
		due       int
	}{
		"the first change after quiet goes at once":               {published: -5000, changes: []int{0}, due: 0},
		"a change right after a publish waits for a pause":        {published: 0, changes: []int{10}, due: 110},
		"each further change of a burst starts the pause anew":    {published: 0, changes: []int{10, 90, 180}, due: 280},
		"a burst without a pause is published after the limit":    {published: 0, changes: []int{10, 400, 800, 1000}, due: 1010},
		"a change one pause after the publish is one after quiet": {published: 0, changes: []int{100}, due: 100},
		"what makes no difference does not end the quiet":         {published: 0, idle: []int{300}, changes: []int{310}, due: 310},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &pacer{}
			p.done(at(test.published), true)
			for _, i := range test.idle {
				p.note(at(i))
				p.done(at(i), false)
			}
			for _, c := range test.changes {
				p.note(at(c))
			}
			due, waits := p.due()
			if !waits || !due.Equal(at(test.due)) {
				t.Errorf("due %v (%v), want %v", due, waits, at(test.due))
			}
			p.done(due, true)
			if _, waits := p.due(); waits {
				t.Error("something is due after everything was published")
			}
		})
	}
}

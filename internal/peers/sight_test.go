package peers

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"
)

// TestEyes: what a replica that asks every two seconds says of its sight.
func TestEyes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		answers string // one a look, from noon on: y or n
		clear   string // after each
	}{
		{"all is well", "yyyy", "yyyy"},
		{"a short silence is none", "ynnyy", "yyyyy"},
		{"a long one", "ynnnnnn", "yyynnnn"},
		{"and what comes after: eight seconds to catch up", "ynnnyyyyyyy", "yyynnnnyyyy"},
	} {
		e := eyes{seen: noon}
		got := ""
		for i, answer := range tt.answers {
			now := noon.Add(time.Duration(i) * look)
			e.look(now, answer == 'y')
			if e.clear(now, 8*time.Second) {
				got += "y"
			} else {
				got += "n"
			}
		}
		if got != tt.clear {
			t.Errorf("%s: %s is %s, want %s", tt.name, tt.answers, got, tt.clear)
		}
	}
}

// TestSight: proxies are sent off by a replica that is blind while another sees, not when none does.
func TestSight(t *testing.T) {
	t.Parallel()
	config := anybody(t)
	other := start(t, config, "")
	var otherSees, answers atomic.Bool
	other.server.SeesNow = func(context.Context) bool { return otherSees.Load() }
	changes := make(chan bool, 1)
	blind := make(chan struct{})
	s := &Sight{
		Ask: func(context.Context) error {
			if answers.Load() {
				return nil
			}
			select {
			case blind <- struct{}{}:
			default:
			}
			return errors.New("no answer")
		},
		Others: func(context.Context) []string { return []string{"127.0.0.1"} }, Port: other.port, TLS: config,
		Changed: func(outdated bool) { changes <- outdated }, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go s.Run(ctx)
	for range 5 { // the last two of them, and the others' word, with more than blindAfter behind them
		<-blind
	}
	select {
	case <-changes:
		t.Fatal("a replica that sees nothing sends proxies to one that sees nothing")
	default:
	}
	if s.Clear() || s.Outdated() != nil {
		t.Errorf("clear: %t, outdated: %v", s.Clear(), s.Outdated())
	}
	otherSees.Store(true)
	if outdated := <-changes; !outdated || s.Outdated() == nil {
		t.Errorf("the other sees: outdated %t, %v", outdated, s.Outdated())
	}
	answers.Store(true)
	if outdated := <-changes; outdated || s.Outdated() != nil || !s.Clear() {
		t.Errorf("both see: outdated %t, %v", outdated, s.Outdated())
	}
}

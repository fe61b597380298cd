package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// sightPath answers 204 while the replica sees the API server, else 503.
const sightPath = "/v1/sight"

const (
	// look is how often the API server is asked, and how long it may take to answer.
	look = 2 * time.Second
	// blindAfter is how long the API server may not answer.
	blindAfter = 5 * time.Second
	// Regain is how long after the API server answers again a replica may not know yet what it has missed: client-go waits up to
	// half a minute, give or take as much, before it watches again.
	Regain = time.Minute
)

// Sight knows whether this replica sees the API server. When it does not, and another replica does, what it knows gets old, and its proxies are
// better off with the other. When no replica sees it they stay: nobody knows better.
type Sight struct {
	// Ask asks the API server something small.
	Ask func(context.Context) error
	// Others returns the addresses of the other live replicas, and Port where they answer.
	Others func(context.Context) []string
	Port   string
	TLS    *tls.Config
	// Regain is as the constant, unless a test is in a hurry.
	Regain time.Duration
	// Changed is told when proxies get better off with another replica, and when they are not any more.
	Changed func(outdated bool)
	Log     *slog.Logger

	mu       sync.Mutex
	eyes     eyes
	outdated bool
}

// eyes is when the API server last answered, and when it last had not done so for too long; zero when it always had.
type eyes struct{ seen, blind time.Time }

// look takes in what came of asking.
func (e *eyes) look(now time.Time, answered bool) {
	switch {
	case answered:
		e.seen = now
	case now.Sub(e.seen) >= blindAfter:
		e.blind = now
	}
}

// clear says whether a replica surely knows what there is to know.
func (e *eyes) clear(now time.Time, regain time.Duration) bool {
	return now.Sub(e.seen) < blindAfter+look && (e.blind.IsZero() || now.Sub(e.blind) >= regain)
}

// Run looks until ctx ends. It is called by a replica that the API server has just answered.
func (s *Sight) Run(ctx context.Context) {
	s.mu.Lock()
	s.eyes.seen = time.Now()
	s.mu.Unlock()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, look)
		err := s.Ask(asking)
		cancel()
		s.mu.Lock()
		s.eyes.look(time.Now(), err == nil)
		s.mu.Unlock()
		outdated := !s.Clear() && s.anotherSees(ctx)
		if ctx.Err() == nil {
			s.judge(outdated, err)
		}
	}
}

// Clear says whether this replica sees the API server, and has for long enough.
func (s *Sight) Clear() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.eyes.clear(time.Now(), s.Regain)
}

// SeesNow says whether this replica sees the API server at this moment, for another that does not: when the API server goes away for all, no replica
// may be told of another that has not noticed yet.
func (s *Sight) SeesNow(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	return s.Clear() && s.Ask(ctx) == nil
}

// Outdated returns why this replica should get no more proxies; nil when it is as good as any.
func (s *Sight) Outdated() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outdated {
		return errors.New("this replica of the control plane has lost sight of the API server, and another has not")
	}
	return nil
}

func (s *Sight) judge(outdated bool, err error) {
	s.mu.Lock()
	changed := outdated != s.outdated
	s.outdated = outdated
	s.mu.Unlock()
	switch {
	case !changed:
		return
	case outdated:
		s.Log.Error("the API server does not answer, but another replica sees it: proxies are sent there", "error", err)
	default:
		s.Log.Info("proxies are welcome again")
	}
	s.Changed(outdated)
}

// anotherSees asks the other replicas all at once.
func (s *Sight) anotherSees(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	others := s.Others(ctx)
	answers := make(chan bool, len(others))
	for _, address := range others {
		go func() {
			err := s.askReplica(ctx, address)
			if err != nil {
				s.Log.Debug("no other replica to send proxies to", "address", address, "error", err)
			}
			answers <- err == nil
		}()
	}
	for range others {
		if <-answers {
			return true
		}
	}
	return false
}

func (s *Sight) askReplica(ctx context.Context, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(address, s.Port)+sightPath, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: s.TLS, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}

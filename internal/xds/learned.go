package xds

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// workloadKey says which pods share a learned set.
type workloadKey struct{ Cluster, Namespace, ServiceAccount, Owner string }

func keyOf(p *resource.Proxy) workloadKey {
	return workloadKey{p.Cluster, p.Namespace, p.ServiceAccount, p.Owner}
}

// learnedSet is what pods of one workload asked for, and the streams of those that are connected.
type learnedSet struct {
	asked   map[string]lesson
	streams map[*stream]struct{}
	// pods are those that asked lately, by UID.
	pods map[string]*teacher
}

func newLearnedSet() *learnedSet {
	return &learnedSet{asked: map[string]lesson{}, streams: map[*stream]struct{}{}, pods: map[string]*teacher{}}
}

// lesson is a learned name: when it was last asked for, and by which pod.
type lesson struct {
	at  time.Time
	pod string
}

// teacher is a pod that asks. What it asks for is learned after a while, unless it turns out meanwhile that it just tries
// addresses out: then nothing of it is. So its siblings are never sent what they would have to give back.
type teacher struct {
	// asks are the times of its last asks, one more than it may have within the window.
	asks []time.Time
	// triesUntil is when it counts as a pod again that asks for what it needs.
	triesUntil time.Time
	// pending are the names that will be learned, by when they were last asked for.
	pending map[string]time.Time
}

// ask notes n asks. It returns whether the pod may teach: it has not asked for more than limit within the last window, nor did it
// a window ago. What is pending is dropped otherwise.
func (p *teacher) ask(n, limit int, window time.Duration, now time.Time) bool {
	for range min(n, limit+1) {
		p.asks = append(p.asks, now)
	}
	p.asks = p.asks[max(0, len(p.asks)-limit-1):]
	if len(p.asks) > limit && now.Sub(p.asks[0]) < window {
		p.triesUntil = now.Add(window)
		clear(p.pending)
	}
	return !now.Before(p.triesUntil)
}

// due takes out the pending names that are old enough to be learned, those asked for first at first.
func (p *teacher) due(before time.Time) []string {
	var names []string
	for name, at := range p.pending {
		if at.Before(before) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(p.pending[a].Compare(p.pending[b]), strings.Compare(a, b))
	})
	return names
}

// learn takes a name that a pod asked for at a time. It returns whether it is new and, if so, the one that gave way to it: the least
// recently asked one. A pod that has taught as many as it may teaches no other.
func (l *learnedSet) learn(name string, by lesson, limit, podLimit int) (added bool, removed string) {
	if _, known := l.asked[name]; !known {
		if l.taught(by.pod) >= podLimit {
			return false, ""
		}
		if len(l.asked) >= limit {
			removed = l.oldest()
			delete(l.asked, removed)
		}
		added = true
	}
	l.asked[name] = by
	return added, removed
}

// taught returns how many names a pod has taught.
func (l *learnedSet) taught(pod string) int {
	n := 0
	for _, by := range l.asked {
		if by.pod == pod {
			n++
		}
	}
	return n
}

func (l *learnedSet) oldest() string {
	var name string
	var at time.Time
	for n, by := range l.asked {
		if name == "" || by.at.Before(at) || by.at.Equal(at) && n < name {
			name, at = n, by.at
		}
	}
	return name
}

// expire forgets, and returns, the names that were last asked for before a time.
func (l *learnedSet) expire(before time.Time) []string {
	var removed []string
	for name, by := range l.asked {
		if by.at.Before(before) {
			delete(l.asked, name)
			removed = append(removed, name)
		}
	}
	return removed
}

// age learns what is pending for a window, forgets what nobody asks for any more and the pods that have not asked for two windows.
// It returns what changed, in order.
func (l *learnedSet) age(now time.Time, c *Config) []learning {
	var changes []learning
	for uid, p := range l.pods {
		for _, name := range p.due(now.Add(-c.LearnWindow)) {
			added, gaveWay := l.learn(name, lesson{p.pending[name], uid}, c.LearnedNames, c.PodNames)
			delete(p.pending, name)
			if gaveWay != "" {
				changes = append(changes, learning{gaveWay, false})
			}
			if added {
				changes = append(changes, learning{name, true})
			}
		}
		if len(p.pending) == 0 && now.Sub(p.asks[len(p.asks)-1]) > 2*c.LearnWindow {
			delete(l.pods, uid)
		}
	}
	for _, name := range l.expire(now.Add(-c.LearnedTTL)) {
		changes = append(changes, learning{name, false})
	}
	return changes
}

func (l *learnedSet) empty() bool { return len(l.asked)+len(l.streams)+len(l.pods) == 0 }

// tell passes changes on to the connected pods of the workload.
func (l *learnedSet) tell(changes []learning) {
	if len(changes) == 0 {
		return
	}
	for t := range l.streams {
		t.mail.learned = append(t.mail.learned, changes...)
		t.wake()
	}
}

// learning is one change to a learned set.
type learning struct {
	name  string
	added bool
}

// mayTeach notes that a proxy asked for n destinations, and returns whether its workload may learn them.
func (s *Server) mayTeach(t *stream, n int, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.learned[keyOf(&t.proxy)]
	if l == nil {
		return false
	}
	p := l.pods[t.proxy.UID]
	if p == nil {
		p = &teacher{pending: map[string]time.Time{}}
		l.pods[t.proxy.UID] = p
	}
	return p.ask(n, s.config.LearnAsks, s.config.LearnWindow, now)
}

// teach notes what a proxy asked for. The names must be of those that the view says may be learned.
func (s *Server) teach(t *stream, names []string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.learned[keyOf(&t.proxy)]
	if l == nil || l.pods[t.proxy.UID] == nil {
		return
	}
	for _, name := range names {
		l.pods[t.proxy.UID].pending[name] = now
	}
}

// ageLearned learns and forgets what it is time for.
func (s *Server) ageLearned(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.learned {
		l.tell(l.age(now, &s.config))
		if l.empty() {
			delete(s.learned, key)
		}
	}
}

// joinLearned gives a new stream what its workload's pods asked for.
func (s *Server) joinLearned(t *stream) {
	key := keyOf(&t.proxy)
	l := s.learned[key]
	if l == nil {
		l = newLearnedSet()
		s.learned[key] = l
	}
	l.streams[t] = struct{}{}
	for name := range l.asked {
		t.mail.learned = append(t.mail.learned, learning{name, true})
	}
}

func (s *Server) leaveLearned(t *stream) {
	key := keyOf(&t.proxy)
	l := s.learned[key]
	if l == nil {
		return
	}
	delete(l.streams, t)
	if l.empty() {
		delete(s.learned, key)
	}
}

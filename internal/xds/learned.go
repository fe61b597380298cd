package xds

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// workloadKey says which pods share a learned set.
type workloadKey struct{ Cluster, Namespace, ServiceAccount, Owner string }

func keyOf(p *resource.Proxy) workloadKey {
	return workloadKey{p.Cluster, p.Namespace, p.ServiceAccount, p.Owner}
}

// learnedSet is what pods of one workload asked for, and when last, and the streams of those that are connected.
type learnedSet struct {
	asked   map[string]time.Time
	streams map[*stream]struct{}
}

// ask notes asks. It returns the names that are new and those that gave way to them, the least recently asked ones.
func (l *learnedSet) ask(names []string, limit int, now time.Time) (added, removed []string) {
	for _, name := range names {
		if _, ok := l.asked[name]; !ok {
			added = append(added, name)
			if len(l.asked) >= limit {
				old := l.oldest()
				delete(l.asked, old)
				removed = append(removed, old)
			}
		}
		l.asked[name] = now
	}
	return added, removed
}

func (l *learnedSet) oldest() string {
	var name string
	var at time.Time
	for n, t := range l.asked {
		if name == "" || t.Before(at) || t.Equal(at) && n < name {
			name, at = n, t
		}
	}
	return name
}

// expire forgets, and returns, the names that were last asked for before a time.
func (l *learnedSet) expire(before time.Time) []string {
	var removed []string
	for name, at := range l.asked {
		if at.Before(before) {
			delete(l.asked, name)
			removed = append(removed, name)
		}
	}
	return removed
}

// tell passes changes on to the connected pods of the workload.
func (l *learnedSet) tell(added, removed []string) {
	if len(added)+len(removed) == 0 {
		return
	}
	for t := range l.streams {
		t.mail.learn(added, removed)
		t.wake()
	}
}

// learn notes changes to a learned set in the order in which they happened.
func (m *mail) learn(added, removed []string) {
	for _, name := range added {
		m.learned = append(m.learned, learning{name, true})
	}
	for _, name := range removed {
		m.learned = append(m.learned, learning{name, false})
	}
}

// learning is one change to a learned set.
type learning struct {
	name  string
	added bool
}

// learn notes what a proxy asked for. The names must be of those that the view says may be learned.
func (s *Server) learn(t *stream, names []string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.learned[keyOf(&t.proxy)]
	if l == nil {
		return
	}
	l.tell(l.ask(names, s.config.LearnedNames, now))
}

func (s *Server) expireLearned(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, l := range s.learned {
		l.tell(nil, l.expire(now.Add(-s.config.LearnedTTL)))
		if len(l.asked) == 0 && len(l.streams) == 0 {
			delete(s.learned, key)
		}
	}
}

// joinLearned gives a new stream what its workload's pods asked for.
func (s *Server) joinLearned(t *stream) {
	key := keyOf(&t.proxy)
	l := s.learned[key]
	if l == nil {
		l = &learnedSet{asked: map[string]time.Time{}, streams: map[*stream]struct{}{}}
		s.learned[key] = l
	}
	l.streams[t] = struct{}{}
	for name := range l.asked {
		t.mail.learn([]string{name}, nil)
	}
}

func (s *Server) leaveLearned(t *stream) {
	key := keyOf(&t.proxy)
	l := s.learned[key]
	if l == nil {
		return
	}
	delete(l.streams, t)
	if len(l.asked) == 0 && len(l.streams) == 0 {
		delete(s.learned, key)
	}
}

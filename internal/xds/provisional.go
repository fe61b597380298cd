package xds

import "time"

// provisional says whether the view's resource is an answer for those who can wait no longer (see resource.Resource.Hold).
func (e *entry) provisional() bool { return e.cur != nil && e.cur.Hold > 0 }

// awaited says whether the proxy has nothing to go on with until it is answered. What it holds was made when more was known
// than there is now, and a provisional answer does not replace it.
func (e *entry) awaited() bool { return e.answer && (e.asked || e.version == "") }

// ripen lets those provisional answers be sent that have been waited for long enough. It returns when to look again (zero:
// none waits). What waits is not pending: the proxy has all that is known.
func (s *session) ripen(now time.Time) time.Time {
	for t := range s.types {
		for e := range s.types[t].pending {
			if _, waits := s.waiting[e]; !waits && e.provisional() && e.awaited() && !e.ripe {
				s.waiting[e] = now
				s.ripeAt = earliest(s.ripeAt, now.Add(e.cur.Hold))
			}
		}
	}
	if now.Before(s.ripeAt) {
		return s.ripeAt
	}
	s.ripeAt = time.Time{}
	for e, since := range s.waiting {
		if !e.provisional() || !e.awaited() {
			delete(s.waiting, e) // something better came, or nobody asks any more
			continue
		}
		at := since.Add(e.cur.Hold)
		if at.After(now) {
			s.ripeAt = earliest(s.ripeAt, at)
			continue
		}
		delete(s.waiting, e)
		e.ripe = true
		s.touch(e)
	}
	return s.ripeAt
}

// earliest returns the earlier of two times, of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

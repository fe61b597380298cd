package ingest

import "time"

// Of a burst of changes one snapshot is made when nothing came for pause, or limit after its first change.
const (
	pause = 100 * time.Millisecond
	limit = time.Second
)

// pacer decides when the changes that may wait are published. It has no clock.
type pacer struct {
	published   time.Time
	first, last time.Time
}

// note records a change that waits to be published.
func (p *pacer) note(now time.Time) {
	if p.first.IsZero() {
		p.first = now
	}
	p.last = now
}

// due returns when the waiting changes are to be published; false when there are none.
func (p *pacer) due() (time.Time, bool) {
	if p.first.IsZero() {
		return time.Time{}, false
	}
	if p.first.Sub(p.published) >= pause {
		return p.first, true
	}
	quiet, latest := p.last.Add(pause), p.first.Add(limit)
	if latest.Before(quiet) {
		return latest, true
	}
	return quiet, true
}

// done records that all that waited was taken in, and whether a snapshot was published because of it. When it made no difference, as
// our own write of a status makes none, it was still quiet.
func (p *pacer) done(now time.Time, published bool) {
	p.first, p.last = time.Time{}, time.Time{}
	if published {
		p.published = now
	}
}

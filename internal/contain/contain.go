// Package contain keeps a programming error where it happened. What panics ends with an error; it is counted by place, logged with
// its stack, and everything else goes on.
package contain

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// Place is where something panicked: a value of the metric's label where.
type Place string

// The places where panics are contained. Streams of proxies contain their own (see package xds).
const (
	Admission  Place = "admission"  // one request of the API server: refused, or allowed where the webhook is to be ignored
	Conversion Place = "conversion" // one request of the API server: refused
	Ingest     Place = "ingest"     // one object: left out of the model, or replaced by what is strict
	Publish    Place = "publish"    // one snapshot: the next one is published
	Compile    Place = "compile"    // one resource: missing
	Reconcile  Place = "reconcile"  // one reconciler's turn: tried again
	Status     Place = "status"     // one Mesh's status: says so
	Sign       Place = "sign"       // one certificate: the proxy keeps the one that it has, and it is tried again
	Credential Place = "credential" // one Secret or bundle of cert-manager's: what was there before serves on
)

// Panics counts and logs what panicked. A nil *Panics contains, and tells nobody.
type Panics struct {
	total *prometheus.CounterVec
	log   *slog.Logger
}

// New registers the metric tulle_panics_total; a nil registry registers it nowhere.
func New(registry prometheus.Registerer, log *slog.Logger) (*Panics, error) {
	p := &Panics{log: log, total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "tulle", Name: "panics_total", Help: "Programming errors that were contained, by place. Each is a bug: please report it with the log's stack.",
	}, []string{"where"})}
	for _, place := range []Place{Admission, Conversion, Ingest, Publish, Compile, Reconcile, Status, Sign, Credential} {
		p.total.WithLabelValues(string(place)) // a counter that is not there can't be told from one that is not scraped
	}
	if registry == nil {
		return p, nil
	}
	return p, registry.Register(p.total)
}

// Error says that something panicked.
type Error struct {
	// What was being done, and for which object.
	What string
	// Value is what was panicked with, Stack where. They are for logs: they may hold more than whoever asked should see.
	Value any
	Stack []byte
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: a bug of Tulle (panic; counted in tulle_panics_total, and the operator's log has the stack)", e.What)
}

// Do runs f. It returns an *Error when f panicked, else nil. what names the object. It tells nobody: for what is pure and hands its
// errors on.
func Do(what string, f func()) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &Error{What: what, Value: value, Stack: debug.Stack()}
		}
	}()
	f()
	return nil
}

// Do runs f as the function Do does, and counts and logs what panicked.
func (p *Panics) Do(where Place, what string, f func()) error {
	err := Do(what, f)
	p.Note(where, err)
	return err
}

// Note counts and logs an error if it is, or wraps, an *Error.
func (p *Panics) Note(where Place, err error) {
	var caught *Error
	if p == nil || !errors.As(err, &caught) {
		return
	}
	p.total.WithLabelValues(string(where)).Inc()
	p.log.Error("panic", "where", string(where), "what", caught.What, "panic", fmt.Sprint(caught.Value), "stack", string(caught.Stack))
}

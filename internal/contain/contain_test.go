package contain_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tulle-mesh/tulle/internal/contain"
)

// A panic becomes an error for who asked, a count, and a log line with the stack.
func TestDo(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	p, err := contain.New(registry, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Do(contain.Sign, "well", func() {}); err != nil {
		t.Errorf("no panic, and got %v", err)
	}
	err = p.Do(contain.Sign, "certificate of pod shop/web", func() { panic("a secret of the key") })
	var caught *contain.Error
	if !errors.As(err, &caught) || !strings.HasPrefix(err.Error(), "certificate of pod shop/web: a bug of Tulle") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"shop/web", "a secret of the key", "contain_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, log.String())
		}
	}
	want := `
# HELP tulle_panics_total Programming errors that were contained, by place. Each is a bug: please report it with the log's stack.
# TYPE tulle_panics_total counter
tulle_panics_total{where="admission"} 0
tulle_panics_total{where="compile"} 0
tulle_panics_total{where="conversion"} 0
tulle_panics_total{where="credential"} 0
tulle_panics_total{where="ingest"} 0
tulle_panics_total{where="publish"} 0
tulle_panics_total{where="reconcile"} 0
tulle_panics_total{where="sign"} 1
tulle_panics_total{where="status"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// Without anybody to tell, a panic is still contained.
func TestNobodyToTell(t *testing.T) {
	t.Parallel()
	var p *contain.Panics
	if err := p.Do(contain.Compile, "x", func() { panic(1) }); err == nil {
		t.Error("no error")
	}
}

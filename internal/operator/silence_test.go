package operator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowly answers with what is written to it, and ends with the request.
type slowly struct{ body *io.PipeWriter }

// RoundTrip implements http.RoundTripper.
func (s *slowly) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/never" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	body, writer := io.Pipe()
	s.body = writer
	context.AfterFunc(r.Context(), func() { writer.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: http.StatusOK, Body: body}, nil
}

// TestSilentAnswersEnd: a watch goes on while anything comes, however long, and ends after three silent minutes as if the API server had ended it, so
// that no list is needed. Any other answer that stops, or never begins, is an error.
func TestSilentAnswersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		api := &slowly{}
		way := impatient{api, silence, slog.New(slog.NewTextHandler(&log, nil))}
		get := func(path string) (*http.Response, error) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			return way.RoundTrip(request)
		}
		watch, err := get("/pods?watch=true")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		go func() {
			for range 10 {
				time.Sleep(silence - time.Second)
				if _, err := api.body.Write([]byte("bookmark ")); err != nil {
					t.Error(err)
				}
			}
		}()
		got, err := io.ReadAll(watch.Body)
		if err != nil || string(got) != strings.Repeat("bookmark ", 10) {
			t.Errorf("the watch brought %q and ended with %v", got, err)
		}
		if took, want := time.Since(began), 10*(silence-time.Second)+silence; took != want {
			t.Errorf("it ended after %v, want %v", took, want)
		}
		if !strings.Contains(log.String(), "nothing came from the API server for 3m0s") || !strings.Contains(log.String(), "path=/pods") {
			t.Errorf("the log says %q", log.String())
		}
		watch.Body.Close()

		list, err := get("/pods")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(list.Body); err == nil || !strings.Contains(err.Error(), "nothing came") {
			t.Errorf("half a list is %q and no error", got)
		}
		list.Body.Close()
		if response, err := get("/never"); err == nil || !strings.Contains(err.Error(), "nothing came") {
			if response != nil {
				response.Body.Close()
			}
			t.Errorf("got %v", err)
		}

		// What is read to its end, or given up by who asked, leaves nothing behind.
		log.Reset()
		whole, err := get("/pods")
		if err != nil {
			t.Fatal(err)
		}
		api.body.Close()
		if _, err := io.ReadAll(whole.Body); err != nil {
			t.Error(err)
		}
		whole.Body.Close()
		ctx, cancel := context.WithCancel(t.Context())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api/pods?watch=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		given, err := way.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.ReadAll(given.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("a watch that was given up ends with %v", err)
		}
		given.Body.Close()
		time.Sleep(2 * silence)
		if log.Len() > 0 {
			t.Errorf("the log says %q", log.String())
		}
	})
}

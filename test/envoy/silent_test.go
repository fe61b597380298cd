package envoy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Clients open connections that they may need later; Go's do it all the time. When the first request comes after the proxy has given up
// on detecting the protocol, it still follows the HTTP rules.
func TestSilentConnectionFollowsRules(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(reviewsRules)
		client := w.Pod("client")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		conn, err := client.Dial(ctx, "10.96.0.5:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for client.Stat(`^tcp\.outbound\.downstream_cx_total$`) == 0 {
			select {
			case <-ctx.Done():
				t.Fatal("the proxy did not give up on detection")
			case <-time.After(50 * time.Millisecond):
			}
		}
		for range 5 {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://10.96.0.5/", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("end-user", "jason")
			for _, h := range envoy.InternalHeaders() {
				request.Header.Set(h, "http|10.96.0.99:80")
			}
			if err := request.Write(conn); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), request)
			if err != nil {
				t.Fatal(err)
			}
			var answer echo.Answer
			if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
				t.Fatal(response.Status, err)
			}
			response.Body.Close()
			if answer.Version != "v2" {
				t.Errorf("the tester's request went to %s", answer.Version)
			}
			for _, h := range envoy.InternalHeaders() {
				if values := answer.Headers[http.CanonicalHeaderKey(h)]; values != nil {
					t.Errorf("the backend sees %s: %v", h, values)
				}
			}
		}
		if n := client.Stat(`^http\.silent\.downstream_rq_total$`); n != 5 {
			t.Errorf("%d requests were seen by the silent listener, not 5", n)
		}
	})
}

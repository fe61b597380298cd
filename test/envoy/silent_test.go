package envoy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
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

// A spare connection asks for its address as TCP. Where that is known, it works without a control plane; where it is not, it is closed and what was
// sent on it reaches nobody, while other connections go on, and the next spare connection works once the control plane is back.
func TestSpareConnectionWithoutControlPlane(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(services(1))
		client, known, unknown := w.Pod("client"), "10.96.0.5:80", serviceIP(0)+":80"
		for _, address := range []string{known, unknown} {
			client.MustCall(echo.HTTP1, echo.Request{Address: address})
		}
		good := 2
		if err := spareConnections(t, client, known)[0]; err != nil {
			t.Fatal(err)
		}
		good++

		w.StopControlPlane()
		errs := spareConnections(t, client, known, unknown)
		good++
		if errs[0] != nil {
			t.Errorf("where TCP is known: %v", errs[0])
		}
		if errs[1] == nil {
			t.Error("where TCP is not known, and can't be asked for, there was an answer")
		}
		if n := client.Stat(`^tcp\.outbound\.on_demand_cluster_timeout$`); n != 1 {
			t.Errorf("%d asks were not answered in time, want 1", n)
		}
		for _, address := range []string{known, unknown} {
			client.MustCall(echo.HTTP1, echo.Request{Address: address})
			good++
		}

		w.StartControlPlane()
		if err := spareConnections(t, client, unknown)[0]; err != nil {
			t.Errorf("with the control plane back: %v", err)
		}
		good++
		if n := backendCount(w, "reviews-v1", "reviews-v2"); n != good {
			t.Errorf("the backends counted %d requests, %d were answered", n, good)
		}
	})
}

// spareConnections opens a connection to each address at the same time, waits until their proxy has given up on detecting what they are, and sends a request on each.
func spareConnections(t *testing.T, client *envoy.Pod, addresses ...string) []error {
	t.Helper()
	const late = `^tcp\.outbound\.downstream_cx_total$`
	before := client.Stat(late)
	errs := make([]error, len(addresses))
	conns := make([]net.Conn, len(addresses))
	for i, address := range addresses {
		conns[i] = dial(t, client, address)
		defer conns[i].Close()
		if err := conns[i].SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "detection gives up", func() bool { return client.Stat(late) == before+int64(len(addresses)) })
	for i, conn := range conns {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addresses[i]+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if errs[i] = request.Write(conn); errs[i] != nil {
			continue
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), request)
		if err == nil {
			err = json.NewDecoder(response.Body).Decode(new(echo.Answer))
			response.Body.Close()
		}
		errs[i] = err
	}
	return errs
}

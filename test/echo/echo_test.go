package echo_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
)

// start runs a backend on loopback and returns the address of each protocol.
func start(t *testing.T) (*echo.Server, map[echo.Protocol]string) {
	t.Helper()
	var opened []net.Listener
	s, err := echo.Start(echo.Config{Name: "b", Version: "v1", HTTPPorts: []uint16{1}, TCPPorts: []uint16{2}, GreetingPorts: []uint16{3}},
		func(network, _ string) (net.Listener, error) {
			l, err := net.Listen(network, "127.0.0.1:0")
			opened = append(opened, l)
			return l, err
		})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	http, tcp, greeting := opened[0].Addr().String(), opened[1].Addr().String(), opened[2].Addr().String()
	return s, map[echo.Protocol]string{
		echo.HTTP1: http, echo.HTTP2: http, echo.GRPC: http, echo.GRPCStream: http, echo.WebSocket: http,
		echo.TCP: tcp, echo.Greeting: greeting,
	}
}

func TestEveryProtocol(t *testing.T) {
	s, addresses := start(t)
	c := echo.NewClient(echo.ClientOptions{Dial: new(net.Dialer).DialContext})
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i, p := range echo.Protocols() {
		r, err := c.Call(ctx, p, echo.Request{Address: addresses[p], Body: "ping", Header: map[string]string{"end-user": "jason"}})
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if r.Name != "b" || r.Version != "v1" || r.Protocol != p || r.Body != "ping" {
			t.Errorf("%s: %+v", p, r.Answer)
		}
		if s.Counts()[p] != 1 || s.Count() != i+1 {
			t.Errorf("%s: counts %v", p, s.Counts())
		}
		if p != echo.TCP && p != echo.Greeting && !strings.Contains(fmt.Sprint(r.Headers), "jason") {
			t.Errorf("%s: header not seen: %v", p, r.Headers)
		}
	}
}

func TestWishes(t *testing.T) {
	s, addresses := start(t)
	c := echo.NewClient(echo.ClientOptions{Dial: new(net.Dialer).DialContext, KeepAlive: true})
	defer c.Close()
	began := time.Now()
	r, err := c.Call(t.Context(), echo.HTTP1, echo.Request{Address: addresses[echo.HTTP1], Path: "/x?delay=50ms&status=418", Method: http.MethodPost})
	if err != nil || r.Status != http.StatusTeapot || r.Path != "/x" || r.Method != http.MethodPost || time.Since(began) < 50*time.Millisecond {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := c.Call(t.Context(), echo.HTTP1, echo.Request{Address: addresses[echo.HTTP1], Path: "/count"}); err != nil || !strings.Contains(r.Text, `"http/1.1":1`) || s.Count() != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestParseConfig(t *testing.T) {
	c, err := echo.ParseConfig([]string{"-name=a", "-http=80,81", "-tcp=9000"})
	if err != nil || c.Name != "a" || len(c.HTTPPorts) != 2 || c.TCPPorts[0] != 9000 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := echo.ParseConfig([]string{"-http=x"}); err == nil {
		t.Error("-http=x is accepted")
	}
}

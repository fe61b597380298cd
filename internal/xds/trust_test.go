package xds

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// The server says which trust bundle each proxy holds: the version of before until the proxy has acknowledged the new one.
func TestProxiesTellTheirTrustBundle(t *testing.T) {
	r := start(t, nil)
	view := r.publish(newTestView(), "bundle proxy 1 needs=listener:in", "listener in 1 warms=secret:peers", "secret peers 1")
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.request("listener", "")
	c.want("listener in@1")
	c.request("secret", "+peers")
	c.want("secret peers@1")
	holds := func(version string) {
		t.Helper()
		r.until(t, "trusts "+version, func(s []ProxyState) bool { return len(s) == 1 && s[0].Trust == version })
	}
	holds("1")
	if got := r.Trust(); got != "1" {
		t.Errorf("proxies are sent the bundle %q, want 1", got)
	}

	// The proxy has received the new bundle and has not acknowledged it.
	view = r.publish(view, "secret peers 2")
	response := c.receive()
	if got := r.Proxies()[0].Trust; got != "1" || r.Trust() != "2" {
		t.Errorf("the proxy trusts %q of %q before it has said so, want 1 of 2", got, r.Trust())
	}
	c.ack(response)
	holds("2")

	// What is no concern of the proxy changes nothing.
	r.publish(view, "secret service 1")
	holds("2")
}

// All proxies get another certificate when they should, however far their renewal is.
func TestReissue(t *testing.T) {
	var made atomic.Int32
	r := start(t, func(c *Config) {
		c.Certificates = signer(func(*resource.Proxy) (*resource.Resource, time.Time, error) {
			return testResource(workload, fmt.Sprint(made.Add(1))), time.Now().Add(time.Hour), nil
		})
	})
	r.publish(newTestView())
	c := r.connect(t, "cart-1")
	c.request("secret", "+workload")
	c.want("secret workload@1")
	r.Reissue(0)
	c.want("secret workload@2")
	r.Reissue(time.Second)
	c.want("secret workload@3")
}

// Before the first view there is no bundle.
func TestNoTrustBeforeTheFirstView(t *testing.T) {
	s, err := NewServer(Config{Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Trust(); got != "" {
		t.Errorf("got %q", got)
	}
	s.Publish(newTestView(), nil)
	if got := s.Trust(); got != "" {
		t.Errorf("got %q of a view that has no %s", got, resource.Ref{Type: resource.Secret, Name: "peers"})
	}
}

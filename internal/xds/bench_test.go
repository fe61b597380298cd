package xds

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// idleServer returns a server with n idle proxies that hold the given number of clusters each, all the same, and one that
// holds another. There is no network: what is measured is the server's own work.
func idleServer(b *testing.B, n, clusters int) (*Server, *testView, *stream) {
	s, err := NewServer(Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	view := newTestView()
	shared := &resource.Resource{Ref: proxyBundle, Version: "1"}
	for i := range clusters {
		c := testResource(resource.Ref{Type: resource.Cluster, Name: fmt.Sprint("c", i)}, "1")
		view.resources[c.Ref] = c
		shared.Needs = append(shared.Needs, c.Ref)
	}
	view.resources[shared.Ref] = shared
	own := testResource(resource.Ref{Type: resource.Cluster, Name: "own"}, "1")
	view.resources[own.Ref] = own
	s.Publish(view, nil)
	var last *stream
	for i := range n {
		last = testStream(s, view, fmt.Sprint(i))
		if err := s.add(last); err != nil {
			b.Fatal(err)
		}
		request(b, last, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Cluster.URL()})
	}
	request(b, last, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Cluster.URL(), ResourceNamesSubscribe: []string{"own"}})
	s.Publish(view, nil) // The first publish after a connect has every proxy read anew what it read while connecting.
	for t := range s.streams {
		settle(b, t)
	}
	return s, view, last
}

// request passes a request, and acknowledges what follows.
func request(b *testing.B, t *stream, req *discoveryv3.DeltaDiscoveryRequest) int {
	if _, err := t.session.request(req); err != nil {
		b.Fatal(err)
	}
	return settle(b, t)
}

func settle(b *testing.B, t *stream) int {
	t.exchange()
	out, _ := t.session.flush(time.Now())
	n := len(out)
	for _, r := range out {
		n += request(b, t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.message.TypeUrl, ResponseNonce: r.message.Nonce})
	}
	t.report(time.Now())
	return n
}

// BenchmarkPublishOfOne measures a publish that concerns one of n proxies, to its acknowledgement: the same for all n.
func BenchmarkPublishOfOne(b *testing.B) {
	for _, n := range []int{1, 2000} {
		b.Run(fmt.Sprint(n, " proxies"), func(b *testing.B) {
			s, view, t := idleServer(b, n, 100)
			ref := resource.Ref{Type: resource.Cluster, Name: "own"}
			changed := []resource.ScopedRef{testScope(&t.proxy, ref)}
			versions := [...]*resource.Resource{testResource(ref, "1"), testResource(ref, "2")}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				view.resources[ref] = versions[(i+1)%2]
				s.Publish(view, changed)
				if settle(b, t) != 1 {
					b.Fatal("want one response")
				}
			}
		})
	}
}

// BenchmarkPublishOfNone measures a publish that concerns nobody.
func BenchmarkPublishOfNone(b *testing.B) {
	s, view, t := idleServer(b, 2000, 100)
	changed := []resource.ScopedRef{testScope(&t.proxy, resource.Ref{Type: resource.Cluster, Name: "nobody's"})}
	b.ReportAllocs()
	for b.Loop() {
		s.Publish(view, changed)
	}
}

// BenchmarkPublishOfAll measures a publish that concerns all of 2,000 proxies, to the last acknowledgement.
func BenchmarkPublishOfAll(b *testing.B) {
	s, view, t := idleServer(b, 2000, 100)
	ref := resource.Ref{Type: resource.Cluster, Name: "c1"}
	changed := []resource.ScopedRef{testScope(&t.proxy, ref)}
	versions := [...]*resource.Resource{testResource(ref, "1"), testResource(ref, "2")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		view.resources[ref] = versions[(i+1)%2]
		s.Publish(view, changed)
		for t := range s.streams {
			settle(b, t)
		}
	}
}

// BenchmarkConnect measures what a proxy that holds 1,000 clusters costs when it connects to a fresh replica.
func BenchmarkConnect(b *testing.B) {
	s, view, _ := idleServer(b, 1, 1000)
	versions := map[string]string{}
	for ref, r := range view.resources {
		if ref.Type == resource.Cluster && ref.Name != "own" {
			versions[ref.Name] = r.Version
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		t := testStream(s, view, "new")
		if err := s.add(t); err != nil {
			b.Fatal(err)
		}
		request(b, t, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.Cluster.URL(), InitialResourceVersions: versions})
		s.remove(t)
	}
}

package xds

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// counting is a client that counts what it is sent.
type counting struct {
	*client
	responses map[string]float64 // by type
	bytes     float64
	refused   float64
}

// take receives a response, and acknowledges or refuses it.
func (c *counting) take(refuse bool) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	r := c.receive()
	kind, _ := resource.TypeOf(r.TypeUrl)
	c.responses[kind.String()]++
	c.bytes += float64(proto.Size(r))
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	if refuse {
		c.refused++
		answer.ErrorDetail = status.New(codes.Internal, "no").Proto()
	}
	c.send(answer)
	return r
}

// TestMetricsAreWhatAClientCounts: streams, responses by type, their bytes, rejections, asks and their answers, and changes are counted as the proxy at
// the other end counts them.
func TestMetricsAreWhatAClientCounts(t *testing.T) {
	r := start(t, nil)
	view := r.publish(newTestView(), passthrough, "cluster http|10.96.0.1:80 1 warms=endpoints:shop/a", "endpoints shop/a 1", "cluster http|10.96.0.2:80 1")
	c := &counting{client: r.connect(t, "cart-1"), responses: map[string]float64{}}
	other := r.connect(t, "other-1")
	other.request("cluster", "")
	other.want("cluster passthrough@1")

	c.request("cluster", "")
	c.take(false)
	asks := 0
	for _, name := range []string{"http|10.96.0.1:80", "http|10.96.0.2:80"} {
		c.request("cluster", "+"+name)
		c.take(false)
		asks++
	}
	c.request("endpoints", "+shop/a")
	c.take(false)
	before := r.observations(t, "tulle_xds_propagation_seconds")
	const changes = 7
	for i := range changes {
		view = r.publish(view, fmt.Sprintf("endpoints shop/a change-%d", i))
		c.take(i == changes-1)
	}
	r.until(t, "the rejection is known", func(s []ProxyState) bool {
		for _, p := range s {
			if p.Proxy.Pod == "cart-1" {
				return len(p.Rejections) == 1
			}
		}
		return false
	})

	mine := func(kind string) float64 { return testutil.ToFloat64(r.metrics.pushes.WithLabelValues(kind)) }
	hello := float64(1) // the other proxy's
	if got, want := mine("cluster"), c.responses["cluster"]+hello; got != want {
		t.Errorf("%v responses of clusters are counted, the proxies got %v", got, want)
	}
	if got, want := mine("endpoints"), c.responses["endpoints"]; got != want || want != changes+1 {
		t.Errorf("%v responses of endpoints are counted, the proxy got %v, want %d", got, want, changes+1)
	}
	if got := testutil.ToFloat64(r.metrics.nacks.WithLabelValues("endpoints")); got != c.refused || got != 1 {
		t.Errorf("%v rejections are counted, there were %v", got, c.refused)
	}
	if got := r.observations(t, "tulle_xds_resolve_seconds"); got != asks {
		t.Errorf("%d answers to asks are measured, there were %d", got, asks)
	}
	if got := r.observations(t, "tulle_xds_propagation_seconds") - before; got != changes {
		t.Errorf("%d changes are measured, the proxy got %d", got, changes)
	}
	if sum := r.histogram(t, "tulle_xds_propagation_seconds").GetSampleSum(); sum <= 0 || sum > patience.Seconds() {
		t.Errorf("they took %v s in all", sum)
	}
	if got := testutil.ToFloat64(r.metrics.streams); got != 2 {
		t.Errorf("%v streams are counted, there are 2", got)
	}
	if got := testutil.ToFloat64(r.metrics.asked); got != float64(asks) {
		t.Errorf("%v asked names are counted, there are %d", got, asks)
	}
	helloBytes := testutil.ToFloat64(r.metrics.bytes) - c.bytes
	if helloBytes <= 0 || helloBytes > 300 {
		t.Errorf("%v bytes are counted, %v of them are not the proxy's %v", testutil.ToFloat64(r.metrics.bytes), helloBytes, c.bytes)
	}
	if err := c.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	r.until(t, "one stream is left", func(s []ProxyState) bool { return len(s) == 1 })
	for end := time.Now().Add(patience); testutil.ToFloat64(r.metrics.ended.WithLabelValues("closed")) != 1; <-r.Changed() {
		if time.Now().After(end) {
			t.Fatal("its end is not counted")
		}
	}
	if got := testutil.ToFloat64(r.metrics.asked); got != 0 {
		t.Errorf("%v asked names are counted of a proxy that is gone", got)
	}
}

// histogram returns one that has no labels.
func (r *rig) histogram(t *testing.T, name string) *dto.Histogram {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetHistogram()
		}
	}
	t.Fatalf("no metric %s", name)
	return nil
}

// TestMetricsAreDocumented: docs/monitoring.md has each of the server's metrics, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, name := range regexp.MustCompile(`(?m)^\| .(tulle_xds_[a-z_]+). \|`).FindAllSubmatch(page, -1) {
		documented[string(name[1])] = true
	}
	r := start(t, nil)
	described := make(chan *prometheus.Desc, 100)
	r.registry.Describe(described)
	close(described)
	registered := map[string]bool{}
	for d := range described {
		registered[regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	if diff := cmp.Diff(registered, documented); diff != "" {
		t.Errorf("registered (-) and documented (+) are not the same:\n%s", diff)
	}
}

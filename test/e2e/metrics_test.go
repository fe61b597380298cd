package e2e

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/monitoring"
)

// TestMetrics has a real prometheus-operator turn what Tulle makes into configuration, and a real Prometheus scrape it, in a Strict mesh.
func TestMetrics(t *testing.T) {
	t.Parallel()
	c := connect(t)
	p := c.prometheus()
	c.apply(c.sample("jason", "mesh", "bookinfo", "loadgen")...)
	deployments := []string{"productpage", "details", "reviews-v1", "reviews-v2", "reviews-v3", "ratings", "datastore", "loadgen"}
	c.rollout(deployments...)
	c.wait("condition=Ready", "mesh/bookinfo")
	c.wait("condition=Monitored", "mesh/bookinfo")

	t.Run("every proxy is a target, and up", func(t *testing.T) {
		c.scraped(p, time.Now())
		targets := c.targets(p, c.proxies())
		if len(targets) != len(deployments) {
			t.Errorf("%d targets, want one for each of the %d pods", len(targets), len(deployments))
		}
		if why := down(targets); why != "" {
			t.Errorf("not up:\n%s", why)
		}
	})
	t.Run("Prometheus counts what client and services counted", func(t *testing.T) {
		c.wantCounts(t)
	})
	t.Run("every query of the dashboards is one", func(t *testing.T) {
		c.wantQueries(t)
	})
	t.Run("what an app counts itself is scraped through its proxy", func(t *testing.T) {
		c.wantAppMetrics(t)
	})
	t.Run("monitors deleted by hand come back, and so do their targets", func(t *testing.T) {
		uid := func() string {
			out, _ := c.try(nil, "get", "podmonitors.monitoring.coreos.com", "tulle", "-o", "jsonpath={.metadata.uid}")
			return out
		}
		before := uid()
		deleted := time.Now()
		c.kubectl("delete", "podmonitors.monitoring.coreos.com", "tulle")
		c.eventually("another PodMonitor", func() bool { return uid() != "" && uid() != before })
		c.scraped(p, deleted.Add(10*time.Second))
		if why := down(c.targets(p, c.proxies())); why != "" {
			t.Errorf("not up:\n%s", why)
		}
	})
	t.Run("a Prometheus that selects nothing is reported", func(t *testing.T) {
		c.kubectl("patch", "mesh", "bookinfo", "--type=merge", "-p", `{"spec":{"observability":{"metrics":{"labels":{"prometheus":"other"}}}}}`)
		c.wait(`jsonpath={.status.conditions[?(@.type=="Monitored")].reason}=NotSelected`, "mesh/bookinfo")
		c.eventually("its targets to go", func() bool { return len(c.targets(p, c.proxies())) == 0 })
		c.kubectl("patch", "mesh", "bookinfo", "--type=json", "-p", `[{"op":"remove","path":"/spec/observability/metrics/labels"}]`)
		c.wait("condition=Monitored", "mesh/bookinfo")
		c.scraped(p, time.Now())
	})
}

// wantCounts sends a known number of requests through the sample and compares.
func (c *cluster) wantCounts(t *testing.T) {
	const rate, seconds = "100", "10s"
	p := c.prometheus()
	c.load("-stop")
	begin := c.scraped(p, time.Now().Add(flushInterval))
	before := c.servedByApp()
	r := c.load("-rate="+rate, "-for="+seconds)
	ended := time.Now()
	after := c.servedByApp()
	end := c.scraped(p, ended.Add(flushInterval))
	r.wantNoFailure(t)

	here := `{destination_namespace="` + c.namespace + `",source_namespace="` + c.namespace + `",reporter=`
	byClient := c.grown(p, begin, end, "destination_service", `envoy_tulle_requests_total`+here+`"source"}`)
	byServer := c.grown(p, begin, end, "destination_service", `envoy_tulle_requests_total`+here+`"destination"}`)
	durations := c.grown(p, begin, end, "destination_service", `envoy_tulle_request_duration_milliseconds_count`+here+`"destination"}`)
	near(t, "requests to productpage, by its client's proxy", byClient["productpage"], float64(r.Sent))
	for app, served := range after {
		if app == "datastore" { // which speaks no HTTP
			continue
		}
		want := float64(served - before[app])
		near(t, "requests to "+app+", by its clients' proxies", byClient[app], want)
		near(t, "requests to "+app+", by its own proxies", byServer[app], want)
		near(t, "durations of "+app, durations[app], want)
	}
	near(t, "connections to datastore", c.grown(p, begin, end, "destination_service",
		`envoy_tulle_tcp_connections_opened_total`+here+`"destination"}`)["datastore"], float64(after["datastore"]-before["datastore"]))

	versions := c.grown(p, begin, end, "destination_version", `envoy_tulle_requests_total{destination_namespace="`+c.namespace+`",destination_service="reviews",reporter="source"}`)
	for _, version := range []string{"v1", "v2"} {
		near(t, "requests to reviews "+version, versions[version], float64(r.saw("reviews", version)))
	}
	for label, want := range map[string][]string{"mtls": {"true"}, "response_code": {"200"}, "response_code_class": {"2xx"}, "response_flags": {"-"}} {
		got := slices.Sorted(maps.Keys(c.grown(p, begin, end, label, `envoy_tulle_requests_total`+here+`"destination"}`)))
		if !slices.Equal(got, want) {
			t.Errorf("%s of the requests: %q, want %q", label, got, want)
		}
	}
}

// servedByApp is what the sample's pods counted, of all versions together.
func (c *cluster) servedByApp() map[string]int64 {
	c.t.Helper()
	counts := map[string]int64{}
	for _, app := range []string{"productpage", "details", "reviews", "ratings", "datastore"} {
		counts[app] = c.served(app)
	}
	return counts
}

// near fails the test unless a count is within 1 % of what it should be.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	t.Logf("%s: %.0f, counted %.0f", what, got, want)
	if math.Abs(got-want) > want/100 {
		t.Errorf("%s: Prometheus has %.0f, counted were %.0f", what, got, want)
	}
}

// wantAppMetrics declares a port of an app as one for metrics, which nobody but its proxy can reach: the mesh is Strict.
func (c *cluster) wantAppMetrics(t *testing.T) {
	p := c.prometheus()
	c.apply(`
apiVersion: v1
kind: Service
metadata: {name: details-metrics}
spec:
  selector: {app: details}
  ports: [{name: metrics, port: 9080, targetPort: http}]`)
	pool := "serviceMonitor/" + c.namespace + "/tulle/0"
	c.eventually("the app's own target to be up", func() bool {
		targets := c.targets(p, pool)
		return len(targets) == 1 && targets[0].Up()
	})
	if url := c.targets(p, pool)[0].URL; !strings.HasSuffix(url, ":15020/app/9080/metrics") {
		t.Errorf("scraped at %s, want the proxy's port for statistics", url)
	}
	c.load("-stop")
	want := float64(c.served("details"))
	var got float64
	c.eventually("Prometheus to have the app's count", func() bool {
		for _, s := range c.query(p, `bookinfo_requests_total{namespace=%q,app="details"}`, c.namespace) {
			got = s.Value
		}
		return got >= want
	})
	near(t, "requests that details counted", got, want)
}

// wantQueries asks Prometheus what the dashboards, rules and metric templates ask it, about an HTTP edge and a TCP edge of the sample.
func (c *cluster) wantQueries(t *testing.T) {
	p := c.prometheus()
	overHTTP := monitoring.Queries(c.namespace, "productpage", "reviews")
	overTCP := monitoring.Queries(c.namespace, "ratings", "datastore")
	for i, q := range overHTTP {
		answered := false
		for _, expression := range []string{q.Expr, overTCP[i].Expr} {
			samples, err := p.Query(t.Context(), expression)
			if err != nil {
				t.Errorf("%s: %v", q.Of, err)
			}
			answered = answered || len(samples) > 0
		}
		if !answered && !aboutTrouble(q.Of) {
			t.Errorf("%s: no data: %s", q.Of, q.Expr)
		}
	}
}

// aboutTrouble says of a query that it has no answer in a mesh that is well, or none without gRPC or Flagger.
func aboutTrouble(of string) bool {
	return strings.HasPrefix(of, "rule Tulle") || strings.HasPrefix(of, "metric template ") || slices.ContainsFunc([]string{
		"refused", "plaintext", "not Ready", "gRPC statuses", "Alerts", "Why requests failed", "Streams that ended",
	}, func(word string) bool { return strings.Contains(of, word) })
}

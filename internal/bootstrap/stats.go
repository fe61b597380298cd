package bootstrap

import (
	"net/url"
	"strings"
	"time"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// statsEviction is well above any interval of scrapes. A series that comes back starts at zero, which Prometheus takes for a restart.
const statsEviction = time.Hour

// scrapesAtOnce bounds what whoever reaches the stats port can have an Envoy do at a time.
const scrapesAtOnce = 8

// meshStats is the prefix of the mesh's own statistics, which logs count.
const meshStats = "tulle."

// durationBuckets are the upper bounds, in milliseconds, of the mesh's own histograms (see package metrics).
func durationBuckets() []float64 {
	return []float64{1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000}
}

// collectedStats are what the names of the statistics begin with that a proxy keeps: its own health, its listeners and connection
// managers. Those of single clusters are not among them. Each is whole words up to a dot: Envoy then drops the others by the
// first words of their names. With one expression in the list it remembers the name of each that it drops, 12 kB a cluster.
func collectedStats() []string {
	return []string{
		meshStats, "server.", "control_plane.", "cluster_manager.", "listener_manager.", "cluster.xds.", "sds.workload.",
		"listener.inbound.", "listener.outbound.", "http.inbound.", "http.outbound.", "http.reroute.", "http.silent.", "tcp.",
	}
}

// scrapedStats are the statistics that a scrape gets, as expressions of their whole names; docs/metrics.md says what each of Envoy's
// own is for. How many those are depends on nothing that a proxy is sent, and none is a histogram, which would be 22 series.
func scrapedStats() []string {
	return []string{
		`tulle\..*`,
		// Its health.
		`server\.(live|state|uptime|version|concurrency|total_connections|memory_(allocated|heap_size|physical_size)|envoy_bug_failures)`,
		`server\.(main_thread|worker_[0-9]+)\.watchdog_(mega_)?miss`,
		// Its way to the control plane, and what it took from there.
		`control_plane\.connected_state`,
		`cluster\.xds\.upstream_(cx_(total|active|connect_fail)|rq_active)`,
		`cluster_manager\.(active_clusters|warming_clusters|(cds|odcds)\.update_(attempt|success|rejected))`,
		`listener_manager\.(listener_(added|modified|removed|in_place_updated)|total_(listeners|filter_chains)_(active|warming|draining)|lds\.update_(success|rejected))`,
		`http\.outbound\.rds\.vhds\.outbound\.update_(success|rejected)`,
		`sds\.workload\.(update_(success|rejected)|key_rotation_failed)`,
		// What comes to its listeners, and how it ends.
		`listener\.(inbound|outbound)\.(downstream_(cx_(total|active|overflow)|pre_cx_timeout)|no_filter_chain_match)`,
		`listener\.inbound\.ssl\.(handshake|connection_error|fail_verify_(san|error|no_cert|cert_hash)|certificate\.(workload|peers)\.expiration_unix_time_seconds)`,
		`http\.(inbound|outbound|reroute|silent)\.downstream_(cx_(total|active|protocol_error)|rq_(total|active|too_large|rx_reset|tx_reset))`,
		`tcp\.(inbound|outbound|silent|egress)\.(downstream_cx_total|on_demand_cluster_(attempt|missing|timeout))`,
	}
}

// ScrapePath is where AdminCluster has what a scrape gets.
func ScrapePath() string {
	// Of a parameter that is given twice, the first counts: what a client adds changes nothing.
	return sidecar.StatsPath + "?filter=" + url.QueryEscape("^("+strings.Join(scrapedStats(), "|")+")$") + "&"
}

func stats(o Options) *metricsv3.StatsConfig {
	list := &matcherv3.ListStringMatcher{}
	for _, prefix := range append(collectedStats(), o.MoreStats...) {
		list.Patterns = append(list.Patterns, withPrefix(prefix))
	}
	return &metricsv3.StatsConfig{
		StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: list}},
		HistogramBucketSettings: []*metricsv3.HistogramBucketSettings{{
			Match:   withPrefix(meshStats),
			Buckets: durationBuckets(),
		}},
	}
}

func withPrefix(prefix string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}}
}

// Package appmetrics hands on the app's own metrics. A Prometheus without a certificate of the mesh can't get them from a Strict port, so the
// proxy's stats port, which has nothing but metrics, has them too: those that the pod or one of its Services declares, by port and path,
// and nothing else of the app.
package appmetrics

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// atOnce is how many scrapes of one port may be under way: who else can reach the stats port keeps the app no busier than that.
const atOnce = 8

// scrapeTimeout is longer than that of any Prometheus.
const scrapeTimeout = 2 * time.Minute

// ClusterPrefix is what the names of these clusters begin with; the app's port follows. They are apart from those of probes, so that no
// scrape can keep a probe from its app.
const ClusterPrefix = "scrape|"

// ClusterName names the cluster of a port of the app.
func ClusterName(port uint16) string { return ClusterPrefix + strconv.Itoa(int(port)) }

// Ports returns the ports of the app that have metrics, sorted.
func Ports(w *model.Workload) []uint16 {
	var ports []uint16
	for _, m := range w.Metrics {
		ports = append(ports, m.Port)
	}
	return slices.Compact(ports)
}

// Routes returns the routes of the stats port.
func Routes(w *model.Workload) []*routev3.Route {
	var routes []*routev3.Route
	for _, m := range w.Metrics {
		path := sidecar.AppMetricsPrefix + strconv.Itoa(int(m.Port)) + m.Path
		r := envoy.ToCluster(envoy.PathToRead(path), ClusterName(m.Port))
		r.GetRoute().PrefixRewrite = m.Path
		r.GetRoute().Timeout = durationpb.New(scrapeTimeout)
		routes = append(routes, r)
	}
	return routes
}

// Cluster returns the cluster of a port of the app, or nil when it has no metrics there. As probes do, it connects to the pod's address: what
// listens on loopback only is not for others.
func Cluster(w *model.Workload, port uint16) *clusterv3.Cluster {
	if !slices.Contains(Ports(w), port) {
		return nil
	}
	c := envoy.StaticCluster(ClusterName(port))
	if len(w.Addresses) > 0 {
		c = envoy.StaticCluster(ClusterName(port), envoy.Endpoint(envoy.SocketAddress(netip.AddrPortFrom(w.Addresses[0], port))))
	}
	envoy.AtOnce(c, atOnce)
	envoy.SpeakHTTP(c)
	return c
}

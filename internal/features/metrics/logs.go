package metrics

import (
	"slices"
	"strconv"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Limits of one proxy's statistics. A proxy at the edge of what a mesh of 1,000 services looks like has a tenth of them.
const (
	maxCounters   = 20000
	maxHistograms = 2000
)

// Filter state of a connection: who the client is by its certificate.
const (
	peerWorkload  = "tulle.peer.workload"
	peerNamespace = "tulle.peer.namespace"
)

// Who the client is, in CEL. The mesh's signer names the workload in the subject; of a certificate that somebody else issued
// the subject may say anything or nothing, and what is no plain name is not taken.
const (
	uri       = "connection.uri_san_peer_certificate"
	subject   = "connection.subject_peer_certificate"
	identity  = `"^spiffe://[^/]+/ns/([^/]+)/sa/([^/]+)$"`
	plainName = `"^CN=([-.a-z0-9]+)$"`
	namespace = "%CEL(re.extract(" + uri + ", " + identity + `, "\\1"))%`
	workload  = "%CEL(" + subject + ".matches(" + plainName + ") ? re.extract(" + subject + ", " + plainName + `, "\\1") : re.extract(` +
		uri + ", " + identity + `, "\\2"))%`
)

// Command operators, and CEL where one of them can't say it. A rule of a label is a quarter of a kilobyte in each statistic that has
// the label, and every proxy gets all of them: so there are as few as can be.
const (
	port = "%DOWNSTREAM_LOCAL_PORT%"
	// encrypted is what is known of the connection to the destination, if there was one.
	encrypted = `%CEL(has(upstream.tls_version) ? "true" : has(upstream.local_address) ? "false" : "unknown")%`
)

// only is what is counted.
type only []*accesslogv3.AccessLogFilter

// here is, of connections, all but what leads back into the proxy, where it is counted.
func here() *accesslogv3.AccessLogFilter {
	return envoy.Where(`!(has(xds.cluster_metadata) && "` + loopNamespace + `" in xds.cluster_metadata.filter_metadata)`)
}

// alone is what had a connection to the destination without TLS. Where it was TLS, there is a proxy at its other end, which counts.
func alone() *accesslogv3.AccessLogFilter {
	return envoy.Where("has(upstream.local_address) && !has(upstream.tls_version)")
}

// chain counts what a pod is sent.
func chain(c *features.Chain) {
	source := sourceUnknown()
	if c.MutualTLS {
		source = sourceOfPeer()
		c.Filters = append(c.Filters, envoy.PeerState(map[string]string{peerWorkload: workload, peerNamespace: namespace}))
	}
	edge := slices.Concat(reporter("destination"), source, receiver(c.Workload))
	secure := []envoy.Label{{Name: "mtls", Format: strconv.FormatBool(c.MutualTLS)}}
	if c.HTTP != nil {
		all := slices.Concat(edge, response(), secure)
		c.HTTP.AccessLog = append(c.HTTP.AccessLog,
			envoy.CountHTTP(statistics(c.Minor, nil, requests(all))),
			envoy.CountHTTP(detail(c.Minor, nil, slices.Concat(edge, class(), secure))))
		return
	}
	countOpened(c.TCP, c.Minor, nil, slices.Concat(edge, flags(), secure))
}

// inbound counts the connections that have ended of all chains that pass bytes.
func inbound(l *features.Inbound) {
	describe(l.Listener)
	orUnknown := func(format string) string {
		return envoy.FirstOf(envoy.Operator{Command: "FILTER_STATE", Parameter: format + ":PLAIN"}, nobody())
	}
	countClosed(l.Listener, l.Minor, only{envoy.Where(features.OnTCPChains)}, slices.Concat(
		reporter("destination"), source(orUnknown(peerWorkload), orUnknown(peerNamespace)), receiver(l.Workload), flags(),
		[]envoy.Label{{Name: "mtls", Format: "%CEL(" + features.OnPlaintextChains + ` ? "false" : "true")%`}}))
}

// outbound counts what a pod sends.
func outbound(o *features.Outbound) {
	from := slices.Concat(reporter("source"), sourceIs(o.Workload))
	if o.HTTP == nil {
		countOpened(o.TCP, o.Minor, only{here()}, slices.Concat(from, called(clusterOnly), flags(), secured()))
		return
	}
	if features.ForgetsAskedCluster(o.Minor) {
		o.HTTP.HttpFilters = slices.Insert(o.HTTP.HttpFilters, len(o.HTTP.HttpFilters)-1, envoy.ChooseAgain())
	}
	var counted only
	if o.Loops {
		counted = only{envoy.WithoutHeader(features.HopHeader)}
	}
	all := slices.Concat(from, called(clusterOrRoute), response(), secured())
	o.HTTP.AccessLog = append(o.HTTP.AccessLog,
		envoy.CountHTTP(statistics(o.Minor, counted, requests(all))),
		envoy.CountHTTP(detail(o.Minor, append(counted, alone()), slices.Concat(from, reached(), class(), []envoy.Label{{Name: "mtls", Format: "false"}}))))
}

// outboundListener counts the connections that have ended of all ways that pass bytes.
func outboundListener(l *features.OutboundListener) {
	describe(l.Listener)
	if slices.ContainsFunc(l.FilterChains, func(c *listenerv3.FilterChain) bool { return !strings.Contains(c.GetName(), "http") }) {
		countClosed(l.Listener, l.Minor, only{envoy.Where(features.OnTCPChains), here()},
			slices.Concat(reporter("source"), sourceIs(l.Workload), called(clusterOnly), flags(), secured()))
	}
}

func secured() []envoy.Label { return []envoy.Label{{Name: "mtls", Format: encrypted}} }

func countOpened(p *tcpv3.TcpProxy, minor uint32, counted only, labels []envoy.Label) {
	envoy.LogConnected(p)
	p.AccessLog = append(p.AccessLog, envoy.CountTCPOpened(statistics(minor, counted, opened(labels))))
}

func countClosed(l *listenerv3.Listener, minor uint32, counted only, labels []envoy.Label) {
	l.AccessLog = append(l.AccessLog, envoy.CountConnections(statistics(minor, counted, closed(labels))))
}

func statistics(minor uint32, counted only, counters []envoy.Counter) envoy.Statistics {
	s := envoy.Statistics{Prefix: Prefix, Only: counted, Counters: counters}
	if features.SharedStatistics(minor) {
		s.Limits = envoy.StatLimits{Counters: maxCounters, Histograms: maxHistograms}
	}
	return s
}

func requests(labels []envoy.Label) []envoy.Counter {
	return []envoy.Counter{{Name: "requests_total", Labels: labels}}
}

// detail is how long requests took, and their bytes.
func detail(minor uint32, counted only, labels []envoy.Label) envoy.Statistics {
	s := statistics(minor, counted, []envoy.Counter{
		{Name: "request_bytes_total", Labels: labels, Add: "%BYTES_RECEIVED%"},
		{Name: "response_bytes_total", Labels: labels, Add: "%BYTES_SENT%"},
	})
	s.Histograms = []envoy.Histogram{{Name: "request_duration_milliseconds", Labels: labels, Record: "%DURATION%"}}
	return s
}

func opened(labels []envoy.Label) []envoy.Counter {
	return []envoy.Counter{{Name: "tcp_connections_opened_total", Labels: labels}}
}

func closed(labels []envoy.Label) []envoy.Counter {
	return []envoy.Counter{
		{Name: "tcp_connections_closed_total", Labels: labels},
		{Name: "tcp_received_bytes_total", Labels: labels, Add: "%BYTES_RECEIVED%"},
		{Name: "tcp_sent_bytes_total", Labels: labels, Add: "%BYTES_SENT%"},
	}
}

func reporter(side string) []envoy.Label { return []envoy.Label{{Name: "reporter", Format: side}} }

func sourceIs(w *model.Workload) []envoy.Label {
	return source(resource.WorkloadName(w.Owner, w.ServiceAccount), w.Key.Namespace)
}

func sourceUnknown() []envoy.Label { return source(unknown, unknown) }

func sourceOfPeer() []envoy.Label {
	return source("%FILTER_STATE("+peerWorkload+":PLAIN)%", "%FILTER_STATE("+peerNamespace+":PLAIN)%")
}

func source(workload, namespace string) []envoy.Label {
	return []envoy.Label{
		{Name: "source_workload", Format: workload},
		{Name: "source_namespace", Format: namespace},
	}
}

// receiver names the pod itself. What may change while it lives comes from the cluster by which it gets what it is sent, unless
// its ports are of different Services.
func receiver(w *model.Workload) []envoy.Label {
	if !slices.ContainsFunc(w.Ports, func(p model.WorkloadPort) bool { return p.Member != w.Member }) {
		labels := destination(func(key string) string { return envoy.FirstOf(ofCluster(key), nobody()) })
		labels[len(labels)-1].Format = w.Key.Namespace
		return labels
	}
	var service, version []envoy.LabelRule
	for _, p := range w.Ports {
		if p.Member != w.Member {
			number := strconv.Itoa(int(p.Number))
			service = append(service, envoy.Replace(number, known(p.Member.Service)))
			version = append(version, envoy.Replace(number, known(p.Member.Version)))
		}
	}
	return []envoy.Label{
		{Name: "destination_service", Format: port, Rules: append(service, envoy.ReplaceAll(known(w.Member.Service)))},
		{Name: "destination_version", Format: port, Rules: append(version, envoy.ReplaceAll(known(w.Member.Version)))},
		{Name: "destination_namespace", Format: w.Key.Namespace},
	}
}

// clusterOnly and clusterOrRoute say where called finds a name: an answer that a route gives by itself has no cluster.
const (
	clusterOnly    = false
	clusterOrRoute = true
)

// called names what the cluster of a request or connection stands for, if it got one. A cluster that has pods of several versions does
// not say which was called.
func called(routes bool) []envoy.Label {
	return destination(func(key string) string {
		operators := []envoy.Operator{ofCluster(key)}
		if routes && key != versionKey {
			operators = append(operators, metadata("ROUTE", key))
		}
		if key == versionKey {
			operators = append(operators, metadata("UPSTREAM_HOST", key))
		}
		return envoy.FirstOf(append(operators, nobody())...)
	})
}

// reached names the cluster where there surely is one. All clusters have a service and a namespace (see name).
func reached() []envoy.Label {
	labels := called(clusterOnly)
	for i, key := range []string{serviceKey, versionKey, namespaceKey} {
		if key != versionKey {
			labels[i].Format = "%METADATA(CLUSTER:" + metadataNamespace + ":" + key + ")%"
		}
	}
	return labels
}

func destination(format func(key string) string) []envoy.Label {
	return []envoy.Label{
		{Name: "destination_service", Format: format(serviceKey)},
		{Name: "destination_version", Format: format(versionKey)},
		{Name: "destination_namespace", Format: format(namespaceKey)},
	}
}

func ofCluster(key string) envoy.Operator { return metadata("CLUSTER", key) }

// nobody is what listeners carry for labels that have no other value.
func nobody() envoy.Operator { return metadata("LISTENER", unknown) }

func metadata(of, key string) envoy.Operator {
	return envoy.Operator{Command: "METADATA", Parameter: of + ":" + metadataNamespace + ":" + key}
}

func known(value string) string {
	if value == "" {
		return unknown
	}
	return value
}

// response is how a request ended. What a server may say is bounded: it can't have more codes than there are.
func response() []envoy.Label {
	return slices.Concat([]envoy.Label{
		{Name: "response_code", Format: "%RESPONSE_CODE%"},
		{Name: "grpc_status", Format: "%GRPC_STATUS_NUMBER%", Rules: []envoy.LabelRule{
			// Empty for what is not gRPC. 16 is the last one that gRPC defines.
			envoy.ReplaceLike("[0-9]{3,}|1[7-9]|[2-9][0-9]|-.*", "other"),
		}},
	}, class(), flags())
}

// class is the status's first digit: as CEL or as a rule it would be half of what counting costs. It is 0 where there was no response.
func class() []envoy.Label {
	digit := envoy.FirstOf(envoy.Operator{Command: "RESP", Parameter: ":STATUS", MaxLength: 1}, metadata("LISTENER", noStatus))
	return []envoy.Label{{Name: "response_code_class", Format: digit + "xx"}}
}

func flags() []envoy.Label {
	return []envoy.Label{{Name: "response_flags", Format: "%RESPONSE_FLAGS%"}}
}

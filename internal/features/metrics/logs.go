package metrics

import (
	"slices"
	"strconv"

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

// Command operators.
const (
	clusterService   = "%CLUSTER_METADATA(" + metadataNamespace + ":" + serviceKey + ")%"
	clusterNamespace = "%CLUSTER_METADATA(" + metadataNamespace + ":" + namespaceKey + ")%"
	clusterVersion   = "%CLUSTER_METADATA(" + metadataNamespace + ":" + versionKey + ")%"
	// Only one of the two has a value: routes that have a cluster are not described.
	calledService   = clusterService + "%METADATA(ROUTE:" + metadataNamespace + ":" + serviceKey + ")%"
	calledNamespace = clusterNamespace + "%METADATA(ROUTE:" + metadataNamespace + ":" + namespaceKey + ")%"
	// Clusters of a version say it themselves, and then their endpoints don't.
	calledVersion = clusterVersion + "%UPSTREAM_METADATA(" + metadataNamespace + ":" + versionKey + ")%"
	port          = "%DOWNSTREAM_LOCAL_PORT%"
	// connected is not empty when there was a connection to the destination, and encrypted when that was TLS.
	connected = "%UPSTREAM_LOCAL_ADDRESS%"
	encrypted = "%UPSTREAM_TLS_VERSION%"
)

// chain counts what a pod is sent.
func chain(c *features.Chain) {
	source := sourceUnknown()
	if c.MutualTLS {
		source = sourceOfPeer()
		c.Filters = append(c.Filters, envoy.PeerState(map[string]string{peerWorkload: workload, peerNamespace: namespace}))
	}
	edge := slices.Concat(reporter("destination"), source, receiver(c))
	secure := []envoy.Label{{Name: "mtls", Format: strconv.FormatBool(c.MutualTLS)}}
	if c.HTTP != nil {
		all := slices.Concat(edge, response(), secure)
		c.HTTP.AccessLog = append(c.HTTP.AccessLog,
			envoy.CountHTTP(statistics(c.Minor, requests(all))),
			envoy.CountHTTP(detail(c.Minor, slices.Concat(edge, class(), secure))))
		return
	}
	envoy.LogConnected(c.TCP)
	all := slices.Concat(edge, flags(), secure)
	c.TCP.AccessLog = append(c.TCP.AccessLog,
		envoy.CountTCPConnected(statistics(c.Minor, opened(all))),
		envoy.CountTCPEnd(statistics(c.Minor, append(closed(all), opened(append(ifNever(connected), all...))...))))
}

// outbound counts what a pod sends.
func outbound(o *features.Outbound) {
	edge := slices.Concat(reporter("source"), sourceIs(o.Workload), called())
	secure := []envoy.Label{{Name: "mtls", Format: connected + encrypted, Rules: []envoy.LabelRule{
		envoy.Replace("", unknown), envoy.ReplaceLike(".*TLS.*", "true"), envoy.ReplaceAll("false"),
	}}}
	if o.HTTP != nil {
		if features.ForgetsAskedCluster(o.Minor) {
			o.HTTP.HttpFilters = slices.Insert(o.HTTP.HttpFilters, len(o.HTTP.HttpFilters)-1, envoy.ChooseAgain())
		}
		all := slices.Concat(edge, response(), secure)
		// Where the connection was TLS, there is a proxy at its other end, which counts.
		alone := slices.Concat(ifEver(connected), ifNever(encrypted), edge, class(), []envoy.Label{{Name: "mtls", Format: "false"}})
		o.HTTP.AccessLog = append(o.HTTP.AccessLog,
			envoy.CountHTTP(statistics(o.Minor, requests(all))),
			envoy.CountHTTP(detail(o.Minor, alone)))
		return
	}
	envoy.LogConnected(o.TCP)
	all := slices.Concat(edge, flags(), secure)
	o.TCP.AccessLog = append(o.TCP.AccessLog,
		envoy.CountTCPConnected(statistics(o.Minor, opened(all))),
		envoy.CountTCPEnd(statistics(o.Minor, append(closed(all), opened(append(ifNever(connected), all...))...))))
}

func statistics(minor uint32, counters []envoy.Counter) envoy.Statistics {
	s := envoy.Statistics{Prefix: Prefix, Counters: counters}
	if features.SharedStatistics(minor) {
		s.Limits = envoy.StatLimits{Counters: maxCounters, Histograms: maxHistograms}
	}
	return s
}

func requests(labels []envoy.Label) []envoy.Counter {
	return []envoy.Counter{{Name: "requests_total", Labels: labels}}
}

// detail is how long requests took, and their bytes.
func detail(minor uint32, labels []envoy.Label) envoy.Statistics {
	s := statistics(minor, []envoy.Counter{
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
func receiver(c *features.Chain) []envoy.Label {
	w := c.Workload
	if !slices.ContainsFunc(w.Ports, func(p model.WorkloadPort) bool { return p.Member != w.Member }) {
		return destination(clusterService, clusterNamespace, clusterVersion, orUnknown())
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

// called names what the cluster of a request or connection stands for. One that leads back into the proxy is counted there.
func called() []envoy.Label {
	labels := destination(calledService, calledNamespace, calledVersion, orUnknown())
	labels[0].Rules = append(labels[0].Rules, envoy.DropStat(loopService))
	return labels
}

func destination(service, namespace, version string, rules []envoy.LabelRule) []envoy.Label {
	return []envoy.Label{
		{Name: "destination_service", Format: service, Rules: rules},
		{Name: "destination_version", Format: version, Rules: rules},
		{Name: "destination_namespace", Format: namespace, Rules: rules},
	}
}

func orUnknown() []envoy.LabelRule { return []envoy.LabelRule{envoy.Replace("", unknown)} }

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

func class() []envoy.Label {
	return []envoy.Label{{Name: "response_code_class", Format: "%RESP(:STATUS):1%xx", Rules: []envoy.LabelRule{envoy.Replace("xx", unknown)}}}
}

func flags() []envoy.Label {
	return []envoy.Label{{Name: "response_flags", Format: "%RESPONSE_FLAGS%"}}
}

// ifEver is no label: it has a statistic count only what has a value, and ifNever only what has none.
func ifEver(value string) []envoy.Label {
	return []envoy.Label{{Name: "counted", Format: value, Rules: []envoy.LabelRule{envoy.DropStat(""), envoy.DropLabelOtherwise()}}}
}

func ifNever(value string) []envoy.Label {
	return []envoy.Label{{Name: "counted", Format: value, Rules: []envoy.LabelRule{envoy.DropLabel(""), envoy.DropStatOtherwise()}}}
}

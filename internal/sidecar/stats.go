package sidecar

// What StatsPort serves, and how it is named in the pod.
const (
	// StatsPortName is the name of StatsPort among the container's ports, by which monitors find it.
	StatsPortName = "tulle-stats"
	// StatsPath has the proxy's own metrics.
	StatsPath = "/stats/prometheus"
	// AppMetricsPrefix is followed by a port of the app and the path of its metrics there, as in /app/9090/metrics.
	AppMetricsPrefix = "/app/"
)

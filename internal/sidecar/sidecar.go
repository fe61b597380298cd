// Package sidecar is the contract between injection, which writes a pod, and the control plane, which later reads it:
// names, ports, annotations and what they hold.
package sidecar

// Containers and volumes that injection adds, in the order in which the containers start.
const (
	InitContainer  = "tulle-init"
	ProxyContainer = "tulle-proxy"
)

// UID and GID are what the proxy runs as. Its own traffic is exempt from redirection.
const (
	UID = 1337
	GID = 1337
)

// Ports of a sidecar.
const (
	// OutboundPort takes the connections that the app opens.
	OutboundPort = 15001
	// InboundPort takes the connections that others open to the app.
	InboundPort = 15006
	// StatsPort serves StatsPath, /ready, and what the app declares as its own metrics; nothing else.
	StatsPort = 15020
	// ProbePort serves the app's rewritten probes.
	ProbePort = 15021
)

// RedirectVersion counts the changes of the rules that the init container makes (package redirect). Pods with rules of
// another version than the operator's must be restarted.
const RedirectVersion = 2

// Places in the proxy's container, and what is mounted there.
const (
	// CredentialsDir is one projected volume: the pod's token, and from BootstrapConfigMap the CA bundle of the control
	// plane and the SDS documents of both (see package bootstrap).
	CredentialsDir = "/var/run/secrets/tulle"
	// AdminSocket is Envoy's admin interface, in a volume that only the proxy mounts.
	AdminSocket = "/run/tulle/admin.sock"
	// BootstrapConfigMap is kept by the operator in every enrolled namespace.
	BootstrapConfigMap = "tulle-bootstrap"
	// TokenAudience is the audience of the token that a proxy presents to the control plane.
	TokenAudience = "tulle"
)

// InboundSource4 and InboundSource6 are the source addresses of what the proxy forwards to its own app. Redirection
// exempts them, so that a pod that calls its own Service goes through its inbound listener once and not in a circle.
const (
	InboundSource4 = "127.0.0.6"
	InboundSource6 = "::6"
)

// Labels and annotations of pods.
const (
	// InjectLabel set to "false" leaves a pod out.
	InjectLabel = "mesh.tulle.dev/inject"
	// VersionAnnotation holds the hash of what was injected; another one than the current means that the pod must be restarted.
	VersionAnnotation = "mesh.tulle.dev/sidecar"
	// SkipDetectionAnnotation holds the ports (comma-separated, sorted) on which this proxy does not detect the protocol.
	SkipDetectionAnnotation = "mesh.tulle.dev/skip-detection"
	// ProbesAnnotation holds the rewritten probes, a JSON array of Probe.
	ProbesAnnotation = "mesh.tulle.dev/probes"
	// MetricsAnnotation says where the app has its metrics, as ports and paths (9090/metrics,9091/stats), or NoMetrics. Where a pod
	// has the usual annotations for Prometheus, injection makes it of those.
	MetricsAnnotation = "mesh.tulle.dev/metrics"
	// NoMetrics in MetricsAnnotation keeps the proxy from handing on any metrics of the app.
	NoMetrics = "none"
)

// Probe is one rewritten HTTP probe.
type Probe struct {
	// Path on ProbePort, such as /app/readiness.
	Path string `json:"path"`
	// Port, TargetPath, Host and Scheme of the app's own probe, with a named port resolved.
	Port       int32  `json:"port"`
	TargetPath string `json:"targetPath"`
	Host       string `json:"host,omitempty"`
	Scheme     string `json:"scheme,omitempty"`
	// TimeoutSeconds of the probe.
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
}

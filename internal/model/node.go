package model

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// KeyKind is the kind of a node of a snapshot.
type KeyKind uint8

// The kinds of nodes.
const (
	KindMeshWide  KeyKind = iota // the Network and Trust of the whole mesh
	KindNamespace                // a Namespace; Name is empty
	KindService                  // a Service
	KindEndpoints                // the Endpoints of a Service
	KindWorkload                 // a Workload (pod)
	KindAddress                  // who owns an IP address; Name is the address
	KindSpan                     // a small range in which known addresses are; Name is the range
	KindSplit                    // the Split that rules a Service
)

// Key identifies a node of a snapshot. Cluster is empty for the cluster that the control plane runs in.
type Key struct {
	Kind                     KeyKind
	Cluster, Namespace, Name string
}

// ServiceKey identifies a Service.
type ServiceKey struct{ Cluster, Namespace, Name string }

// WorkloadKey identifies a pod.
type WorkloadKey struct{ Cluster, Namespace, Name string }

// Protocol is what is spoken on a port.
type Protocol uint8

// The protocols. Unknown means: each proxy detects it for each connection.
const (
	Unknown Protocol = iota
	HTTP
	TCP
)

// Service is a Service and the rules for it.
type Service struct {
	Key ServiceKey
	// Addresses are its cluster IPs, the primary family first; none for a headless Service.
	Addresses []netip.Addr
	Ports     []Port
	// Meshed is true when a Mesh enrols its namespace.
	Meshed bool
	// Identities are the SPIFFE IDs (sorted) of the service accounts that the Service's pods really have.
	// It comes from the Service's own namespace only.
	Identities []string
	// Versions and Routes come from the Mesh that claims the Service; valid ones only.
	Versions []Version
	Routes   []Route
	// Mesh is the claiming object, for provenance; zero when none claims it.
	Mesh resource.Origin
}

// HasRoutes reports whether requests to the Service follow HTTP rules, so that it needs a virtual host.
func (s *Service) HasRoutes() bool { return len(s.Routes) > 0 }

// Port is a port of a Service.
type Port struct {
	Name     string
	Number   uint16
	Protocol Protocol
	// Mode is the mTLS mode of the pods' ports behind it: the most lenient one, where they differ or are not known.
	// Only a Strict port's clients have no way to call an endpoint in plaintext.
	Mode v1alpha1.MTLSMode
}

// Version is a subset of a Service's pods.
type Version struct {
	Name   string
	Labels map[string]string
}

// Route is an HTTP rule. The first that matches wins.
type Route struct {
	Name    string
	Match   []HTTPMatch // any of these; none means every request
	To      []Target
	Invalid string // not empty: why the rule can't be followed; it answers 500 and its neighbours work
	Origin  resource.Origin
}

// HTTPMatch matches requests that have all of these.
type HTTPMatch struct {
	Headers []HeaderMatch
	// Path is an expression (RE2) that the whole path, without a query, fits; empty is any.
	Path string
	// Methods are those of which it is one, sorted; none means any.
	Methods []string
}

// HeaderMatch matches one header; Name is lower case.
type HeaderMatch struct {
	Name, Value string
	Regex       bool
}

// Target is a version (empty: all pods) with its weight.
type Target struct {
	Version string
	Weight  uint32
}

// Endpoints are the endpoints of a Service, of its primary address family, in a stable order.
type Endpoints struct {
	Service ServiceKey
	// Ports maps a Service port's number to its endpoints.
	Ports map[uint16][]Endpoint
}

// Endpoint is one address behind a Service.
type Endpoint struct {
	Address netip.AddrPort
	// Versions are the names of the Service's versions that the pod belongs to.
	Versions []string
	// Version is what the pod counts as: the first of Versions, else what its own labels say (see Membership).
	Version string
	// Proxied is true when a sidecar of ours accepts mTLS there.
	Proxied bool
	// Plaintext is true when it may be called in plaintext: it has no sidecar and its port is not Strict, or its mode is Disabled.
	// An endpoint that is neither Proxied nor Plaintext must not be called at all.
	Plaintext bool
	// Draining is true for a pod that is terminating and still serves; it is used only when nothing else is left.
	Draining bool
	Zone     string
}

// Workload is a pod.
type Workload struct {
	Key            WorkloadKey
	UID            string
	Addresses      []netip.Addr
	ServiceAccount string
	// Owner is what pods of one workload share: controller kind and name (with a ReplicaSet resolved to its Deployment).
	Owner  string
	Labels map[string]string
	Zone   string
	// Selected is true when a Mesh wants it to have a sidecar.
	Selected bool
	// Meshed is true when it has a sidecar of ours, also after its Mesh is gone.
	Meshed bool
	// Sidecar is the version of what was injected (sidecar.VersionAnnotation).
	Sidecar string
	// SkipDetection are the ports, sorted, on which its proxy does not detect the protocol; fixed when the pod was created.
	SkipDetection []uint16
	// Member is what the pod counts as on ports that Ports does not name.
	Member Membership
	// Ports says what the workload's ports speak and accept, sorted by number: container port → settings.
	Ports []WorkloadPort
	// Mode is the mTLS mode of the ports that Ports does not name.
	Mode v1alpha1.MTLSMode
	// Probes are the HTTP probes that the kubelet sends to the proxy's probe port and that it forwards to the app.
	Probes []Probe
	// Metrics are where the app has metrics for Prometheus, sorted: the proxy's stats port hands them on.
	Metrics []AppMetrics
}

// AppMetrics is where an app has metrics for Prometheus: a port of the pod, and a path there that begins with a slash.
type AppMetrics struct {
	Port uint16
	Path string
}

// WorkloadPort is a port of a pod.
type WorkloadPort struct {
	Number   uint16
	Protocol Protocol
	Mode     v1alpha1.MTLSMode
	Member   Membership
}

// Membership is what traffic to a pod counts as traffic to.
type Membership struct {
	// Service is the name of the one that a pod is of; where several select it, the one that a Mesh claims, else the oldest.
	// It is empty for none.
	Service string
	// Version is the name of the Service's version; where no Mesh names one, the pod's label version, or app.kubernetes.io/version,
	// or empty.
	Version string
}

// Probe is an HTTP probe of a container, by the path it has on the proxy's probe port.
type Probe struct {
	// Path on the proxy's probe port, such as /app/readiness.
	Path string
	// Target of the probe in the pod.
	Port       uint16
	TargetPath string
	Host       string
	TLS        bool
	// Timeout is 0 where there is none.
	Timeout time.Duration
}

// Namespace is the effective setting of a namespace: Mesh, then root, then built-in.
type Namespace struct {
	Name   string
	Meshed bool
	Mode   v1alpha1.MTLSMode
	// Ports are the ports of pods, sorted, that have a mode of their own.
	Ports []PortMode
	Proxy ProxySettings
	// TCPPorts are the ports, sorted, that Services of the namespace declare as TCP and none of them as HTTP: new proxies of
	// the namespace don't detect the protocol on them. No namespace adds to those of another.
	TCPPorts []uint16
	// AccessLog says what the proxies log of what they serve.
	AccessLog v1alpha1.AccessLogMode
	// Monitors says which objects of the Prometheus Operator are made for the namespace.
	Monitors MonitorSettings
	// InvalidSelector says, when it is not empty, why the pod selector can't be used. It then selects no pod; whoever
	// admits pods must refuse them, since nobody can tell whether they want a sidecar.
	InvalidSelector string
}

// PortMode is the mTLS mode of a port.
type PortMode struct {
	Number uint16
	Mode   v1alpha1.MTLSMode
}

// ProxySettings are the effective settings of a namespace's sidecars.
type ProxySettings struct {
	Concurrency   int32
	LogLevel      string // Envoy's own lower-case name
	DrainDuration time.Duration
	// Resources of the proxy's container; nil when nobody set them.
	Resources *corev1.ResourceRequirements
	// PodSelector selects the pods that are to have a sidecar, besides what Namespace.Selects says; nil where none are.
	PodSelector labels.Selector
}

// MeshWide is what holds for the whole mesh.
type MeshWide struct {
	TrustDomain string
	// TrustBundle is the PEM of all trusted roots.
	TrustBundle []byte
	// CertificateDuration is the lifetime of a workload's certificate.
	CertificateDuration time.Duration
	// ServiceRanges and PodRanges are where Service and pod addresses come from: found, and named by the root Mesh.
	ServiceRanges, PodRanges []netip.Prefix
	// PodRangesNamed is true when the root Mesh names pod ranges: then nobody has to guess where pods may be.
	PodRangesNamed bool
	// ServerFirstPorts are the ports, sorted, on which no new proxy detects the protocol: the well-known ones and those of
	// the root Mesh. What namespaces add for their own pods is in Namespace.
	ServerFirstPorts []uint16
	EnvoyImage       string
	// Issuer signs the intermediate CA; nil means Tulle's own root.
	Issuer *v1alpha1.IssuerRef
}

// Destination is what an address and port stand for.
type Destination struct {
	Kind DestinationKind
	// Service and Port for ServicePort; Service alone for a port that it does not have.
	Service *Service
	Port    *Port
	// Split rules the Service of ServicePort; nil when none does.
	Split *Split
	// Workload for PodAddress.
	Workload *Workload
}

// DestinationKind says what an address stands for.
type DestinationKind uint8

// The kinds of destinations.
const (
	// Outside is an address that is neither a known one nor within the service or pod ranges, or a node's.
	Outside DestinationKind = iota
	// ServicePort is a cluster IP of a Service, with a port that the Service has.
	ServicePort
	// PodAddress is an address of a pod.
	PodAddress
	// UnknownService is within the service ranges, the cluster IP of a Service that is gone, or a port that its Service does
	// not have: nobody is there.
	UnknownService
	// UnknownPod is within the pod ranges, or near known addresses, but nobody is known there: it may be a pod or a Service
	// that is younger than what is known.
	UnknownPod
)

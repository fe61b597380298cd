package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RootName is the name of the root Mesh, which lives in the operator's namespace.
const RootName = "mesh"

// Mesh puts its namespace in the mesh.
//
// The Mesh named "mesh" in the operator's own namespace is the root: it enrols nothing,
// holds spec.meshWide, and its other fields are the defaults of all other Meshes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={tulle}
// +kubebuilder:printcolumn:name=Ready,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name=Proxies,type=string,JSONPath=`.status.proxies.summary`
// +kubebuilder:printcolumn:name=mTLS,type=string,JSONPath=`.status.mtls`
// +kubebuilder:printcolumn:name=Services,type=integer,JSONPath=`.status.services`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name=Status,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type Mesh struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// What the mesh of this namespace should be. Empty is complete.
	// +optional
	Spec MeshSpec `json:"spec,omitempty"`
	// What Tulle saw of it, written by Tulle.
	// +optional
	Status MeshStatus `json:"status,omitempty"`
}

// MeshList is a list of Meshes.
//
// +kubebuilder:object:root=true
type MeshList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Mesh `json:"items"`
}

// MeshSpec says what the mesh of a namespace should be.
type MeshSpec struct {
	// Settings of the sidecar proxies.
	// +optional
	Proxy *ProxySpec `json:"proxy,omitempty"`
	// Encryption and identity between workloads.
	// +optional
	MTLS *MTLSSpec `json:"mtls,omitempty"`
	// Rules for Services of this namespace.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=512
	Services []ServiceSpec `json:"services,omitempty"`
	// What the proxies report.
	// +optional
	Observability *ObservabilitySpec `json:"observability,omitempty"`
	// Settings of the whole mesh. Only the root Mesh may have them.
	// +optional
	MeshWide *MeshWideSpec `json:"meshWide,omitempty"`
}

// ProxySpec has the settings of the sidecar proxies of a namespace.
type ProxySpec struct {
	// The pods that get a sidecar. Default: every pod of the namespace.
	// A pod opts out with the label mesh.tulle.dev/inject: "false".
	// +optional
	PodSelector *metav1.LabelSelector `json:"podSelector,omitempty"`
	// Resource requests and limits of the proxy container.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims)",message="claims are not supported: the proxy uses no devices"
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// Number of worker threads of the proxy. Default: 2.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	Concurrency *int32 `json:"concurrency,omitempty"`
	// Log level of the proxy. Default: Warning.
	// +optional
	LogLevel LogLevel `json:"logLevel,omitempty"`
	// How long connections go on whose listener or filter chain was replaced, as when mTLS becomes Strict. Default: 5s.
	// +optional
	DrainDuration *Duration `json:"drainDuration,omitempty"`
}

// LogLevel is a log level of Envoy.
//
// +kubebuilder:validation:Enum=Trace;Debug;Info;Warning;Error;Critical
type LogLevel string

// Duration is a Gateway API (GEP-2257) duration: up to four of hours, minutes, seconds and milliseconds, such as 1h30m.
//
// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
// +kubebuilder:validation:MaxLength=32
type Duration string

// MTLSSpec says which connections a workload accepts and how its clients call it.
type MTLSSpec struct {
	// Strict: only mTLS. Permissive: mTLS between proxies, plaintext accepted from others. Disabled: plaintext only.
	// Default: Permissive.
	// +optional
	Mode MTLSMode `json:"mode,omitempty"`
	// Ports of the pods (the container's ports, not the Service's) with a mode of their own.
	// +optional
	// +listType=map
	// +listMapKey=port
	// +kubebuilder:validation:MaxItems=64
	Ports []PortMTLS `json:"ports,omitempty"`
}

// MTLSMode says which connections are accepted.
//
// +kubebuilder:validation:Enum=Strict;Permissive;Disabled
type MTLSMode string

// The mTLS modes.
const (
	MTLSStrict     MTLSMode = "Strict"
	MTLSPermissive MTLSMode = "Permissive"
	MTLSDisabled   MTLSMode = "Disabled"
)

// PortMTLS is the mode of one port of a pod.
type PortMTLS struct {
	// Port of the pod.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// Mode of this port.
	Mode MTLSMode `json:"mode"`
}

// ServiceSpec has the rules of one Service.
type ServiceSpec struct {
	// Name of a Service of this namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Protocols of the Service's ports, where appProtocol and the port's name don't say them.
	// +optional
	// +listType=map
	// +listMapKey=port
	// +kubebuilder:validation:MaxItems=64
	Ports []ServicePort `json:"ports,omitempty"`
	// Subsets of the Service's pods that routes can send to.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Versions []VersionSpec `json:"versions,omitempty"`
	// HTTP rules; the first that matches wins. Requests that no rule matches go to all pods of the Service.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Routes []RouteSpec `json:"routes,omitempty"`
}

// ServicePort says the protocol of a port.
type ServicePort struct {
	// Port of the Service.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// Protocol that is spoken there.
	Protocol Protocol `json:"protocol"`
}

// Protocol is an application protocol. HTTP stands for HTTP/1.1 and HTTP/2.
//
// +kubebuilder:validation:Enum=HTTP;GRPC;TCP
type Protocol string

// The protocols.
const (
	ProtocolHTTP Protocol = "HTTP"
	ProtocolGRPC Protocol = "GRPC"
	ProtocolTCP  Protocol = "TCP"
)

// VersionSpec is a subset of a Service's pods.
type VersionSpec struct {
	// Name that routes use.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Labels that pods of this version have, besides those that the Service selects.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && size(self[k]) <= 63)",message="a label's key has at most 317 characters and its value at most 63"
	Labels map[string]string `json:"labels"`
}

// RouteSpec sends the requests that it matches to versions of the Service.
type RouteSpec struct {
	// Name of the rule, unique within the service.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// A request is matched when it fits any of these. None: every request.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Match []HTTPMatch `json:"match,omitempty"`
	// Where matched requests go, by weight.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.exists(t, !has(t.weight) || t.weight > 0)",message="at least one weight must be above 0"
	To []RouteTarget `json:"to"`
}

// HTTPMatch matches a request that fits all of what it names.
type HTTPMatch struct {
	// Headers that the request must have.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []HeaderMatch `json:"headers,omitempty"`
}

// HeaderMatch matches one header.
type HeaderMatch struct {
	// How the value is compared. Default: Exact.
	// +optional
	// +kubebuilder:default=Exact
	Type HeaderMatchType `json:"type,omitempty"`
	// Name of the header, in any case.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern="^[A-Za-z0-9!#$%&'*+\\-.^_\\x60|~]+$"
	Name string `json:"name"`
	// Value that the header must have (Exact), or an RE2 expression that it must match as a whole (RegularExpression).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Value string `json:"value"`
}

// HeaderMatchType says how a header's value is compared.
//
// +kubebuilder:validation:Enum=Exact;RegularExpression
type HeaderMatchType string

// The header match types.
const (
	HeaderMatchExact             HeaderMatchType = "Exact"
	HeaderMatchRegularExpression HeaderMatchType = "RegularExpression"
)

// RouteTarget is a version of the Service and its share of the requests.
type RouteTarget struct {
	// Version to send to. Empty: all pods of the Service.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Version string `json:"version,omitempty"`
	// Share of the requests, relative to the sum of all weights of the rule.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	Weight *int32 `json:"weight,omitempty"`
}

// ObservabilitySpec says what the proxies report.
type ObservabilitySpec struct {
	// Access log of the proxies, one JSON object a line on their standard output.
	// +optional
	AccessLog *AccessLogSpec `json:"accessLog,omitempty"`
	// Monitors for the Prometheus Operator, by which a Prometheus finds the proxies' metrics and those of the apps.
	// +optional
	Metrics *MetricsSpec `json:"metrics,omitempty"`
}

// MetricsSpec says which objects of the Prometheus Operator Tulle makes: a PodMonitor for the proxies, and a ServiceMonitor for
// Services with ports for metrics. In the root Mesh it also holds for those of Tulle itself.
type MetricsSpec struct {
	// Auto: monitors where the cluster has their CustomResourceDefinitions. Always: the same, and the Mesh is not Ready without
	// them. Never: none. Default: Auto.
	// +optional
	ServiceMonitor MonitorMode `json:"serviceMonitor,omitempty"`
	// Labels of the monitors, such as those that a Prometheus selects by.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && size(self[k]) <= 63)",message="a label's key has at most 317 characters and its value at most 63"
	// +kubebuilder:validation:XValidation:rule="!('app.kubernetes.io/managed-by' in self)",message="app.kubernetes.io/managed-by is how Tulle knows what it made"
	Labels map[string]string `json:"labels,omitempty"`
	// How often metrics are scraped, 1s at least. Default: as often as the Prometheus scrapes others.
	// +optional
	Interval *Duration `json:"interval,omitempty"`
}

// MonitorMode says when monitors are made.
//
// +kubebuilder:validation:Enum=Auto;Always;Never
type MonitorMode string

// The modes of monitors.
const (
	MonitorsAuto   MonitorMode = "Auto"
	MonitorsAlways MonitorMode = "Always"
	MonitorsNever  MonitorMode = "Never"
)

// AccessLogSpec says which requests and connections that a workload serves are logged by its proxy.
type AccessLogSpec struct {
	// None: nothing. Errors: responses of 500 and above and refused connections. All: every one. Default: Errors.
	// +optional
	Mode AccessLogMode `json:"mode,omitempty"`
}

// AccessLogMode says what is logged.
//
// +kubebuilder:validation:Enum=None;Errors;All
type AccessLogMode string

// The access log modes.
const (
	AccessLogNone   AccessLogMode = "None"
	AccessLogErrors AccessLogMode = "Errors"
	AccessLogAll    AccessLogMode = "All"
)

// MeshWideSpec has the settings of the whole mesh.
type MeshWideSpec struct {
	// Where certificates come from.
	// +optional
	Trust *TrustSpec `json:"trust,omitempty"`
	// Address ranges and ports of the cluster.
	// +optional
	Network *NetworkSpec `json:"network,omitempty"`
	// The proxy.
	// +optional
	Envoy *EnvoySpec `json:"envoy,omitempty"`
}

// TrustSpec says where certificates come from.
type TrustSpec struct {
	// SPIFFE trust domain. Default: cluster.local.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$`
	Domain string `json:"domain,omitempty"`
	// cert-manager issuer that signs the mesh's intermediate CA. Default: an own self-signed root.
	// +optional
	IssuerRef *IssuerRef `json:"issuerRef,omitempty"`
	// Lifetime of a workload's certificate, 10s at least. Default: 24h.
	// Give 5m or more unless the clocks of all nodes agree: then they may differ by a minute.
	// +optional
	CertificateDuration *Duration `json:"certificateDuration,omitempty"`
}

// IssuerRef names a cert-manager issuer. An Issuer must be in the operator's namespace.
type IssuerRef struct {
	// Name of the issuer.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Kind of the issuer.
	// +optional
	// +kubebuilder:default=Issuer
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind,omitempty"`
	// API group of the issuer.
	// +optional
	// +kubebuilder:default=cert-manager.io
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group,omitempty"`
}

// NetworkSpec describes the cluster's network where Tulle can't see it.
type NetworkSpec struct {
	// Ranges (CIDR) that Service addresses come from, besides those that Tulle finds.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	ServiceRanges []CIDR `json:"serviceRanges,omitempty"`
	// Ranges (CIDR) that pod addresses come from, besides those that Tulle finds.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	PodRanges []CIDR `json:"podRanges,omitempty"`
	// Ports on which the server speaks first, besides the well-known ones; proxies don't wait for the client's bytes there.
	// A proxy takes the list that holds when its pod is created.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	ServerFirstPorts []PortNumber `json:"serverFirstPorts,omitempty"`
}

// CIDR is an IPv4 or IPv6 range.
//
// +kubebuilder:validation:MinLength=3
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9a-fA-F.:]+/[0-9]{1,3}$')",message="must be a CIDR range such as 10.96.0.0/16 or fd00::/108"
type CIDR string

// PortNumber is a TCP port.
//
// +kubebuilder:validation:Minimum=1
// +kubebuilder:validation:Maximum=65535
type PortNumber int32

// EnvoySpec chooses the proxy.
type EnvoySpec struct {
	// Image of an upstream Envoy release of a supported minor version. Default: the one that this Tulle was built with.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image,omitempty"`
}

// MeshStatus is what Tulle saw. It is bounded: counts, and at most ten samples each.
type MeshStatus struct {
	// Generation of the Mesh that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Accepted, ResolvedRefs, Issued, Injected, Programmed, Encrypted, Monitored, and their summary Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Proxies of this namespace.
	// +optional
	Proxies *ProxiesStatus `json:"proxies,omitempty"`
	// mTLS mode of the namespace, with "*" when ports differ.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	MTLS string `json:"mtls,omitempty"`
	// Number of Services of the namespace.
	// +optional
	Services int32 `json:"services"`
	// TrafficSplits that somebody else made and that rule Services of this Mesh, or of no Mesh of the namespace.
	// +optional
	Splits *SplitsStatus `json:"splits,omitempty"`
}

// SplitsStatus counts the TrafficSplits of others that are followed.
type SplitsStatus struct {
	// Services that are ruled by one.
	Count int32 `json:"count"`
	// The first of them.
	// +optional
	// +listType=map
	// +listMapKey=service
	// +kubebuilder:validation:MaxItems=10
	Samples []ServiceSplit `json:"samples,omitempty"`
}

// ServiceSplit says which TrafficSplit rules a Service.
type ServiceSplit struct {
	// Name of the Service.
	// +kubebuilder:validation:MaxLength=63
	Service string `json:"service"`
	// Name of the TrafficSplit.
	// +kubebuilder:validation:MaxLength=253
	TrafficSplit string `json:"trafficSplit"`
}

// ProxiesStatus counts the proxies of a namespace.
type ProxiesStatus struct {
	// Current proxies of all pods that should have one, such as 6/6.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
	// Pods that should have a proxy.
	Expected int32 `json:"expected"`
	// Pods that have a proxy of the current shape.
	Injected int32 `json:"injected"`
	// Proxies with a stream to the control plane.
	Connected int32 `json:"connected"`
	// Connected proxies that acknowledged everything up to the observed generation.
	Programmed int32 `json:"programmed"`
	// Connected proxies that rejected something.
	Rejected int32 `json:"rejected"`
}

// Condition types of a Mesh. All carry observedGeneration.
const (
	// ConditionAccepted: the object makes sense.
	ConditionAccepted = "Accepted"
	// ConditionResolvedRefs: what it refers to (Services, versions, issuers) exists.
	ConditionResolvedRefs = "ResolvedRefs"
	// ConditionIssued: the mesh can issue certificates.
	ConditionIssued = "Issued"
	// ConditionInjected: every selected pod has a current proxy.
	ConditionInjected = "Injected"
	// ConditionProgrammed: every connected proxy acknowledged this generation.
	ConditionProgrammed = "Programmed"
	// ConditionEncrypted: nothing but mTLS gets in, as the proxies acknowledged; on Permissive ports, nobody needs anything else.
	ConditionEncrypted = "Encrypted"
	// ConditionMonitored: the monitors that a Prometheus finds the metrics by exist and, as far as can be known, one selects them.
	ConditionMonitored = "Monitored"
	// ConditionReady: all of the above; Encrypted counts where ports are Strict, Monitored where monitors are asked for Always.
	ConditionReady = "Ready"
)

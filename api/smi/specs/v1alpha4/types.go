// Package v1alpha4 holds SMI's HTTPRouteGroup, TCPRoute and UDPRoute, specs.smi-spec.io/v1alpha4, the version that is stored and that
// Tulle reads.
//
// The facts are those of the SMI specification v0.6.0 and its archived Go SDK v0.5.0.
//
// +kubebuilder:object:generate=true
// +groupName=specs.smi-spec.io
package v1alpha4

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this API.
var GroupVersion = schema.GroupVersion{Group: "specs.smi-spec.io", Version: "v1alpha4"}

// AddToScheme registers the types of this package with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&HTTPRouteGroup{}, &HTTPRouteGroupList{}, &TCPRoute{}, &TCPRouteList{}, &UDPRoute{}, &UDPRouteList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// HTTPRouteGroup names sets of HTTP requests, for TrafficSplits and TrafficTargets to refer to.
//
// +kubebuilder:object:root=true
type HTTPRouteGroup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec HTTPRouteGroupSpec `json:"spec,omitempty"`
}

// HTTPRouteGroupList is a list of HTTPRouteGroups.
//
// +kubebuilder:object:root=true
type HTTPRouteGroupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []HTTPRouteGroup `json:"items"`
}

// HTTPRouteGroupSpec has the matches, any of which is enough.
type HTTPRouteGroupSpec struct {
	Matches []HTTPMatch `json:"matches,omitempty"`
}

// HTTPMatch is met by a request that meets all that it says.
type HTTPMatch struct {
	// Name of the match, for TrafficTargets to refer to.
	Name string `json:"name,omitempty"`
	// Methods of which the request has one; none, or "*", means any.
	Methods []string `json:"methods,omitempty"`
	// PathRegex is a regular expression of the path, anchored at its beginning; empty means any path.
	PathRegex string `json:"pathRegex,omitempty"`
	// Headers that the request must have, all of them.
	Headers HTTPHeaders `json:"headers,omitempty"`
}

// HTTPHeaders are what headers must match.
//
// The specification writes them as one map and as a list of maps with one entry each; its SDK reads the list only. Both are read here, the
// list is written.
type HTTPHeaders []HTTPHeader

// HTTPHeader is met by a request in which the header has a value that the regular expression matches.
type HTTPHeader struct {
	// Name of the header, in any case.
	Name string
	// Value is a regular expression.
	Value string
}

// TCPRoute names TCP ports, for TrafficTargets to refer to.
//
// +kubebuilder:object:root=true
type TCPRoute struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RouteSpec `json:"spec,omitempty"`
}

// TCPRouteList is a list of TCPRoutes.
//
// +kubebuilder:object:root=true
type TCPRouteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TCPRoute `json:"items"`
}

// UDPRoute names UDP ports, for TrafficTargets to refer to.
//
// +kubebuilder:object:root=true
type UDPRoute struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RouteSpec `json:"spec,omitempty"`
}

// UDPRouteList is a list of UDPRoutes.
//
// +kubebuilder:object:root=true
type UDPRouteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []UDPRoute `json:"items"`
}

// RouteSpec is the specification of a TCPRoute or UDPRoute.
type RouteSpec struct {
	Matches PortMatch `json:"matches,omitempty"`
}

// PortMatch is met by connections to one of the ports; none means any.
type PortMatch struct {
	// Name of the match, for TrafficTargets to refer to.
	Name  string  `json:"name,omitempty"`
	Ports []int32 `json:"ports,omitempty"`
}

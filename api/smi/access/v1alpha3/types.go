// Package v1alpha3 holds SMI's TrafficTarget, access.smi-spec.io/v1alpha3, the version that is stored and that Tulle reads.
//
// The facts are those of the SMI specification v0.6.0 and its archived Go SDK v0.5.0.
//
// +kubebuilder:object:generate=true
// +groupName=access.smi-spec.io
package v1alpha3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this API.
var GroupVersion = schema.GroupVersion{Group: "access.smi-spec.io", Version: "v1alpha3"}

// AddToScheme registers the types of this package with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &TrafficTarget{}, &TrafficTargetList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// TrafficTarget says which identities may call another one, and with what.
//
// +kubebuilder:object:root=true
type TrafficTarget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TrafficTargetSpec `json:"spec,omitempty"`
}

// TrafficTargetList is a list of TrafficTargets.
//
// +kubebuilder:object:root=true
type TrafficTargetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TrafficTarget `json:"items"`
}

// TrafficTargetSpec says who may call whom.
type TrafficTargetSpec struct {
	// Destination is who may be called.
	Destination IdentityBindingSubject `json:"destination"`
	// Sources are who may call.
	Sources []IdentityBindingSubject `json:"sources,omitempty"`
	// Rules are what they may call with.
	Rules []TrafficTargetRule `json:"rules,omitempty"`
}

// TrafficTargetRule refers to an HTTPRouteGroup, TCPRoute or UDPRoute of the same namespace.
type TrafficTargetRule struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Matches are names of matches of an HTTPRouteGroup; none means all of them.
	Matches []string `json:"matches,omitempty"`
}

// IdentityBindingSubject is an identity, as of a ServiceAccount.
type IdentityBindingSubject struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
}

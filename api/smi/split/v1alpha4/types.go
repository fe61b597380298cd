// Package v1alpha4 holds SMI's TrafficSplit, split.smi-spec.io/v1alpha4, the version that is stored and that Tulle reads.
//
// The facts are those of the SMI specification v0.6.0 and its archived Go SDK v0.5.0.
//
// +kubebuilder:object:generate=true
// +groupName=split.smi-spec.io
package v1alpha4

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this API.
var GroupVersion = schema.GroupVersion{Group: "split.smi-spec.io", Version: "v1alpha4"}

// AddToScheme registers the types of this package with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &TrafficSplit{}, &TrafficSplitList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// TrafficSplit divides the requests that clients send to a root Service among backend Services.
//
// +kubebuilder:object:root=true
type TrafficSplit struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TrafficSplitSpec `json:"spec,omitempty"`
}

// TrafficSplitList is a list of TrafficSplits.
//
// +kubebuilder:object:root=true
type TrafficSplitList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TrafficSplit `json:"items"`
}

// TrafficSplitSpec says what is divided, and how.
type TrafficSplitSpec struct {
	// Service is the name of the root Service, which clients call. It is of this namespace; it may be written as a FQDN.
	Service string `json:"service"`
	// Backends are what the requests go to.
	Backends []TrafficSplitBackend `json:"backends"`
	// Matches restrict the split to requests that one of these HTTPRouteGroups matches; all others go to the root Service.
	Matches []corev1.TypedLocalObjectReference `json:"matches,omitempty"`
}

// TrafficSplitBackend is a Service and its share.
type TrafficSplitBackend struct {
	// Service is the name of a Service of this namespace, which need not exist yet.
	Service string `json:"service"`
	// Weight is relative to those of the other backends, not a percentage. Zero is allowed.
	Weight int64 `json:"weight"`
}

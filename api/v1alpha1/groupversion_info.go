// Package v1alpha1 holds the Mesh API, mesh.tulle.dev/v1alpha1.
//
// +kubebuilder:object:generate=true
// +groupName=mesh.tulle.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of this API.
var GroupVersion = schema.GroupVersion{Group: "mesh.tulle.dev", Version: "v1alpha1"}

// AddToScheme registers the types of this package with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Mesh{}, &MeshList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

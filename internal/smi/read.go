package smi

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
)

// Read returns a TrafficSplit or HTTPRouteGroup of any version as the Go type of its hub. The error names the field.
func Read(u *unstructured.Unstructured) (client.Object, error) {
	kind, err := kindOf(u.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	object := empty(kind)
	if object == nil {
		return nil, fmt.Errorf("nothing of Tulle reads %ss", kind.Kind)
	}
	hub, err := Convert(u, kind.Hub())
	if err != nil {
		return nil, err
	}
	raw, err := hub.MarshalJSON()
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, object); err != nil {
		return nil, err
	}
	return object, nil
}

// Nothing returns an object of the Go type of its kind that has but a name, for one that is gone.
func Nothing(u *unstructured.Unstructured) client.Object {
	kind, _ := kindOf(u.GroupVersionKind())
	object := empty(kind)
	if object == nil {
		return u
	}
	object.SetNamespace(u.GetNamespace())
	object.SetName(u.GetName())
	return object
}

// empty returns an object of the Go type of a kind; nil when there is none.
func empty(kind Kind) client.Object {
	switch kind.Kind {
	case TrafficSplits().Kind:
		return &splitv1alpha4.TrafficSplit{}
	case HTTPRouteGroups().Kind:
		return &specsv1alpha4.HTTPRouteGroup{}
	}
	return nil
}

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
	var object client.Object
	switch kind.Kind {
	case TrafficSplits().Kind:
		object = &splitv1alpha4.TrafficSplit{}
	case HTTPRouteGroups().Kind:
		object = &specsv1alpha4.HTTPRouteGroup{}
	default:
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

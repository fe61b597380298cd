package ingest

import (
	"fmt"
	"reflect"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// kept is an object as it is kept for the day on which a builder has to begin anew. What no informer keeps either is packed: a pod takes a tenth of
// its Go form.
type kept struct {
	object client.Object
	packed []byte
	kind   reflect.Type // of what is packed, without the pointer
}

// packable are the protobuf forms of Kubernetes' own kinds.
type packable interface {
	client.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func keep(object client.Object) kept {
	if p, ok := object.(packable); ok && passed(object) {
		if raw, err := p.Marshal(); err == nil {
			return kept{packed: raw, kind: reflect.TypeOf(object).Elem()}
		}
	}
	return kept{object: object}
}

// get returns the object; nil of the zero value.
func (k kept) get() client.Object {
	if k.packed == nil {
		return k.object
	}
	object := reflect.New(k.kind).Interface().(packable)
	if err := object.Unmarshal(k.packed); err != nil {
		panic(fmt.Sprintf("what was packed can't be unpacked: %v", err)) // our own bytes
	}
	return object
}

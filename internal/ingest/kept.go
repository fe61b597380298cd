package ingest

import (
	"fmt"
	"reflect"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// kept is an object as it is kept for the day on which a builder has to begin anew. What no informer keeps either is packed: a pod takes a thirtieth of
// its Go form.
type kept struct {
	object client.Object
	packed []byte
	kind   reflect.Type // of what is packed, without the pointer
	// common, of a pod, is the packed form of what it has like others, which is there once; the zero value of all else.
	common unique.Handle[string]
}

// packable are the protobuf forms of Kubernetes' own kinds.
type packable interface {
	client.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func keep(object client.Object) kept {
	p, ok := object.(packable)
	if !ok || !passed(object) {
		return kept{object: object}
	}
	k := kept{kind: reflect.TypeOf(object).Elem()}
	if pod, ok := object.(*corev1.Pod); ok {
		own, common := divide(pod)
		raw, err := common.Marshal()
		if err != nil {
			return kept{object: object}
		}
		p, k.common = own, unique.Make(string(raw))
	}
	var err error
	if k.packed, err = p.Marshal(); err != nil {
		return kept{object: object}
	}
	return k
}

// get returns the object; nil of the zero value.
func (k kept) get() client.Object {
	if k.packed == nil {
		return k.object
	}
	object := reflect.New(k.kind).Interface().(packable)
	unpack(object, k.packed)
	if own, ok := object.(*corev1.Pod); ok {
		var pod corev1.Pod
		unpack(&pod, []byte(k.common.Value()))
		rejoin(&pod, own)
		return &pod
	}
	return object
}

func unpack(object packable, raw []byte) {
	if err := object.Unmarshal(raw); err != nil {
		panic(fmt.Sprintf("what was packed can't be unpacked: %v", err)) // our own bytes
	}
}

// divide returns what no other pod has, and what pods of one controller have alike.
func divide(pod *corev1.Pod) (own, common *corev1.Pod) {
	own, common = &corev1.Pod{}, new(*pod)
	rejoin(own, pod)
	rejoin(common, &corev1.Pod{})
	return own, common
}

// rejoin gives a pod what only another one has.
func rejoin(pod, own *corev1.Pod) {
	m := &pod.ObjectMeta
	m.Name, m.UID, m.ResourceVersion = own.Name, own.UID, own.ResourceVersion
	m.CreationTimestamp, m.DeletionTimestamp = own.CreationTimestamp, own.DeletionTimestamp
	pod.Spec.NodeName = own.Spec.NodeName
	s := &pod.Status
	s.PodIP, s.PodIPs, s.HostIPs, s.StartTime = own.Status.PodIP, own.Status.PodIPs, own.Status.HostIPs, own.Status.StartTime
}

package ingest

import (
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// parcel is an object of a kind that no informer keeps, packed on its way to the builder. At the start all of them wait until everything has been read: as
// Go objects they would take several times the memory that is needed afterwards, and leave it full of holes.
type parcel struct {
	namespace, name, version string
	uid                      types.UID
	kept                     kept
}

// wrap returns the object itself if it can't be packed.
func wrap(object any) any {
	o, ok := object.(client.Object)
	if !ok {
		return object
	}
	k := keep(o)
	if k.packed == nil {
		return object
	}
	return &parcel{namespace: o.GetNamespace(), name: o.GetName(), version: o.GetResourceVersion(), uid: o.GetUID(), kept: k}
}

// GetObjectMeta implements metav1.ObjectMetaAccessor, by which client-go names objects and tells their versions apart.
func (p *parcel) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, UID: p.uid, ResourceVersion: p.version}
}

// key is objectKey of what is in it.
func (p *parcel) key() string {
	return keyOf(reflect.PointerTo(p.kept.kind).String(), p.namespace, p.name)
}

// open returns what is in it.
func (p *parcel) open() client.Object {
	o := p.kept.get()
	o.SetName(p.name) // is kept already
	o.SetUID(p.uid)
	return o
}

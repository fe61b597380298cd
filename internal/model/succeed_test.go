package model

import (
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A builder that succeeds another says the same of the same objects, and names what only its predecessor had.
func TestSucceed(t *testing.T) {
	t.Parallel()
	first, second := newWorld(7), newWorld(7)
	before, after := NewBuilder(testConfig()), NewBuilder(testConfig())
	for range 200 {
		before.Set(first.object())
	}
	last := before.Snapshot()
	after.Succeed(last)
	for range 200 {
		after.Set(second.object())
	}
	next := after.Snapshot()
	if next.Revision() != last.Revision()+1 {
		t.Errorf("revision %d comes after %d", next.Revision(), last.Revision())
	}
	if !reflect.DeepEqual(dumpNodes(last), dumpNodes(next)) {
		t.Error("the same objects make another snapshot")
	}

	gone := NewBuilder(testConfig())
	gone.Set(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7"}})
	heir := NewBuilder(testConfig())
	heir.Succeed(gone.Snapshot())
	if d := heir.Snapshot().Reader().Address(netip.MustParseAddrPort("10.96.0.7:80")); d.Kind != UnknownService {
		t.Errorf("the address of a Service that is gone is %+v, want one of which nobody is there", d)
	}

	empty := NewBuilder(testConfig())
	empty.Succeed(next)
	named := map[Key]bool{}
	for _, key := range empty.Snapshot().Changed() {
		named[key] = true
	}
	next.tree.Scan(func(e entry) bool {
		if !e.key.Kind.internal() && !named[e.key] {
			t.Errorf("%v is gone, and is not named as changed", e.key)
		}
		return true
	})
	empty.Succeed(nil)
}

// dumpNodes is what readers see.
func dumpNodes(s *Snapshot) map[Key]any {
	nodes := map[Key]any{}
	s.tree.Scan(func(e entry) bool {
		if !e.key.Kind.internal() {
			nodes[e.key] = e.value
		}
		return true
	})
	return nodes
}

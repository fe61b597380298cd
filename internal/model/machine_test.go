package model

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Node is known by its own addresses, of both families, until they are another's or it is gone.
func TestNodeAt(t *testing.T) {
	b := NewBuilder(Config{OperatorNamespace: "tulle-system"})
	node := func(name string, addresses ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	want := func(address, name string) {
		t.Helper()
		if got, _ := b.Snapshot().NodeAt(netip.MustParseAddr(address)); got != name {
			t.Errorf("%s is of %q, want %q", address, got, name)
		}
	}
	b.Set(node("a", "192.0.2.1", "2001:db8::1", "a.example"))
	want("192.0.2.1", "a")
	want("::ffff:192.0.2.1", "a")
	want("2001:db8::1", "a")
	want("192.0.2.2", "")
	b.Set(node("b", "192.0.2.1"))
	b.Delete(node("a"))
	want("192.0.2.1", "b")
	want("2001:db8::1", "")
	b.Delete(node("b"))
	want("192.0.2.1", "")
}

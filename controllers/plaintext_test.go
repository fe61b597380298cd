package controllers

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Peers are called what the model knows of their addresses: a pod, a Node, or an address that is nobody's. Reports of proxies of other
// namespaces, and of those that have no Mesh, say nothing about this one.
func TestObserveNamesPeers(t *testing.T) {
	b := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})
	pod := func(namespace, name, ip string, hostNetwork bool) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid"},
			Spec:       corev1.PodSpec{HostNetwork: hostNetwork, Containers: []corev1.Container{{Name: "app"}}},
			Status:     corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
		}
	}
	b.Set(&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}})
	b.Set(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.1.1"}},
	}})
	b.Set(pod("outside", "client", "10.244.0.9", false))
	b.Set(pod("outside", "agent", "192.168.1.1", true))
	snapshot := b.Snapshot()
	now := time.Unix(1e9, 0)
	report := func(namespace string, count int, addresses ...string) xds.PlaintextReport {
		r := xds.PlaintextReport{Proxy: resource.Proxy{Namespace: namespace, Pod: "p"}, Count: count}
		for _, a := range addresses {
			r.Peers = append(r.Peers, xds.PlaintextPeer{Address: netip.MustParseAddr(a), Port: 80, LastSeen: now})
		}
		return r
	}
	got := observe(nil, snapshot, snapshot.Meshes(), nil, []xds.PlaintextReport{
		report("shop", 3, "10.244.0.9", "192.168.1.1"), report("shop", 1, "203.0.113.9"), report("elsewhere", 1, "203.0.113.10"),
	}, time.Minute, now)
	if len(got) != 1 || !got["shop"].More || !got["shop"].Since.Equal(now) {
		t.Errorf("got %+v, want shop alone, complete, with more peers than are named", got)
	}
	var names []string
	for _, p := range got["shop"].Peers {
		names = append(names, p.Name)
	}
	if want := []string{"address 203.0.113.9", "node worker-1", "pod outside/client"}; !slices.Equal(names, want) {
		t.Errorf("named %q, want %q", names, want)
	}
}

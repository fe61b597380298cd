package integration

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/peers"
)

// replica is one of several operators, with its pod, an address of its own, and ways to cut it off.
type replica struct {
	*running
	*world // as its proxies see it
	pod    *corev1.Pod
	// api is its way to the API server, others the way of other replicas to it.
	api    *gate
	others *gate
}

// replica starts an operator at a host.
func (w *world) replica(name, host string) *replica {
	w.t.Helper()
	at := *w
	at.host = host
	r := &replica{world: &at, api: newGate(), others: newGate()}
	// The pod's address is a forwarder's, which can stop forwarding.
	address := newHost()
	r.others.forward(w, net.JoinHostPort(address, "15011"), net.JoinHostPort(host, "15011"))
	r.pod = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name, Labels: map[string]string{
			"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "manager",
		}},
		Spec: corev1.PodSpec{ServiceAccountName: "tulle-manager", Containers: []corev1.Container{{Name: peers.Container, Image: "tulle.dev/operator:test"}}},
	}
	w.create(r.pod)
	r.pod.Status.PodIP, r.pod.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	r.pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: peers.Container, Started: new(true), Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	}}
	w.run(r.pod)
	r.running = at.start(func(o *operator.Options) {
		o.PodName = name
		o.RegainSight = 2 * time.Second
		o.Config.Dial = r.api.dial
	})
	w.eventually(name+" is ready", at.ready)
	return r
}

// leader returns who holds the lease. Replicas in one process have the same name there, but for a part that is random.
func (w *world) leader() (string, error) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "tulle"}}
	if err := w.get(lease); err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return "", errors.New("nobody leads")
	}
	return *lease.Spec.HolderIdentity, nil
}

// gate is a way that connections go, until it is shut.
type gate struct {
	mu   sync.Mutex
	open sync.Cond
	shut bool
	// connections that it was asked for, and that end when it is cut.
	connections map[net.Conn]struct{}
}

func newGate() *gate {
	g := &gate{connections: map[net.Conn]struct{}{}}
	g.open.L = &g.mu
	return g
}

// cut ends all connections and lets in no more until mend.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for c := range g.connections {
		c.Close()
	}
	clear(g.connections)
}

// freeze stops all bytes where they are, until mend.
func (g *gate) freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

func (g *gate) mend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
	g.open.Broadcast()
}

// dial connects while the gate is open.
func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return nil, errors.New("the way is shut")
	}
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, network, address)
	if err == nil {
		g.connections[c] = struct{}{}
	}
	return c, err
}

// pass waits until the gate is open.
func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut {
		g.open.Wait()
	}
}

// forward connects whoever comes to an address with another one, until the test ends.
func (g *gate) forward(w *world, from, to string) {
	w.t.Helper()
	listener, err := net.Listen("tcp", from)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		listener.Close()
		g.mend()
	})
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go g.join(near, to)
		}
	}()
}

func (g *gate) join(near net.Conn, to string) {
	defer near.Close()
	g.pass()
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		defer far.Close()
		_, _ = io.Copy(gated{far, g}, near) // it ends when one of them does
	}()
	_, _ = io.Copy(gated{near, g}, far)
}

// gated is a writer behind a gate.
type gated struct {
	io.Writer
	gate *gate
}

// Write implements io.Writer.
func (g gated) Write(b []byte) (int, error) {
	g.gate.pass()
	return g.Writer.Write(b)
}

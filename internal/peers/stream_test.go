package peers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// anybody is TLS that verifies nobody; who is a replica is package identity's to say.
func anybody(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, //nolint:gosec // see above
	}
}

// other is a replica that the test's leader reads from.
type other struct {
	server *Server
	port   string
	stop   func()

	mu      sync.Mutex
	meshes  []Generation
	proxies []xds.ProxyState
}

// set makes the replica know something else.
func (o *other) set(meshes []Generation, proxies ...xds.ProxyState) {
	o.mu.Lock()
	o.meshes, o.proxies = meshes, proxies
	o.mu.Unlock()
	o.server.Changed()
}

// start starts a replica at a port, any if it is empty.
func start(t *testing.T, config *tls.Config, port string) *other {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		t.Fatal(err)
	}
	o := &other{}
	_, o.port, _ = net.SplitHostPort(listener.Addr().String())
	o.server = &Server{
		Generations: func() []Generation { o.mu.Lock(); defer o.mu.Unlock(); return o.meshes },
		Proxies:     func() []xds.ProxyState { o.mu.Lock(); defer o.mu.Unlock(); return o.proxies },
		Plaintext:   func() []xds.PlaintextReport { return nil },
		TLS:         config, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.server.Serve(ctx, listener) }()
	o.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(o.stop)
	return o
}

// TestStream follows a replica through its life as the leader sees it.
func TestStream(t *testing.T) {
	t.Parallel()
	config := anybody(t)
	changed := make(chan struct{}, 1)
	o := start(t, config, "")
	c := &Collector{Self: "leader", Port: o.port, TLS: config, Log: slog.New(slog.DiscardHandler), Changed: func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go c.Run(ctx)

	view := View{Revision: 50, Meshes: []Generation{mesh("a", 1, 40)}}
	await := func(what string, want Fleet) {
		t.Helper()
		end := time.After(SilentAfter + 10*time.Second)
		for {
			got := c.Fleet(view, Own{Proxies: []xds.ProxyState{proxy("x", 1, 50)}})
			for i := range got.Proxies {
				got.Proxies[i].ConnectedAt = noon // by the wall clock of the other, less what it took to get here
			}
			diff := cmp.Diff(want, got)
			if diff == "" {
				return
			}
			select {
			case <-changed:
			case <-end:
				t.Fatalf("%s (-want +got):\n%s", what, diff)
			}
		}
	}
	held := func(pod string, revision uint64) xds.ProxyState { return proxy(pod, 0, revision) }

	await("before the leader knows of any pod", Fleet{Proxies: []xds.ProxyState{held("x", 50)}, Incomplete: true})
	pods := []corev1.Pod{*replicaPod("leader", "127.0.0.2"), *replicaPod("peer", "127.0.0.1")}
	c.Follow(ctx, pods)
	await("a peer that knows nothing yet", Fleet{Proxies: []xds.ProxyState{held("x", 50)}})

	y := proxy("y", 1, 7)
	y.Rejections = []xds.Rejection{{Ref: resource.Ref{Type: resource.Listener, Name: "inbound"}, Message: "no"}}
	o.set([]Generation{mesh("a", 1, 7)}, y)
	want := held("y", 50)
	want.Rejections = y.Rejections
	await("a proxy of the peer", Fleet{Proxies: []xds.ProxyState{held("x", 50), want}})
	o.set([]Generation{mesh("a", 1, 7)})
	await("it has gone", Fleet{Proxies: []xds.ProxyState{held("x", 50)}})
	o.set([]Generation{mesh("a", 1, 7)}, proxy("z", 1, 9))
	await("another has come", Fleet{Proxies: []xds.ProxyState{held("x", 50), held("z", 50)}})

	o.stop()
	await("nobody is there", Fleet{Proxies: []xds.ProxyState{held("x", 50)}, Silent: []string{"peer"}})
	again := start(t, config, o.port)
	again.set([]Generation{mesh("a", 1, 1)}, proxy("w", 1, 0))
	await("the peer was restarted", Fleet{Proxies: []xds.ProxyState{held("w", 39), held("x", 50)}})
	c.Follow(ctx, pods[:1])
	await("the pod of the peer is gone", Fleet{Proxies: []xds.ProxyState{held("x", 50)}})
}

func replicaPod(name, address string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, ContainerStatuses: []corev1.ContainerStatus{{
			Name: Container, Started: new(true), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}},
	}
}

package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// TestReconnectsWithoutAPIServer: all proxies of a mesh come back at once, many times over, to a replica that has not seen one of
// their tokens before, while the API server does not answer. Every stream is served.
func TestReconnectsWithoutAPIServer(t *testing.T) {
	const proxies, times = 100, 20
	w := newWorld(t)
	w.installCertManager()
	first := w.start(nil)
	w.eventually("the operator is ready", w.ready)
	const ns = "storm"
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
	ca := w.ca(ns)
	var tokens []string
	for i := range proxies {
		p := pod(ns, fmt.Sprint("app-", i))
		w.create(p)
		w.run(p)
		tokens = append(tokens, w.podToken(p, sidecar.TokenAudience))
	}

	// A fresh replica, of which another is the leader: what is shown is that of every replica.
	first.stop()
	w.holdLease()
	w.start(nil)
	w.eventually("the second operator is ready", w.ready)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		t.Fatalf("no CA in %q", ca)
	}
	// Its informers have synced, so it knows all pods. Its keys were read at its start; this one stream shows it.
	w.eventually("the first stream is served", func() error { return w.reconnect(roots, tokens[0]) })

	resume := w.pauseAPIServer()
	defer resume()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := w.client.List(ctx, &corev1.NamespaceList{}); err == nil {
		t.Fatal("the API server answers although it is paused")
	}
	began := time.Now()
	var all sync.WaitGroup
	failures := make(chan error, proxies*times)
	for _, token := range tokens {
		all.Go(func() {
			for range times {
				if err := w.reconnect(roots, token); err != nil {
					failures <- err
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d reconnects of %d proxies in %.1f s with the API server paused, %d failed", proxies*times, proxies, time.Since(began).Seconds(), len(failures))
	if n := len(failures); n > 0 {
		t.Errorf("%d of %d failed, the first one with: %v", n, proxies*times, <-failures)
	}
}

// reconnect opens a stream on a connection of its own, as a proxy that already holds something does, and takes the first response.
func (w *world) reconnect(roots *x509.CertPool, token string) error {
	connection, err := grpc.NewClient(w.host+":15010", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: roots, ServerName: identity.ServerName(identity.ControlPlaneService, system), MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token), deadline)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: resource.Cluster.URL(), ResourceNamesSubscribe: []string{"*", "http|10.0.0.99:80"},
		InitialResourceVersions: map[string]string{"passthrough": "of before"},
		Node: &corev3.Node{Id: "test", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
			UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}},
		}},
	}); err != nil {
		return err
	}
	response, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(response.GetResources()) == 0 {
		return fmt.Errorf("an empty first response: %v", response)
	}
	return nil
}

// holdLease makes somebody else the leader for as long as the test runs.
func (w *world) holdLease() {
	w.t.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "tulle"}}
	hold := func() {
		lease.Spec = coordinationv1.LeaseSpec{
			HolderIdentity: new("another replica"), LeaseDurationSeconds: new(int32(3600)),
			AcquireTime: &metav1.MicroTime{Time: time.Now()}, RenewTime: &metav1.MicroTime{Time: time.Now()},
		}
	}
	w.eventually("the lease is free", func() error {
		if err := w.get(lease); err != nil {
			return err
		}
		if h := lease.Spec.HolderIdentity; h != nil && *h != "" {
			return fmt.Errorf("it is held by %s", *h)
		}
		hold()
		return w.client.Update(context.Background(), lease)
	})
}

// pauseAPIServer stops the process of the API server, which this process has started, and returns how to have it go on.
func (w *world) pauseAPIServer() func() {
	w.t.Helper()
	pid := w.apiServer()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	resume := sync.OnceFunc(func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(resume)
	return resume
}

// apiServer returns the API server's process.
func (w *world) apiServer() int {
	w.t.Helper()
	_, port, _ := strings.Cut(strings.TrimPrefix(w.admin.Host, "https://"), ":")
	return childWith(w.t, "kube-apiserver", "--secure-port="+strings.TrimSuffix(port, "/"))
}

// childWith returns the process, started by this one, of a program with an argument.
func childWith(t *testing.T, program, argument string) int {
	t.Helper()
	processes, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended
		}
		// pid (comm) state ppid …
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		arguments := strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
		if strings.HasSuffix(arguments[0], program) && slices.Contains(arguments, argument) {
			return pid
		}
	}
	t.Fatalf("no child runs %s with %s", program, argument)
	return 0
}

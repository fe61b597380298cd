package envoy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/features"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/test/envoy/fakeauth"
)

// Where the control plane is: addresses on the fabric, outside of the pod and service ranges.
var (
	controlPlane4 = netip.MustParseAddr("198.18.0.1")
	controlPlane6 = netip.MustParseAddr("fd00:198::1")
)

const (
	controlPlanePort = 15010
	controlPlaneName = "tulle-control-plane.tulle-system.svc"
	syncTimeout      = 30 * time.Second
)

// ViewWrapper changes what proxies are told, to play a control plane that is wrong or slow.
type ViewWrapper func(resource.View) resource.View

// WithView makes proxies be told what a wrapper makes of each view.
func WithView(wrap ViewWrapper) Option { return func(o *options) { o.view = wrap } }

// InternalHeaders returns the headers that proxies use among themselves.
func InternalHeaders() []string {
	return []string{features.DestinationHeader, features.HopHeader}
}

// replica is one control plane: what the operator's binary runs, with the harness in the place of its informers.
type replica struct {
	builder   *model.Builder
	publisher *compile.Publisher
	server    *xds.Server
	wrap      ViewWrapper
	snapshot  atomic.Pointer[model.Snapshot]
	stop      context.CancelFunc
	served    chan error
}

// newReplica makes a control plane that serves nothing yet.
func (w *World) newReplica() (*replica, error) {
	r := &replica{builder: model.NewBuilder(model.Config{OperatorNamespace: "tulle-system", EnvoyImage: "envoy"}), wrap: w.options.view, served: make(chan error, 1)}
	r.publisher = compile.NewPublisher(r.send, func(ref resource.ScopedRef, err error) {
		w.t.Errorf("compile %s: %v", ref.Ref, err)
	})
	cert, err := w.serverCA.issue("", controlPlaneName)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(w.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { log.Close() })
	r.server, err = xds.NewServer(xds.Config{
		Authenticator: fakeauth.Authenticator{Proxy: func(namespace, name string) (resource.Proxy, bool) {
			p, ok := r.proxy(namespace, name)
			if owner, forgot := w.owners.Load(namespace + "/" + name); forgot {
				p.Owner = owner.(string)
			}
			return p, ok
		}},
		Certificates: w.certificates(),
		MinMinor:     38, MaxMinor: 40,
		Credentials: credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}),
		Log:         slog.New(slog.NewTextHandler(log, nil)),
	})
	return r, err
}

// proxy is what the control plane knows of the pod whose proxy connects.
func (r *replica) proxy(namespace, name string) (resource.Proxy, bool) {
	w := r.snapshot.Load().Reader().Workload(model.WorkloadKey{Namespace: namespace, Name: name})
	if w == nil {
		return resource.Proxy{}, false
	}
	return resource.Proxy{Namespace: namespace, Pod: name, UID: w.UID, ServiceAccount: w.ServiceAccount, Owner: w.Owner}, true
}

// start serves on the fabric's addresses. It needs a first publish.
func (r *replica) start(w *World) error {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	both := make(chan error, 2)
	for _, a := range []netip.Addr{controlPlane4, controlPlane6} {
		l, err := w.fabric.Listen("tcp", netip.AddrPortFrom(a, controlPlanePort).String())
		if err != nil {
			cancel()
			return err
		}
		go func() { both <- r.server.Serve(ctx, l) }()
	}
	go func() { r.served <- errors.Join(<-both, <-both) }()
	return nil
}

func (r *replica) revision() uint64 { return r.snapshot.Load().Revision() }

func (r *replica) close() error {
	r.stop()
	return <-r.served
}

func (r *replica) set(o client.Object)    { r.builder.Set(o) }
func (r *replica) delete(o client.Object) { r.builder.Delete(o) }

// publish tells the proxies what changed since the last time.
func (r *replica) publish() {
	s := r.builder.Snapshot()
	r.snapshot.Store(s)
	r.publisher.Publish(s)
}

// send takes a view to the proxies.
func (r *replica) send(view resource.View, changed []resource.ScopedRef) {
	if r.wrap != nil {
		view = r.wrap(view)
	}
	r.server.Publish(view, changed)
}

// Republish tells the proxies that these resources have changed, for a ViewWrapper that makes something else of them from
// now on. It may be called from any goroutine while the test only sends traffic.
func (w *World) Republish(refs ...resource.ScopedRef) {
	w.replica.publisher.Again(refs...)
}

// StopControlPlane ends the control plane: streams break and nobody listens any more.
func (w *World) StopControlPlane() {
	w.t.Helper()
	w.check(w.replica.close())
	w.replica = nil
}

// StartControlPlane starts a control plane, which reads all objects anew and knows nothing of the one before. It returns
// when every proxy has come to it.
func (w *World) StartControlPlane() {
	w.t.Helper()
	r, err := w.newReplica()
	w.check(err)
	w.feed(r)
	w.check(r.start(w))
	w.replica = r
	w.check(w.waitSynced())
}

// ReplaceControlPlane starts a new control plane and ends the old one, as a rolling update does: at no time is there none
// that has read everything.
func (w *World) ReplaceControlPlane() {
	w.t.Helper()
	r, err := w.newReplica()
	w.check(err)
	w.feed(r)
	w.check(w.replica.close())
	w.check(r.start(w))
	w.replica = r
	w.check(w.waitSynced())
}

func (w *World) feed(r *replica) {
	r.builder.SetTrust(w.meshCA.bundle())
	for _, ref := range sortedRefs(w.objects) {
		r.set(w.objects[ref])
	}
	r.publish()
}

func (w *World) publish() {
	if w.replica != nil {
		w.replica.publish()
	}
}

// waitSynced waits until every proxy is connected and holds, or has refused, all of the last published revision.
func (w *World) waitSynced() error {
	if w.replica == nil {
		return nil
	}
	timeout := time.After(syncTimeout)
	for {
		waiting := w.unsynced()
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-w.replica.server.Changed():
		case <-timeout:
			return fmt.Errorf("after %s not all proxies hold revision %d: %v", syncTimeout, w.replica.revision(), waiting)
		}
	}
}

// unsynced says which proxies do not hold the last revision, and why.
func (w *World) unsynced() []string {
	states := map[string]xds.ProxyState{}
	for _, s := range w.replica.server.Proxies() {
		states[s.Proxy.Namespace+"/"+s.Proxy.Pod] = s
	}
	var waiting []string
	for _, p := range w.pods {
		s, connected := states[p.name()]
		switch {
		case p.proxy == nil:
		case !connected:
			waiting = append(waiting, p.name()+": not connected")
		case s.SyncedRevision < w.replica.revision():
			waiting = append(waiting, fmt.Sprintf("%s: holds %d, pending %v", p.name(), s.SyncedRevision, s.Pending))
		}
	}
	return waiting
}

// Rejections returns what the proxy of a pod has refused.
func (w *World) Rejections(pod string) []xds.Rejection {
	w.t.Helper()
	name := w.Pod(pod).name()
	for _, s := range w.replica.server.Proxies() {
		if s.Proxy.Namespace+"/"+s.Proxy.Pod == name {
			return s.Rejections
		}
	}
	w.t.Fatalf("the proxy of %s is not connected", name)
	return nil
}

// Pretend makes the next certificate of a pod's proxy one for another identity, as if somebody had stolen the pod's place.
func (w *World) Pretend(pod, identity string) {
	w.t.Helper()
	w.meshCA.pretend(w.Pod(pod).name(), identity)
}

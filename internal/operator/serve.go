package operator

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// everyReplica is a part that does not wait for this replica to lead.
type everyReplica func(context.Context) error

// Start implements manager.Runnable.
func (r everyReplica) Start(ctx context.Context) error { return r(ctx) }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (everyReplica) NeedLeaderElection() bool { return false }

// publish takes a snapshot to the proxies and to the reconcilers. Calls come one at a time.
func (o *operator) publish(snapshot *model.Snapshot) {
	wide := snapshot.Reader().MeshWide()
	if err := o.materials.SetTerms(wide.TrustDomain, wide.CertificateDuration); err != nil {
		o.Log.Error("certificates keep the terms that they had", "part", "identity", "error", err)
	}
	before := o.world.Snapshot()
	if !snapshot.OnlyEndpoints() {
		o.xds.Reshape(snapshot.Revision())
	}
	// What fails to be published to proxies is still what webhooks and status go by.
	_ = o.panics.Do(contain.Publish, fmt.Sprintf("revision %d", snapshot.Revision()), func() { o.publisher.Publish(snapshot) }) // it is told
	o.world.Set(snapshot)
	o.peers.Changed()
	for _, uid := range gone(before, snapshot) {
		o.xds.Disconnect(uid)
	}
}

// send takes a view to the proxies. When that panics, some may not have been told of what changed: they are with the next one.
func (o *operator) send(view resource.View, changed []resource.ScopedRef) {
	if o.panics.Do(contain.Publish, fmt.Sprintf("revision %d", view.Revision()), func() { o.xds.PublishSince(view, changed, o.seenAt()) }) != nil {
		o.publisher.Owe(changed)
	}
}

// seenAt says since when what is sent next has been known, once: what is only sent again has been known since now.
func (o *operator) seenAt() time.Time {
	if at := o.seen.Swap(nil); at != nil {
		return *at
	}
	return time.Now()
}

// gone returns the UIDs of the pods that a snapshot has no more.
func gone(before, now *model.Snapshot) []string {
	if before == nil {
		return nil
	}
	var uids []string
	was, is := before.Reader(), now.Reader()
	for _, key := range now.Changed() {
		if key.Kind != model.KindWorkload {
			continue
		}
		pod := model.WorkloadKey{Cluster: key.Cluster, Namespace: key.Namespace, Name: key.Name}
		old, current := was.Workload(pod), is.Workload(pod)
		if old != nil && (current == nil || current.UID != old.UID) {
			uids = append(uids, old.UID)
		}
	}
	return uids
}

// serveXDS serves the proxies until ctx ends.
func (o *operator) serveXDS(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.XDSAddress)
	if err != nil {
		return fmt.Errorf("serve xDS: %w", err)
	}
	close(o.listening)
	return o.xds.Serve(ctx, listener)
}

// followProxies wakes the status, here and at the leader, when proxies have changed.
func (o *operator) followProxies(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.xds.Changed():
			if o.xds.News() {
				o.proxiesChanged.Fire()
				o.peers.Changed()
			}
		}
	}
}

// pods is the control plane's view of the pods, for the authentication of proxies.
type pods struct{ world *controllers.World }

// Pod implements identity.Pods.
func (p pods) Pod(namespace, name string) (identity.Pod, bool) {
	snapshot := p.world.Snapshot()
	if snapshot == nil {
		return identity.Pod{}, false
	}
	return podOf(snapshot.Reader().Workload(model.WorkloadKey{Namespace: namespace, Name: name}))
}

// PodAt implements identity.Pods. Addresses of nodes belong to no pod in the model.
func (p pods) PodAt(address netip.Addr) (identity.Pod, bool) {
	snapshot := p.world.Snapshot()
	if snapshot == nil {
		return identity.Pod{}, false
	}
	destination := snapshot.Reader().Address(netip.AddrPortFrom(address, 0))
	if destination.Kind != model.PodAddress {
		return identity.Pod{}, false
	}
	return podOf(destination.Workload)
}

func podOf(w *model.Workload) (identity.Pod, bool) {
	if w == nil {
		return identity.Pod{}, false
	}
	return identity.Pod{Namespace: w.Key.Namespace, Name: w.Key.Name, UID: w.UID, ServiceAccount: w.ServiceAccount, Owner: w.Owner}, true
}

package operator

import (
	"cmp"
	"context"
	"fmt"
	"net"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/peers"
)

// replicaLabels are those of the operator's pods, as config/manager/deployment.yaml and the selectors of its Services have them.
func replicaLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "manager"}
}

// newCache makes a cache of what is in the operator's own namespace.
func (o *operator) newCache(options cache.Options) (cache.Cache, error) {
	options.Scheme, options.Mapper, options.HTTPClient = o.manager.GetScheme(), o.manager.GetRESTMapper(), o.manager.GetHTTPClient()
	options.DefaultNamespaces = map[string]cache.Config{o.Namespace: {}}
	return cache.New(o.Config, options)
}

// makePeers makes what replicas need to know of each other.
func (o *operator) makePeers() error {
	_, port, err := net.SplitHostPort(o.PeersAddress)
	if err != nil {
		return fmt.Errorf("address for other replicas: %w", err)
	}
	if o.replicas, err = o.newCache(cache.Options{DefaultLabelSelector: labels.SelectorFromSet(replicaLabels())}); err != nil {
		return fmt.Errorf("make the cache of replicas: %w", err)
	}
	// The informer must be there before the API server is away.
	if _, err := o.replicas.GetInformer(context.Background(), &corev1.Pod{}, cache.BlockUntilSynced(false)); err != nil {
		return fmt.Errorf("watch the operator's own pods: %w", err)
	}
	ask, err := o.asker()
	if err != nil {
		return err
	}
	log, tls := o.Log.With("part", "peers"), o.materials.ReplicaTLS(o.Namespace)
	o.sight = &peers.Sight{
		Ask: ask, Others: o.otherReplicas, Port: port, TLS: tls, Regain: cmp.Or(o.RegainSight, peers.Regain), Changed: o.sendOff, Log: log,
	}
	o.peers = &peers.Server{Generations: o.generations, Proxies: o.xds.Proxies, Plaintext: o.xds.Plaintext, SeesNow: o.sight.SeesNow, TLS: tls, Log: log}
	o.newCollector = func() *peers.Collector {
		return &peers.Collector{Self: o.PodName, Port: port, TLS: tls, Changed: o.proxiesChanged.Fire, Log: log}
	}
	watchSight := func(ctx context.Context) error {
		o.sight.Run(ctx)
		return nil
	}
	for _, part := range []everyReplica{o.replicas.Start, o.servePeers, watchSight} {
		if err := o.manager.Add(part); err != nil {
			return err
		}
	}
	return nil
}

// asker returns a function that asks the API server for its version, which anybody may. It waits behind no other requests of ours.
func (o *operator) asker() (func(context.Context) error, error) {
	config := rest.CopyConfig(o.Config)
	config.QPS = -1
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return func(ctx context.Context) error { return client.RESTClient().Get().AbsPath("/version").Do(ctx).Error() }, nil
}

// sendOff has proxies served elsewhere while this replica's view of the cluster is older than another's.
func (o *operator) sendOff(outdated bool) {
	if outdated {
		o.xds.Refuse(o.sight.Outdated())
	} else {
		o.xds.Refuse(nil)
	}
}

// otherReplicas returns the addresses of the other live replicas, as far as is known.
func (o *operator) otherReplicas(ctx context.Context) []string {
	pods, err := o.listReplicas(ctx)
	if err != nil {
		return nil // nothing is known yet
	}
	var addresses []string
	for i := range pods {
		if pods[i].Name != o.PodName && peers.Live(&pods[i]) {
			addresses = append(addresses, pods[i].Status.PodIP)
		}
	}
	return addresses
}

func (o *operator) listReplicas(ctx context.Context) ([]corev1.Pod, error) {
	var pods corev1.PodList
	if err := o.replicas.List(ctx, &pods, client.InNamespace(o.Namespace)); err != nil {
		return nil, fmt.Errorf("list the operator's own pods: %w", err)
	}
	return pods.Items, nil
}

// servePeers serves other replicas until ctx ends.
func (o *operator) servePeers(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", o.PeersAddress)
	if err != nil {
		return fmt.Errorf("serve other replicas: %w", err)
	}
	return o.peers.Serve(ctx, listener)
}

// generations returns what this replica has of each Mesh. Each report asks for it, and few snapshots come between.
func (o *operator) generations() []peers.Generation {
	snapshot := o.world.Snapshot()
	if snapshot == nil {
		return nil
	}
	if known := o.known.Load(); known != nil && known.snapshot == snapshot {
		return known.generations
	}
	known := &knownGenerations{snapshot, peers.Generations(snapshot)}
	o.known.Store(known)
	return known.generations
}

// knownGenerations are those of a snapshot.
type knownGenerations struct {
	snapshot    *model.Snapshot
	generations []peers.Generation
}

// followReplicas tells the leader's collector of the operator's pods, for a term.
type followReplicas struct {
	*operator
	collector *peers.Collector
}

// Start implements manager.Runnable.
func (f followReplicas) Start(ctx context.Context) error {
	informer, err := f.replicas.GetInformer(ctx, &corev1.Pod{})
	if err != nil {
		return fmt.Errorf("watch the operator's own pods: %w", err)
	}
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() }, UpdateFunc: func(any, any) { notify() }, DeleteFunc: func(any) { notify() },
	})
	if err != nil {
		return fmt.Errorf("watch the operator's own pods: %w", err)
	}
	defer func() {
		if err := informer.RemoveEventHandler(registration); err != nil {
			f.Log.Error("stop to watch the operator's own pods", "error", err)
		}
	}()
	f.Log.Info("this replica leads")
	f.leading.Store(true)
	defer f.leading.Store(false)
	defer f.gauges.Set(nil) // the next leader has them
	notify()                // also when there are none
	go f.collector.Run(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		pods, err := f.listReplicas(ctx)
		if err != nil {
			return err
		}
		f.collector.Follow(ctx, pods)
	}
}

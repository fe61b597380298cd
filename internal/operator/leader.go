package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/peers"
)

// candidacyPause is how long a replica waits before it stands for election again after it lost the lease.
const candidacyPause = time.Second

// lead has this replica stand for election, and do what the leader does while it leads, until ctx ends. One that loses the lease, as it can't
// reach the API server, goes on serving its proxies.
func (o *operator) lead(ctx context.Context) error {
	for {
		term, err := o.newTerm()
		if err != nil {
			return err
		}
		err = term.Start(ctx)
		if ctx.Err() != nil {
			return nil
		}
		o.Log.Error("this replica does not lead any more, and goes on serving its proxies", "error", err)
		timer := time.NewTimer(candidacyPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// newTerm makes the manager of one term: it waits for the lease, runs the reconcilers, and ends with the lease.
func (o *operator) newTerm() (manager.Manager, error) {
	timeout := shutdownTimeout / 2
	// The names of our controllers are unique; the next term, and two operators in one process, have them again.
	skipNameValidation := true
	term, err := manager.New(o.Config, manager.Options{
		Scheme:                        o.manager.GetScheme(),
		Logger:                        logr.FromSlogHandler(o.Log.Handler()),
		NewCache:                      func(*rest.Config, cache.Options) (cache.Cache, error) { return runningCache{o.manager.GetCache()}, nil },
		MapperProvider:                func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return o.manager.GetRESTMapper(), nil },
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		LeaderElection:                true,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &timeout,
		Controller:                    config.Controller{SkipNameValidation: &skipNameValidation},
	})
	if err != nil {
		return nil, fmt.Errorf("make the leader's manager: %w", err)
	}
	return term, o.addReconcilers(term)
}

// runningCache is a cache that somebody else starts.
type runningCache struct{ cache.Cache }

// Start implements manager.Runnable.
func (runningCache) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// addReconcilers adds what only the leader runs.
func (o *operator) addReconcilers(term manager.Manager) error {
	newCache := func(options cache.Options) (cache.Cache, error) {
		options.Scheme, options.Mapper, options.HTTPClient = term.GetScheme(), term.GetRESTMapper(), term.GetHTTPClient()
		options.DefaultNamespaces = map[string]cache.Config{o.Namespace: {}}
		return cache.New(o.Config, options)
	}
	certManager, err := newCache(cache.Options{})
	if err != nil {
		return fmt.Errorf("make the cache of cert-manager's kinds: %w", err)
	}
	replicas, err := newCache(cache.Options{DefaultLabelSelector: labels.SelectorFromSet(replicaLabels())})
	if err != nil {
		return fmt.Errorf("make the cache of replicas: %w", err)
	}
	shared, direct := o.manager.GetCache(), term.GetAPIReader()
	events := o.manager.GetEventRecorder("tulle")
	applier := func(reader client.Reader) *controllers.Applier {
		return &controllers.Applier{Reader: reader, Direct: direct, Client: term.GetClient(), Events: events}
	}
	var findings controllers.Findings
	collector := o.newCollector()
	reconcilers := []interface {
		SetupWithManager(manager.Manager) error
	}{
		&controllers.Trust{
			Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Applier: applier(certManager), CertManager: certManager, Cache: shared,
		},
		&controllers.Bundle{Namespace: o.Namespace, Materials: o.materials, MaterialsChanged: &o.materialsChanged, Applier: applier(direct)},
		&controllers.Webhooks{
			Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Applier: applier(shared), Cache: shared,
		},
		&controllers.Bootstrap{
			Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Applier: applier(shared), Cache: shared,
		},
		&controllers.Status{
			World: &o.world, Findings: &findings, Fleet: o.fleet(collector), ProxiesChanged: &o.proxiesChanged,
			Installation: o.installation(), Unsupported: o.unsupported, Cache: shared, Client: term.GetClient(), Events: events,
		},
	}
	errs := []error{term.Add(certManager), term.Add(replicas), term.Add(followReplicas{cache: replicas, namespace: o.Namespace, collector: collector})}
	for _, r := range reconcilers {
		errs = append(errs, r.SetupWithManager(term))
	}
	return errors.Join(errs...)
}

// replicaLabels are those of the operator's pods, as config/manager/deployment.yaml and the selectors of its Services have them.
func replicaLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": "manager"}
}

func (o *operator) newCollector() *peers.Collector {
	return &peers.Collector{
		Self: o.PodName, Port: o.peersPort, TLS: o.materials.ReplicaTLS(o.Namespace),
		Changed: o.proxiesChanged.Fire, Log: o.Log.With("part", "peers"),
	}
}

// fleet says what is known of all proxies, in revisions of a snapshot.
func (o *operator) fleet(collector *peers.Collector) func(*model.Snapshot) peers.Fleet {
	return func(snapshot *model.Snapshot) peers.Fleet {
		view := peers.View{Revision: snapshot.Revision(), Meshes: peers.Generations(snapshot)}
		return collector.Fleet(view, o.xds.Proxies())
	}
}

// followReplicas tells the leader's collector of the operator's pods.
type followReplicas struct {
	cache     cache.Cache
	namespace string
	collector *peers.Collector
}

// Start implements manager.Runnable.
func (f followReplicas) Start(ctx context.Context) error {
	informer, err := f.cache.GetInformer(ctx, &corev1.Pod{})
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
	if _, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() }, UpdateFunc: func(any, any) { notify() }, DeleteFunc: func(any) { notify() },
	}); err != nil {
		return fmt.Errorf("watch the operator's own pods: %w", err)
	}
	notify() // also when there are none
	go f.collector.Run(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		var pods corev1.PodList
		if err := f.cache.List(ctx, &pods, client.InNamespace(f.namespace)); err != nil {
			return fmt.Errorf("list the operator's own pods: %w", err)
		}
		f.collector.Follow(ctx, pods.Items)
	}
}

package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/peers"
	"github.com/tulle-mesh/tulle/internal/xds"
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
	certManager, err := o.newCache(cache.Options{})
	if err != nil {
		return fmt.Errorf("make the cache of cert-manager's kinds: %w", err)
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
			Panics: o.panics, Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Applier: applier(certManager), CertManager: certManager, Cache: shared,
		},
		&controllers.Bundle{
			Panics: o.panics, Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Trust: o.xds.Trust, Proxies: allProxies(o.fleet(collector)), Applier: applier(direct),
		},
		&controllers.Webhooks{
			Panics: o.panics, Namespace: o.Namespace, Never: o.model.NeverMeshed(), World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Applier: applier(shared), Cache: shared,
		},
		&controllers.Definitions{
			Panics: o.panics, Namespace: o.Namespace, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Applier: applier(direct), Cache: shared,
		},
		&controllers.Splits{
			Panics: o.panics, World: &o.world, Findings: &findings, TrafficSplits: o.ingest.TrafficSplits, TrafficSplit: o.ingest.TrafficSplit,
			SplitsChanged: &o.splitsChanged, Applier: applier(shared), Cache: shared,
		},
		&controllers.SplitEvents{Panics: o.panics, World: &o.world, TrafficSplits: o.ingest.TrafficSplits, Events: events},
		&controllers.Bootstrap{
			Panics: o.panics, Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &findings, Applier: applier(shared), Cache: shared,
		},
		o.monitors(&findings, applier),
		&controllers.Status{
			Panics: o.panics, Failures: o.failures, Faults: &o.faults, World: &o.world, Findings: &findings, Fleet: o.fleet(collector), ProxiesChanged: &o.proxiesChanged,
			Installation: o.installation(), Unsupported: o.unsupported, Cache: shared, Client: term.GetClient(), Events: events,
			Quiet: o.quiet(), Gauges: &o.gauges,
		},
	}
	errs := []error{term.Add(certManager), term.Add(followReplicas{o, collector})}
	for _, r := range reconcilers {
		errs = append(errs, r.SetupWithManager(term))
	}
	return errors.Join(errs...)
}

// fleet says what is known of all proxies, in revisions of a snapshot.
func (o *operator) fleet(collector *peers.Collector) func(*model.Snapshot) peers.Fleet {
	return func(snapshot *model.Snapshot) peers.Fleet {
		view := peers.View{Revision: snapshot.Revision(), Meshes: peers.Generations(snapshot)}
		return collector.Fleet(view, peers.Own{Proxies: o.xds.Proxies(), Plaintext: o.xds.Plaintext()})
	}
}

// allProxies returns the state of the proxies of all replicas, or an error that names those that don't report.
func allProxies(fleet func(*model.Snapshot) peers.Fleet) func(*model.Snapshot) ([]xds.ProxyState, error) {
	return func(snapshot *model.Snapshot) ([]xds.ProxyState, error) {
		f := fleet(snapshot)
		switch {
		case len(f.Silent) > 0:
			return nil, fmt.Errorf("replicas of the control plane don't report: %s", strings.Join(f.Silent, ", "))
		case f.Incomplete:
			return nil, errors.New("a replica of the control plane has not reported yet")
		}
		return f.Proxies, nil
	}
}

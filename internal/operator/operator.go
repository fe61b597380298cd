package operator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/go-logr/logr"
	"google.golang.org/grpc/credentials"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ingest"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/webhooks"
)

// shutdownTimeout bounds how long the parts may take to end: shorter than the pod's grace period.
const shutdownTimeout = 10 * time.Second

// operator is the parts, put together by Run.
type operator struct {
	Options
	manager   manager.Manager
	client    kubernetes.Interface
	model     model.Config
	materials *identity.Materials
	publisher *compile.Publisher
	ingest    *ingest.Ingester
	xds       *xds.Server
	listening chan struct{}

	world            controllers.World
	findings         controllers.Findings
	materialsChanged controllers.Signal
	proxiesChanged   controllers.Signal
	unsupported      error
}

// Run runs the operator until ctx ends. The error says what it could not start with, or what ended it.
//
// What ends when ctx does, in this order: the reconcilers (and the lease), xDS with the other parts of every
// replica, the informers, the webhooks, metrics and health.
func Run(ctx context.Context, o Options) error {
	op := &operator{Options: o, listening: make(chan struct{})}
	op.model = model.Config{OperatorNamespace: o.Namespace, EnvoyImage: o.EnvoyImage}
	for _, step := range []func() error{
		op.connect, op.makeManager, op.makeDataPath, op.addWebhooks, op.addReconcilers, op.addHealth,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return op.manager.Start(ctx)
}

// connect makes a client and asks the API server for its version.
func (o *operator) connect() error {
	var err error
	if o.client, err = kubernetes.NewForConfig(o.Config); err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	version := o.KubernetesVersion
	if version == "" {
		info, err := o.client.Discovery().ServerVersion()
		if err != nil {
			return fmt.Errorf("ask the API server for its version: %w", err)
		}
		version = info.GitVersion
	}
	if o.unsupported = inject.Supported(version); o.unsupported != nil {
		o.Log.Error("no pod will be injected", "error", o.unsupported)
	}
	return nil
}

// makeManager makes the manager that starts and ends the parts, with the cache of what all of them watch.
func (o *operator) makeManager() error {
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	o.materials = identity.NewMaterials(time.Now, o.Log.With("part", "identity"), o.setTrust, o.reissue, o.materialsChanged.Fire)
	host, port, err := hostPort(o.WebhookAddress)
	if err != nil {
		return fmt.Errorf("webhook address: %w", err)
	}
	byObject := ingest.ByObject()
	maps.Copy(byObject, controllers.ByObject())
	timeout := shutdownTimeout
	// The names of our controllers are unique; two operators in one process are a test.
	skipNameValidation := true
	o.manager, err = manager.New(o.Config, manager.Options{
		Scheme:                        scheme,
		Logger:                        logr.FromSlogHandler(o.Log.Handler()),
		Cache:                         cache.Options{ByObject: byObject},
		Metrics:                       metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress:        o.HealthAddress,
		LeaderElection:                true,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &timeout,
		Controller:                    config.Controller{SkipNameValidation: &skipNameValidation},
		WebhookServer: webhook.NewServer(webhook.Options{Host: host, Port: port, TLSOpts: []func(*tls.Config){
			func(c *tls.Config) {
				c.GetCertificate, c.MinVersion = o.materials.Webhook.GetCertificate, tls.VersionTLS13
			},
		}}),
	})
	if err != nil {
		return fmt.Errorf("make the manager: %w", err)
	}
	return nil
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	return scheme, errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), certmanagerv1.AddToScheme(scheme))
}

// makeDataPath makes what every replica runs to serve its proxies.
func (o *operator) makeDataPath() error {
	log := o.Log.With("part", "xds")
	var err error
	o.xds, err = xds.NewServer(xds.Config{
		Authenticator: identity.NewAuthenticator(identity.TokenReviewer{Client: o.client.AuthenticationV1().TokenReviews()}, pods{&o.world}, time.Now),
		Certificates:  o.materials.Signer,
		MinMinor:      minMinor,
		MaxMinor:      maxMinor,
		Credentials: credentials.NewTLS(&tls.Config{
			GetCertificate: o.materials.ControlPlane.GetCertificate, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		}),
		Registry: o.Registry,
		Log:      log,
	})
	if err != nil {
		return fmt.Errorf("make the xDS server: %w", err)
	}
	o.publisher = compile.NewPublisher(o.xds.Publish, func(ref resource.ScopedRef, err error) {
		o.Log.Error("cannot compile", "part", "compile", "resource", ref.Ref.String(), "pod", ref.Pod, "error", err)
	})
	o.ingest = ingest.New(ingest.Options{
		Cache: o.manager.GetCache(), Builder: model.NewBuilder(o.model), Publish: o.publish,
		Log: logr.FromSlogHandler(o.Log.With("part", "ingest").Handler()),
	})
	watch := &identity.Watch{Client: o.client, Namespace: o.Namespace, Materials: o.materials}
	return errors.Join(o.manager.Add(o.ingest), o.manager.Add(watch), o.manager.Add(everyReplica(o.serveXDS)), o.manager.Add(everyReplica(o.followProxies)))
}

func (o *operator) addWebhooks() error {
	webhooks.Register(o.manager.GetWebhookServer(), webhooks.Options{
		Installation: o.installation(), Model: o.model, Snapshot: o.world.Snapshot,
		Reader: o.manager.GetAPIReader(), Unsupported: o.unsupported,
	})
	return nil
}

// addReconcilers adds what only the leader runs.
func (o *operator) addReconcilers() error {
	certManager, err := cache.New(o.Config, cache.Options{
		Scheme: o.manager.GetScheme(), Mapper: o.manager.GetRESTMapper(), HTTPClient: o.manager.GetHTTPClient(),
		DefaultNamespaces: map[string]cache.Config{o.Namespace: {}},
	})
	if err != nil {
		return fmt.Errorf("make the cache of cert-manager's kinds: %w", err)
	}
	shared, direct := o.manager.GetCache(), o.manager.GetAPIReader()
	events := o.manager.GetEventRecorder("tulle")
	applier := func(reader client.Reader) *controllers.Applier {
		return &controllers.Applier{Reader: reader, Direct: direct, Client: o.manager.GetClient(), Events: events}
	}
	reconcilers := []interface {
		SetupWithManager(manager.Manager) error
	}{
		&controllers.Trust{
			Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &o.findings, Applier: applier(certManager), CertManager: certManager, Cache: shared,
		},
		&controllers.Bundle{
			Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &o.findings, Trust: o.xds.Trust, Applier: applier(direct),
			Proxies: func(*model.Snapshot) ([]xds.ProxyState, error) { return o.xds.Proxies(), nil },
		},
		&controllers.Webhooks{
			Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &o.findings, Applier: applier(shared), Cache: shared,
		},
		&controllers.Bootstrap{
			Namespace: o.Namespace, World: &o.world, Materials: o.materials, MaterialsChanged: &o.materialsChanged,
			Findings: &o.findings, Applier: applier(shared), Cache: shared,
		},
		&controllers.Status{
			World: &o.world, Findings: &o.findings, Proxies: o.xds.Proxies, ProxiesChanged: &o.proxiesChanged,
			Installation: o.installation(), Unsupported: o.unsupported, Cache: shared, Client: o.manager.GetClient(), Events: events,
		},
	}
	errs := []error{o.manager.Add(certManager)}
	for _, r := range reconcilers {
		errs = append(errs, r.SetupWithManager(o.manager))
	}
	return errors.Join(errs...)
}

// addHealth says when the replica lives, and when it can serve: its certificates are there, the first snapshot is published, and
// xDS is served.
func (o *operator) addHealth() error {
	return errors.Join(
		o.manager.AddHealthzCheck("ping", func(*http.Request) error { return nil }),
		o.manager.AddReadyzCheck("certificates", func(*http.Request) error { return o.materials.Ready() }),
		o.manager.AddReadyzCheck("snapshot", closed(o.ingest.Published(), "no snapshot was published yet")),
		o.manager.AddReadyzCheck("xds", closed(o.listening, "xDS is not served yet")),
	)
}

func closed(c <-chan struct{}, otherwise string) func(*http.Request) error {
	return func(*http.Request) error {
		select {
		case <-c:
			return nil
		default:
			return errors.New(otherwise)
		}
	}
}

// reissue has the certificates of this replica's proxies made anew.
func (o *operator) reissue(over time.Duration) { o.xds.Reissue(over) }

// setTrust hands a new trust bundle to the model.
func (o *operator) setTrust(bundle []byte) {
	o.Log.Info("the trust bundle changed", "part", "identity", slog.Int("bytes", len(bundle)))
	o.ingest.SetTrust(bundle)
}

package operator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ingest"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/peers"
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
	dynamic   dynamic.Interface
	model     model.Config
	materials *identity.Materials
	publisher *compile.Publisher
	ingest    *ingest.Ingester
	xds       *xds.Server
	panics    *contain.Panics
	signed    *prometheus.CounterVec
	gauges    controllers.Gauges
	listening chan struct{}
	// told are the messages of the objects that are barred, which only the ingester's goroutine uses.
	told map[string]bool

	// Other replicas: their pods, what they are told and asked, and what the leader knows of them.
	replicas     cache.Cache
	peers        *peers.Server
	sight        *peers.Sight
	newCollector func() *peers.Collector
	known        atomic.Pointer[knownGenerations]
	leading      atomic.Bool
	// seen is when the oldest change was seen of what is about to be sent.
	seen atomic.Pointer[time.Time]

	world            controllers.World
	faults           controllers.Faults
	materialsChanged controllers.Signal
	proxiesChanged   controllers.Signal
	splitsChanged    controllers.Signal
	unsupported      error
}

// Run runs the operator until ctx ends, and Options.DrainDelay more. The error says what it could not start with, or what ended it.
//
// What ends when ctx does, in this order: the reconcilers (and the lease), xDS with the other parts of every
// replica, the informers, the webhooks, metrics and health.
func Run(ctx context.Context, o Options) error {
	op := &operator{Options: o, listening: make(chan struct{}), signed: newSigned()}
	var err error
	if op.panics, err = contain.New(o.Registry, o.Log.With("part", "contain")); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	op.model = model.Config{OperatorNamespace: o.Namespace, Excluded: o.Excluded, EnvoyImage: o.EnvoyImage}
	for _, step := range []func() error{
		op.connect, op.makeManager, op.makeDataPath, op.addMetrics, op.makePeers, op.addWebhooks, op.addHealth,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return op.manager.Start(op.later(ctx))
}

// later returns a context that ends DrainDelay after another.
func (o *operator) later(ctx context.Context) context.Context {
	delayed, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		o.Log.Info("told to end", "in", o.DrainDelay)
		time.AfterFunc(o.DrainDelay, cancel)
	})
	return delayed
}

// connect makes a client and asks the API server for its version.
func (o *operator) connect() error {
	o.Config = rest.CopyConfig(o.Config)
	// A compressed watch holds 40 kB for as long as it is open, and the API server would compress all pods before it sends the first.
	o.Config.DisableCompression = true
	o.Config.Wrap(func(way http.RoundTripper) http.RoundTripper { return impatient{way, silence, o.Log} })
	var err error
	if o.client, err = kubernetes.NewForConfig(o.Config); err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	if o.dynamic, err = dynamic.NewForConfig(o.Config); err != nil {
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
	o.manager, err = manager.New(o.Config, manager.Options{
		Scheme:                  scheme,
		Logger:                  logr.FromSlogHandler(o.Log.Handler()),
		Cache:                   cache.Options{ByObject: byObject, NewInformer: ingest.NewInformer},
		Metrics:                 metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress:  o.HealthAddress,
		PprofBindAddress:        o.PprofAddress,
		GracefulShutdownTimeout: &timeout,
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
	return scheme, errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), certmanagerv1.AddToScheme(scheme),
		apiextensionsv1.AddToScheme(scheme))
}

// makeDataPath makes what every replica runs to serve its proxies.
func (o *operator) makeDataPath() error {
	log := o.Log.With("part", "xds")
	keys := identity.NewKeys(identity.APIServer{Client: o.client.Discovery().RESTClient()}, time.Now, o.Log.With("part", "identity"))
	reviewer := identity.TokenReviewer{Client: o.client.AuthenticationV1().TokenReviews()}
	var err error
	o.xds, err = xds.NewServer(xds.Config{
		Authenticator: identity.NewAuthenticator(keys, reviewer, pods{&o.world}, time.Now),
		Certificates:  signer{o.materials.Signer, o.panics, o.signed},
		MinMinor:      minMinor,
		MaxMinor:      maxMinor,
		Credentials: credentials.NewTLS(&tls.Config{
			GetCertificate: o.materials.ControlPlane.GetCertificate, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		}),
		ConnectionAge: o.ConnectionAge,
		Registry:      o.Registry,
		Log:           log,
		PlaintextTTL:  o.quiet(),
	})
	if err != nil {
		return fmt.Errorf("make the xDS server: %w", err)
	}
	o.publisher = compile.NewPublisher(o.send, o.cannotCompile)
	newBuilder := o.NewBuilder
	if newBuilder == nil {
		newBuilder = func(c model.Config) ingest.Builder { return model.NewBuilder(c) }
	}
	o.ingest = ingest.New(ingest.Options{
		Cache: o.manager.GetCache(), NewBuilder: func() ingest.Builder { return newBuilder(o.model) }, Publish: o.publish,
		Seen:   func(at time.Time) { o.seen.Store(&at) },
		Panics: o.panics, Barred: o.barred, Root: client.ObjectKey{Namespace: o.Namespace, Name: v1alpha1.RootName},
		Log:       logr.FromSlogHandler(o.Log.With("part", "ingest").Handler()),
		Standards: &ingest.Standards{Reader: o.manager.GetAPIReader(), Client: o.dynamic, Unreadable: o.unreadable, TrafficSplits: o.splitsChanged.Fire},
	})
	watch := &identity.Watch{Client: o.client, Namespace: o.Namespace, Materials: o.materials, Panics: o.panics}
	return errors.Join(o.manager.Add(o.ingest), o.manager.Add(watch), o.manager.Add(everyReplica(keys.Run)),
		o.manager.Add(everyReplica(o.sweep)), o.manager.Add(everyReplica(o.serveXDS)), o.manager.Add(everyReplica(o.followProxies)),
		o.manager.Add(manager.RunnableFunc(o.lead))) // starts after the others and ends before them
}

func (o *operator) addWebhooks() error {
	webhooks.Register(o.manager.GetWebhookServer(), webhooks.Options{
		Installation: o.installation(), Model: o.model, Snapshot: o.world.Snapshot,
		Reader: o.manager.GetAPIReader(), Unsupported: o.unsupported, Panics: o.panics,
	})
	return nil
}

// addHealth says when the replica lives, and when it can serve: its certificates are there, the first snapshot is published, xDS is served, and
// no other replica sees more.
func (o *operator) addHealth() error {
	return errors.Join(
		o.manager.AddHealthzCheck("ping", func(*http.Request) error { return nil }),
		o.manager.AddReadyzCheck("certificates", func(*http.Request) error { return o.materials.Ready() }),
		o.manager.AddReadyzCheck("snapshot", closed(o.ingest.Published(), "no snapshot was published yet")),
		o.manager.AddReadyzCheck("xds", closed(o.listening, "xDS is not served yet")),
		o.manager.AddReadyzCheck("sight", func(*http.Request) error { return o.sight.Outdated() }),
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

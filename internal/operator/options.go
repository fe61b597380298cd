// Package operator puts the operator together: informers → model → compile → xDS, webhooks, certificates and reconcilers.
// Nothing is decided here.
package operator

import (
	"cmp"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ingest"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
)

// ControlPlanePort is the port of the Service at which proxies find the control plane.
const ControlPlanePort = 15010

// PeersPort is the port at which replicas ask each other.
const PeersPort = 15011

// The minor versions of Envoy 1 that are served: the pinned one and the two before.
const (
	minMinor = 38
	maxMinor = 40
)

// QuietDefault of Options.PlaintextQuiet.
const QuietDefault = 10 * time.Minute

// ExcludedDefault names the namespaces of Options.Excluded, as ParseExcluded reads them.
const ExcludedDefault = "cert-manager"

// ParseExcluded reads the value of the operator's flag -excluded-namespaces.
func ParseExcluded(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// leaseName is the name of the leader's Lease.
const leaseName = "tulle"

// Options say where the operator runs and what it serves.
type Options struct {
	// Namespace that the operator runs in, which holds the root Mesh.
	Namespace string
	// PodName is the name of this replica's own pod.
	PodName string
	// Image of the operator itself, which also has the init container's program.
	Image string
	// EnvoyImage is the proxy's image unless the root Mesh names one.
	EnvoyImage string
	// Addresses to listen at, as host:port. The host may be empty.
	XDSAddress, WebhookAddress, MetricsAddress, HealthAddress string
	// PprofAddress serves net/http/pprof, for whoever looks for what costs; empty serves it nowhere.
	PprofAddress string
	// PeersAddress is where other replicas ask for this one's proxies. They have the same port at their pods' addresses.
	PeersAddress string
	// ConnectionAge is after how long, give or take a tenth, a proxy is sent off to connect again, so that replicas have equal shares;
	// 30 minutes when zero.
	ConnectionAge time.Duration
	// RegainSight is peers.Regain when zero.
	RegainSight time.Duration
	// DrainDelay is how long everything goes on after Run was told to end: proxies that are then sent off, and pods that are created, find
	// another replica, since the Services have forgotten this one.
	DrainDelay time.Duration
	// PlaintextQuiet is how long nobody must have connected without mTLS before Encrypted says that Strict is safe; zero is QuietDefault.
	PlaintextQuiet time.Duration
	// Config is how to reach the API server.
	Config *rest.Config
	// Excluded are namespaces that are never part of the mesh, besides Kubernetes' own and the operator's: what Tulle needs to start.
	Excluded []string
	// KubernetesVersion is asked of the API server when empty.
	KubernetesVersion string
	// NewBuilder makes the builder of the model; model.NewBuilder when nil. For tests that need one with a bug.
	NewBuilder func(model.Config) ingest.Builder
	// Registry takes the operator's own metrics.
	Registry prometheus.Registerer
	Log      *slog.Logger
}

func (o Options) installation() inject.Installation {
	return inject.Installation{
		InitImage:        o.Image,
		ControlPlaneHost: identity.ServerName(identity.ControlPlaneService, o.Namespace),
		ControlPlanePort: ControlPlanePort,
	}
}

func (o Options) quiet() time.Duration { return cmp.Or(o.PlaintextQuiet, QuietDefault) }

// hostPort splits an address of Options.
func hostPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return host, int(number), err
}

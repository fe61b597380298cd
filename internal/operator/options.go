// Package operator puts the operator together: informers → model → compile → xDS, webhooks, certificates and reconcilers.
// Nothing is decided here.
package operator

import (
	"log/slog"
	"net"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/inject"
)

// ControlPlanePort is the port of the Service at which proxies find the control plane.
const ControlPlanePort = 15010

// The minor versions of Envoy 1 that are served: the pinned one and the two before.
const (
	minMinor = 38
	maxMinor = 40
)

// leaseName is the name of the leader's Lease.
const leaseName = "tulle"

// Options say where the operator runs and what it serves.
type Options struct {
	// Namespace that the operator runs in, which holds the root Mesh.
	Namespace string
	// Image of the operator itself, which also has the init container's program.
	Image string
	// EnvoyImage is the proxy's image unless the root Mesh names one.
	EnvoyImage string
	// Addresses to listen at, as host:port. The host may be empty.
	XDSAddress, WebhookAddress, MetricsAddress, HealthAddress string
	// Config is how to reach the API server.
	Config *rest.Config
	// KubernetesVersion is asked of the API server when empty.
	KubernetesVersion string
	// Registry takes the metrics of xDS.
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

// hostPort splits an address of Options.
func hostPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return host, int(number), err
}

// Command manager is the operator.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/go-logr/logr"

	"github.com/tulle-mesh/tulle/internal/operator"
)

func main() {
	if err := run(os.Args[1:], os.Getenv, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

// run runs the operator until it is told to end.
func run(args []string, getenv func(string) string, out io.Writer) error {
	o, level, err := parse(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	o.Log = slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level}))
	ctrl.SetLogger(logr.FromSlogHandler(o.Log.Handler()))
	klog.SetSlogLogger(o.Log)
	if o.Config, err = ctrl.GetConfig(); err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	o.Registry = metrics.Registry
	return operator.Run(ctrl.SetupSignalHandler(), o)
}

// parse reads flags and environment.
func parse(args []string, getenv func(string) string) (operator.Options, slog.Level, error) {
	o := operator.Options{Namespace: getenv("POD_NAMESPACE"), PodName: getenv("POD_NAME"), Image: getenv("TULLE_IMAGE")}
	var level slog.Level
	flags := flag.NewFlagSet("manager", flag.ContinueOnError)
	flags.StringVar(&o.EnvoyImage, "envoy-image", operator.DefaultEnvoyImage, "image of the proxy, unless the root Mesh names one")
	flags.DurationVar(&o.PlaintextQuiet, "plaintext-quiet", operator.QuietDefault,
		"how long nobody must have connected without mTLS before a Permissive Mesh's condition Encrypted says that Strict is safe")
	flags.StringVar(&o.XDSAddress, "xds-address", fmt.Sprintf(":%d", operator.ControlPlanePort), "address to serve proxies at")
	flags.StringVar(&o.WebhookAddress, "webhook-address", ":9443", "address to serve webhooks at")
	flags.StringVar(&o.MetricsAddress, "metrics-address", ":8080", "address to serve metrics at")
	flags.StringVar(&o.PprofAddress, "pprof-address", "", "address to serve Go's profiles at; empty serves none, and whoever reaches it may read what is in memory, keys included")
	flags.StringVar(&o.PeersAddress, "peers-address", fmt.Sprintf(":%d", operator.PeersPort), "address to serve other replicas at; all have the same port")
	flags.DurationVar(&o.ConnectionAge, "connection-age", 30*time.Minute, "after how long, give or take a tenth, a proxy connects again, to any replica")
	flags.DurationVar(&o.DrainDelay, "drain-delay", 5*time.Second, "how long to go on serving after being told to end, while Services forget this pod")
	flags.StringVar(&o.HealthAddress, "health-address", ":8081", "address to serve /healthz and /readyz at")
	excluded := flags.String("excluded-namespaces", operator.ExcludedDefault, "namespaces, comma-separated, that are never part of the mesh, besides Kubernetes' own and the operator's: those of what Tulle needs to start")
	flags.TextVar(&level, "log-level", slog.LevelInfo, "least level that is logged: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return o, level, err
	}
	o.Excluded = operator.ParseExcluded(*excluded)
	switch {
	case flags.NArg() > 0:
		return o, level, fmt.Errorf("unexpected argument %q: only flags are understood", flags.Arg(0))
	case o.Namespace == "":
		return o, level, errors.New("POD_NAMESPACE is not set: it must name the operator's own namespace")
	case o.PodName == "":
		return o, level, errors.New("POD_NAME is not set: it must name the operator's own pod")
	case o.PlaintextQuiet <= 0:
		return o, level, fmt.Errorf("-plaintext-quiet=%s: it must be longer than 0", o.PlaintextQuiet)
	case o.Image == "":
		return o, level, errors.New("TULLE_IMAGE is not set: it must name the operator's own image, which pods run as an init container")
	}
	return o, level, nil
}

// Command demo shows Tulle at work: a real cluster, Bookinfo, one Mesh, real traffic, counted on both sides.
//
//	demo          brings everything up, measures, prints a report and leaves it running
//	demo install  installs Tulle, and what else the end-to-end tests need
//	demo previous provides the version that the end-to-end tests upgrade from
//	demo metrics  leaves the sample and its Prometheus running, and says how to ask it
//	demo down     removes what the demo brought
//
// Without KUBECONFIG it uses the lab, a one-node Kubernetes on this machine. With KUBECONFIG it uses that cluster and
// needs REGISTRY, a registry that this machine may push to and the cluster may pull from.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	command := "show"
	if len(args) > 0 {
		command = args[0]
	}
	root, err := checkout()
	if err != nil {
		return err
	}
	d := &demo{root: root, console: newConsole(os.Stdout, time.Now)}
	if kubeconfig := os.Getenv("KUBECONFIG"); kubeconfig != "" {
		d.target = &givenCluster{root: root, kubeconfig: kubeconfig, registry: os.Getenv("REGISTRY")}
	} else {
		d.target = &lab{root: root, console: d.console}
	}
	install := []step{
		{"cluster", d.startCluster},
		{"images", d.provideImages},
		{"cert-manager", d.installCertManager},
		{"monitoring", d.installMonitoring},
		{"Tulle", d.installTulle},
	}
	sample := append(install,
		step{"Bookinfo", d.applySample},
		step{"Mesh", d.awaitMesh},
	)
	switch command {
	case "show":
		d.console.heading("Tulle: Bookinfo, one Mesh, real Envoys, on "+d.target.describe(), d.target.intent())
		if err := d.console.run(ctx, append(sample, step{"Prometheus", d.quietPrometheus}, step{"traffic", d.sendTraffic}, step{"evidence", d.collectEvidence})); err != nil {
			return err
		}
		fmt.Println(d.report())
		return d.findings.verdict()
	case "install":
		d.console.heading("Tulle, on "+d.target.describe(), d.target.intent())
		return d.console.run(ctx, append(install, step{"Flagger", d.installFlagger}))
	case "metrics":
		d.console.heading("Tulle's metrics of Bookinfo, on "+d.target.describe(), d.target.intent())
		if err := d.console.run(ctx, append(sample, step{"Prometheus", d.awaitPrometheus})); err != nil {
			return err
		}
		text, err := d.showMetrics(ctx)
		fmt.Println(text)
		return err
	case "previous":
		d.console.heading("Tulle of before, on "+d.target.describe(), "")
		return d.console.run(ctx, []step{{"cluster", d.startCluster}, {"images", d.providePrevious}})
	case "down":
		d.console.heading("Removing the demo from "+d.target.describe(), "")
		return d.console.run(ctx, []step{{"down", d.down}})
	default:
		return fmt.Errorf("unknown command %q: give none, install, metrics, previous or down", command)
	}
}

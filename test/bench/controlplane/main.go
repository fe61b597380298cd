// Command controlplane measures the operator's control plane: its own program, in a process and on a CPU of its own, against a real
// kube-apiserver, etcd and cert-manager, with simulated sidecars on another CPU.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/cluster"
	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/bench/result"
)

// options are what a run is told.
type options struct {
	manager    string
	out        string
	cases      []string
	serverCPU  int
	clientCPU  int
	small, big size
	services   []int
	sidecars   []int
	rounds     int
	changes    int
	rate       int
	scale      int
	timeout    time.Duration
	load       time.Duration
	logs       string
	profiles   string
	flags      []string
}

// size is that of a mesh and of what is connected.
type size struct{ services, sidecars, uses int }

func (s size) String() string {
	return fmt.Sprintf("%d services × %d endpoints, %d sidecars × %d services", s.services, cluster.Endpoints, s.sidecars, s.uses)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := options{}
	flags := flag.NewFlagSet("controlplane", flag.ContinueOnError)
	flags.StringVar(&o.manager, "manager", "bin/manager", "the operator's program")
	flags.StringVar(&o.out, "out", "", "file to write the results to, as JSON")
	flags.StringVar(&o.logs, "logs", "", "directory to keep logs in; none are kept when empty")
	flags.StringVar(&o.profiles, "profiles", "", "directory to write profiles of the operator to, heap and CPU; they cost a little of what is measured")
	flags.IntVar(&o.serverCPU, "server-cpu", 0, "CPU that the operator runs on, alone")
	flags.IntVar(&o.clientCPU, "client-cpu", 1, "CPU of all else: the generator, kube-apiserver, etcd and cert-manager")
	flags.IntVar(&o.rounds, "rounds", 3, "how often the first configuration is measured, each time of a fresh operator")
	flags.IntVar(&o.changes, "changes", 200, "how many changes of each kind are measured, one at a time")
	flags.IntVar(&o.rate, "rate", 50, "endpoint changes per second under load")
	flags.DurationVar(&o.load, "load", 5*time.Minute, "how long the changes under load go on")
	flags.DurationVar(&o.timeout, "timeout", 45*time.Minute, "when the run is given up; what was measured until then is written")
	cases := flags.String("cases", "first,change,load,growth", "what is measured: first configuration, single changes, load with reconnects, growth")
	flags.IntVar(&o.scale, "scale", 1, "divide all sizes of a mesh by this: 1 is what the goals are for")
	manager := flags.String("manager-flags", "", "further flags of the operator, separated by spaces")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.cases, o.flags = strings.Split(*cases, ","), strings.Fields(*manager)
	down := func(n, least int) int { return max(least, n/o.scale) }
	// A mesh grows by whole namespaces.
	services := func(n, least int) int { return max(least, down(n, 1)/100*100) }
	o.small = size{services(1000, 100), down(100, 2), 10}
	o.big = size{services(10_000, 200), down(2000, 5), 20}
	o.services = slices.Compact([]int{services(100, 100), o.small.services, o.big.services})
	o.sidecars = slices.Compact([]int{down(10, 1), down(100, 2), down(1000, 4), o.big.sidecars, down(5000, 8)})
	return &o, nil
}

func (o *options) does(name string) bool { return slices.Contains(o.cases, name) }

// bench is a run.
type bench struct {
	*options
	run      *result.Run
	cluster  *cluster.Cluster
	manager  *cluster.Manager
	children map[string][]int
	// unready are the Services whose last endpoint is not ready.
	unready map[int]bool
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	dir := o.logs
	if dir == "" {
		if dir, err = os.MkdirTemp("", "tulle-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	if o.manager, err = filepath.Abs(o.manager); err != nil {
		return err
	}
	b := &bench{options: o, run: result.New("control plane"), unready: map[int]bool{}}
	b.run.Condition("the operator alone on CPU %d; the generator, kube-apiserver, etcd and cert-manager on CPU %d", o.serverCPU, o.clientCPU)
	b.run.Condition("etcd writes without fsync: the write's return, from which receipts are timed, does not wait for a disk")
	if o.scale > 1 {
		b.run.Condition("sizes divided by %d: a trial, which the goals are not for", o.scale)
	}
	b.cluster, err = cluster.Start(dir)
	if err == nil {
		err = b.measure(ctx)
	}
	if b.manager != nil {
		err = errors.Join(err, b.manager.Stop())
	}
	if b.cluster != nil {
		err = errors.Join(err, b.cluster.Stop())
	}
	fmt.Println(b.run.Table())
	if o.out != "" {
		err = errors.Join(err, b.run.Write(o.out))
	}
	return err
}

// measure goes through the sizes, from small to large: the mesh only grows.
func (b *bench) measure(ctx context.Context) error {
	sizes := b.services
	if !b.does("load") && !b.does("growth") {
		sizes = []int{b.small.services}
	}
	for _, services := range sizes {
		if services < b.small.services && !b.does("growth") || services > b.small.services && services < b.big.services {
			continue
		}
		if err := b.grow(ctx, services); err != nil {
			return err
		}
		if services == b.small.services {
			if err := errors.Join(b.step(ctx, "first", b.first), b.step(ctx, "change", b.single)); err != nil {
				return err
			}
		}
		if err := b.step(ctx, "growth", b.growServices); err != nil {
			return err
		}
		if services == b.big.services {
			if err := errors.Join(b.step(ctx, "load", b.underLoad), b.step(ctx, "growth", b.growSidecars)); err != nil {
				return err
			}
		}
	}
	return nil
}

// step measures a case, if it was asked for.
func (b *bench) step(ctx context.Context, name string, f func(context.Context) error) error {
	if !b.does(name) || ctx.Err() != nil {
		return ctx.Err()
	}
	b.say("%s, %d services", name, b.cluster.Services())
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// grow makes the mesh larger, on all CPUs and without an operator, and starts a new one.
func (b *bench) grow(ctx context.Context, services int) error {
	if b.manager != nil {
		err := b.manager.Stop()
		if b.manager = nil; err != nil {
			return err
		}
	}
	all := []int{b.serverCPU, b.clientCPU}
	if err := b.pin(all); err != nil {
		return err
	}
	began := time.Now()
	if err := b.cluster.Grow(ctx, services); err != nil {
		return err
	}
	b.say("%d services with %d pods each after %.1f s", services, cluster.Endpoints, time.Since(began).Seconds())
	return b.restart(ctx)
}

// pin has everything but the operator run on some CPUs.
func (b *bench) pin(cpus []int) error {
	children, err := process.Children()
	if err != nil {
		return err
	}
	b.children = children
	errs := []error{process.Pin(os.Getpid(), cpus)}
	for name, pids := range children {
		for _, pid := range pids {
			if name != filepath.Base(b.options.manager) {
				errs = append(errs, process.Pin(pid, cpus))
			}
		}
	}
	return errors.Join(errs...)
}

// restart starts a fresh operator on its CPU, moves all else to the other, and waits until it is quiet.
func (b *bench) restart(ctx context.Context) error {
	if b.manager != nil {
		err := b.manager.Stop()
		if b.manager = nil; err != nil {
			return err
		}
	}
	var err error
	began := time.Now()
	if b.manager, err = b.cluster.StartManager(ctx, b.options.manager, b.serverCPU, b.flags...); err != nil {
		return err
	}
	took := time.Since(began)
	if err := errors.Join(b.pin([]int{b.clientCPU}), b.manager.Quiet(ctx)); err != nil {
		return err
	}
	used, err := process.CPU(b.manager.Pid)
	if err != nil {
		return err
	}
	now, peak, err := process.RSS(b.manager.Pid)
	b.heap(ctx, "before")
	b.say("the operator was ready after %.1f s, and quiet after %.2f s of CPU, with %d MB (peak %d MB)", took.Seconds(), used.Seconds(), now>>20, peak>>20)
	return err
}

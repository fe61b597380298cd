package cluster

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/tulle-mesh/tulle/test/lab/internal/component"
	"github.com/tulle-mesh/tulle/test/lab/internal/plan"
	"github.com/tulle-mesh/tulle/test/lab/internal/supervise"
)

// Report writes what there is of a lab, for people.
func Report(ctx context.Context, dir Dir, out io.Writer) error {
	state, err := dir.load()
	if err != nil {
		return err
	}
	if state == nil {
		fmt.Fprintf(out, "no lab in %s\n", dir)
		return nil
	}
	paths := plan.Paths{State: string(dir)}
	if !state.live() {
		fmt.Fprintf(out, "a lab was left in %s, in phase %q; nothing of it runs. `lab down` removes what is left, `lab up` starts anew.\nlogs: %s\n", dir, state.Phase, paths.Logs())
		return nil
	}
	status, err := dir.status()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "phase:      %s\nKUBECONFIG: %s\nAPI server: https://%s\nlogs:       %s\ndual-stack: %t\nfirst process: %d\n\n",
		state.Phase, paths.Kubeconfig(), state.APIServer, paths.Logs(), state.IPv6, state.Init.PID)
	if status.Error != "" {
		fmt.Fprintf(out, "failed: %s\n\n", status.Error)
	}
	if err := writeProcesses(out, status); err != nil {
		return err
	}
	api := kubectl{dir: dir, program: filepath.Join(state.Components["kubernetes"], "kubectl")}
	nodes, err := api.run(ctx, nil, "get", "nodes", "--output=wide", "--request-timeout=5s")
	if err != nil {
		return err
	}
	pods, err := api.run(ctx, nil, "get", "pods", "--all-namespaces", "--output=wide", "--request-timeout=5s")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n%s\n%s", nodes, pods)
	return err
}

func writeProcesses(out io.Writer, status supervise.Status) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROGRAM\tSTATE\tRESTARTS\tLAST EXIT")
	for _, process := range status.Processes {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", process.Name, process.State, process.Restarts, process.LastExit)
	}
	return table.Flush()
}

// Environment returns shell lines that point a shell's tools to a running lab.
func Environment(dir Dir) ([]string, error) {
	state, err := dir.running()
	if err != nil {
		return nil, err
	}
	export := func(name, value string) string { return "export " + name + "=" + quote(value) }
	paths := plan.Paths{State: string(dir)}
	lines := []string{
		export("KUBECONFIG", paths.Kubeconfig()),
		// What kubectl remembers of a lab must not outlive it.
		export("KUBECACHEDIR", paths.KubectlCache()),
		export("KUBEBUILDER_ASSETS", state.Components["apiserver"]),
		export("TULLE_CERTMANAGER", state.Components["certmanager"]),
		export("TULLE_ENVOY_IMAGE", EnvoyImage),
	}
	for _, version := range component.EnvoyVersions() {
		minor := version[:strings.LastIndex(version, ".")]
		name := "TULLE_ENVOY_" + strings.ReplaceAll(minor, ".", "_")
		lines = append(lines, export(name, filepath.Join(state.Components["envoy-"+version], "envoy")))
	}
	return append(lines,
		export("TULLE_ENVOY", filepath.Join(state.Components["envoy-"+component.EnvoyVersion], "envoy")),
		"export PATH="+quote(state.Components["kubernetes"])+`:"$PATH"`), nil
}

// quote makes a value one word for a POSIX shell.
func quote(value string) string {
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

// Command lab builds, starts and removes a real one-node Kubernetes cluster
// in namespaces of its own. See docs/lab.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	if err == nil {
		return
	}
	// A command inside the lab has itself said what is wrong.
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exitStatus(exit))
	}
	fmt.Fprintln(os.Stderr, "lab: "+err.Error())
	os.Exit(1)
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "lab",
		Short:         "A real one-node Kubernetes cluster in namespaces of its own",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(buildCommand(), pathCommand(), imageCommand())
	cmd.AddCommand(clusterCommands()...)
	return cmd
}

// exitStatus is that of the command, as a shell would report it.
func exitStatus(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

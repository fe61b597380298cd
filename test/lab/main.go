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
	var status exitStatus
	if errors.As(err, &status) {
		os.Exit(int(status))
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

// exitStatus is the error of a command inside the lab that did not end well.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// passExitStatus turns the end of a command into the status that a shell
// would report.
func passExitStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(exit.ExitCode())
}

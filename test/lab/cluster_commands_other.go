//go:build !linux

package main

import (
	"context"
	"errors"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
)

// clusterCommands say why there are none here.
func clusterCommands() []*cobra.Command {
	var commands []*cobra.Command
	for _, name := range []string{"up", "down", "status", "env", "exec", "load"} {
		commands = append(commands, &cobra.Command{
			Use:                name,
			Short:              "(needs Linux)",
			DisableFlagParsing: true,
			RunE:               func(*cobra.Command, []string) error { return errNoLinux() },
		})
	}
	return commands
}

func ensureSystem(context.Context, *progress.Reporter) error { return errNoLinux() }

func errNoLinux() error {
	return errors.New("the lab runs Kubernetes' Linux programs in Linux namespaces, and this is " + runtime.GOOS +
		": run it in a Linux virtual machine, or set KUBECONFIG to a cluster of your own")
}

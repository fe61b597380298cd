package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/test/lab/internal/cluster"
	"github.com/tulle-mesh/tulle/test/lab/internal/host"
	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
	"github.com/tulle-mesh/tulle/test/lab/internal/supervise"
)

// clusterCommands are those that need Linux.
func clusterCommands() []*cobra.Command {
	return append([]*cobra.Command{
		upCommand(), downCommand(), statusCommand(), envCommand(), execCommand(), loadCommand(),
	}, innerCommands()...)
}

func ensureSystem(ctx context.Context, report *progress.Reporter) error {
	return host.EnsurePrograms(ctx, report)
}

func upCommand() *cobra.Command {
	var ipv4 bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab and wait until it is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := host.CheckRoot(); err != nil {
				return err
			}
			dir, err := stateFolder()
			if err != nil {
				return err
			}
			report := progress.New(os.Stderr)
			cache, err := openCache(report)
			if err != nil {
				return err
			}
			err = cluster.Up(cmd.Context(), cluster.Options{Dir: dir, Cache: cache, Report: report, IPv4Only: ipv4})
			if cmd.Context().Err() != nil {
				return interrupted(dir, report)
			}
			if err != nil {
				return err
			}
			report.Printf("the lab is ready. Use it: eval \"$(%s env)\"; remove it: %s down", os.Args[0], os.Args[0])
			return nil
		},
	}
	cmd.Flags().BoolVar(&ipv4, "ipv4", false, "IPv4 only, as on a machine without IPv6")
	return cmd
}

// interrupted removes what an interrupted start has made.
func interrupted(dir cluster.Dir, report *progress.Reporter) error {
	report.Printf("interrupted")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return errors.Join(errors.New("the start was interrupted"), cluster.Down(ctx, dir, report))
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the lab with every trace of it; what is built stays in the cache",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := host.CheckRoot(); err != nil {
				return err
			}
			dir, err := stateFolder()
			if err != nil {
				return err
			}
			return cluster.Down(cmd.Context(), dir, progress.New(os.Stderr))
		},
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what runs, and where its logs are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateFolder()
			if err != nil {
				return err
			}
			return cluster.Report(cmd.Context(), dir, cmd.OutOrStdout())
		},
	}
}

func envCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: `Print shell lines that make the lab the current cluster: eval "$(lab env)"`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateFolder()
			if err != nil {
				return err
			}
			lines, err := cluster.Environment(dir)
			if err != nil {
				return err
			}
			for _, line := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return nil
		},
	}
}

func execCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "exec -- command [argument...]",
		Short: "Run a command inside the lab's namespaces, as on its node",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := host.CheckRoot(); err != nil {
				return err
			}
			dir, err := stateFolder()
			if err != nil {
				return err
			}
			return passExitStatus(cluster.Exec(cmd.Context(), dir, args))
		},
	}
}

func loadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "load archive...",
		Short: "Import image archives into the lab",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := host.CheckRoot(); err != nil {
				return err
			}
			dir, err := stateFolder()
			if err != nil {
				return err
			}
			return cluster.Load(cmd.Context(), dir, args)
		},
	}
}

// innerCommands are what the lab runs itself as, in its namespaces.
func innerCommands() []*cobra.Command {
	return []*cobra.Command{
		{
			Use: "init spec", Short: "The node's first process", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return supervise.Main(args[0]) },
		},
		{
			Use: "enter -- command", Short: "Join the lab's namespaces", Hidden: true, Args: cobra.MinimumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return cluster.Become(args) },
		},
		{
			Use: "preflight folder", Short: "Try out kernel features", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(host.Preflight(args[0]))
			},
		},
		{
			Use: "import archive...", Short: "Import images on the node", Hidden: true,
			RunE: func(cmd *cobra.Command, args []string) error { return cluster.Import(cmd.Context(), args) },
		},
	}
}

// stateFolder is the lab's folder.
func stateFolder() (cluster.Dir, error) {
	if dir := os.Getenv("TULLE_STATE"); dir != "" {
		return cluster.OpenDir(dir)
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no folder for the lab: %w (set TULLE_STATE)", err)
		}
		dir = home + "/.local/state"
	}
	return cluster.OpenDir(dir + "/tulle/lab")
}

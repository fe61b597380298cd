// Package cli is the command-line tool, also known to kubectl as a plugin.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes. All but the first are stable, and documented in docs/cli.md.
const (
	exitOK      = 0
	exitChanges = 1 // only with --exit-code
	exitError   = 2
	exitRefused = 3 // the plan was made, and something in it would be refused
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// exit ends a command with a code and without a message.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Run runs the program of the given path with the given arguments, and returns its exit code.
func Run(ctx context.Context, program string, args []string, s Streams) int {
	root := command(program, s)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exit
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(s.Err, "%s: %v\n", displayName(program), err)
	return exitError
}

// displayName is what people type to run the program.
func displayName(program string) string {
	name := strings.TrimSuffix(filepath.Base(program), ".exe")
	if plugin, ok := strings.CutPrefix(name, "kubectl-"); ok {
		return "kubectl " + plugin
	}
	return name
}

func command(program string, s Streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "tulle",
		Short:         "Look at a Tulle service mesh",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: displayName(program)},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.AddCommand(planCommand(displayName(program), s), versionCommand(s))
	return root
}

func versionCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.Out, version(debug.ReadBuildInfo()))
			return err
		},
	}
}

// version is what the Go toolchain recorded: a release's tag, or the commit that was built.
func version(info *debug.BuildInfo, ok bool) string {
	if !ok {
		return "unknown"
	}
	var commit, modified string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = ", with changes"
		}
	}
	if commit == "" {
		return info.Main.Version
	}
	return fmt.Sprintf("%s (commit %s%s)", info.Main.Version, commit, modified)
}

// Command tulle is the command-line tool; as kubectl-tulle it is a plugin of kubectl.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tulle-mesh/tulle/internal/cli"
)

func main() { os.Exit(run()) }

// run ends early, without a plan, on SIGINT and SIGTERM.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Run(ctx, os.Args[0], os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}

// Package program runs the small programs of the tests and the demo.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Main runs a program with the process's arguments and standard output, and ends the process. The context ends with SIGINT or SIGTERM. An error is
// written to standard error, after the program's name, and ends the process with 1.
func Main(name string, run func(ctx context.Context, args []string, out io.Writer) error) {
	os.Exit(exit(name, run, os.Args[1:], os.Stdout, os.Stderr))
}

func exit(name string, run func(context.Context, []string, io.Writer) error, args []string, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, args, out)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintln(errs, name+": "+err.Error())
	return 1
}

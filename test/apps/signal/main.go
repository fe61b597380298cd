// Command signal sends a signal to the one process whose command line holds a text, as a person on the node would:
//
//	signal -process reviews-1.shop STOP
//
// It runs on Linux, and needs the node's process namespace and CAP_KILL.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "signal: "+err.Error())
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("signal", flag.ContinueOnError)
	process := flags.String("process", "", "a `text` in the command line of the process")
	if err := flags.Parse(args); err != nil {
		return err
	}
	signals := map[string]syscall.Signal{"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}
	signal, ok := signals[flags.Arg(0)]
	if *process == "" || flags.NArg() != 1 || !ok {
		return fmt.Errorf("give -process and one of the signals STOP and CONT, not %q", flags.Args())
	}
	pids, err := find("/proc", *process)
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		return fmt.Errorf("the processes %v have %q in their command line, want just one", pids, *process)
	}
	return syscall.Kill(pids[0], signal)
}

// find returns the processes, but for this one, whose command line holds a text.
func find(proc, text string) ([]int, error) {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		if bytes.Contains(line, []byte(text)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Command trouble makes the trouble that a node can have. It runs on Linux, as root in the node's own namespaces.
//
//	trouble kill -container 0123abcd
//	trouble cut -between 10.244.0.7 -and 10.96.0.1 -and 10.244.0.9
//	trouble mend
//
// kill ends a container's processes by SIGKILL. cut drops all packets between one address and some others, says "cut" when it does, and goes
// on until it is told to end, by SIGTERM or, in the same container, by mend. It needs CAP_KILL and the node's processes, or CAP_NET_ADMIN and the
// node's network.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/tulle-mesh/tulle/test/apps/program"
)

func main() { program.Main("trouble", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("say which trouble: kill, cut or mend")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	switch args[0] {
	case "kill":
		container := flags.String("container", "", "`ID` of the container")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return kill("/proc", *container)
	case "cut":
		var between netip.Addr
		var others []netip.Addr
		flags.TextVar(&between, "between", netip.Addr{}, "`address` on one side")
		flags.Func("and", "`address` on the other side; may be repeated", func(text string) error {
			address, err := netip.ParseAddr(text)
			others = append(others, address)
			return err
		})
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		mend, err := cut(between, others)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "cut")
		<-ctx.Done()
		return mend()
	case "mend":
		return syscall.Kill(1, syscall.SIGTERM)
	}
	return fmt.Errorf("unknown trouble %q", args[0])
}

// kill ends the processes whose control group is a container's.
func kill(proc, container string) error {
	if container == "" {
		return errors.New("name the container")
	}
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "cgroup"))
	if err != nil {
		return err
	}
	killed := 0
	for _, file := range files {
		groups, err := os.ReadFile(file) //nolint:gosec // of /proc
		if err != nil || !strings.Contains(string(groups), container) {
			continue // a process may have ended meanwhile
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
		killed++
	}
	if killed == 0 {
		return fmt.Errorf("no process is of container %s", container)
	}
	return nil
}

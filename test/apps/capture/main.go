// Command capture listens on all interfaces of its network namespace, as a curious neighbour on the node would, and
// counts what it sees: packets and bytes of TCP payload from and to some addresses, and how often texts occur in them.
//
//	capture -for 10s -address 10.244.0.7 -text marker
//	capture -stop
//
// It prints a line, "listening", as soon as it misses nothing, and a line of JSON with its counts at the end, which is
// when the time is up or, in the same container, -stop is called. It runs on Linux, and needs CAP_NET_RAW and the
// node's network namespace.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/test/apps/program"
)

func main() { program.Main("capture", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("capture", flag.ContinueOnError)
	stop := flags.Bool("stop", false, "end the capture that is the first process of this container")
	length := flags.Duration("for", 10*time.Second, "how long to listen")
	c := &counter{addresses: map[netip.Addr]bool{}, Texts: map[string]int64{}}
	flags.Func("address", "an `IP` whose packets count; may be repeated; without any, all count", func(text string) error {
		address, err := netip.ParseAddr(text)
		c.addresses[address] = true
		return err
	})
	flags.Func("text", "`text` to look for; may be repeated", func(text string) error {
		if text == "" {
			return fmt.Errorf("give some text")
		}
		c.Texts[text] = 0
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *stop {
		return syscall.Kill(1, syscall.SIGTERM)
	}
	ctx, cancel := context.WithTimeout(ctx, *length)
	defer cancel()
	if err := listen(ctx, c, func() { fmt.Fprintln(out, "listening") }); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(c)
}

// Command tulle-init is a pod's init container: it redirects the pod's TCP traffic through its proxy (see package
// redirect), says so in one line, and exits. It needs the capability NET_ADMIN and nothing else.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/redirect"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tulle-init:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	config, err := parse(args)
	if err != nil {
		return err
	}
	result, err := redirect.Apply(config)
	if err != nil {
		return err
	}
	families := "IPv4"
	if result.IPv6 {
		families = "IPv4 and IPv6"
	}
	_, err = fmt.Fprintf(out, "tulle-init: TCP of this pod goes through its proxy: %d rules in nftables table inet %s, read back; %s\n",
		result.Rules, redirect.TableName, families)
	return err
}

func parse(args []string) (redirect.Config, error) {
	var c redirect.Config
	flags := flag.NewFlagSet("tulle-init", flag.ContinueOnError)
	flags.Func("exclude-inbound-ports", "ports of the pod, comma-separated, that are reached without the proxy", ports(&c.ExcludeInbound))
	flags.Func("exclude-outbound-ports", "destination ports, comma-separated, that the pod reaches without the proxy", ports(&c.ExcludeOutbound))
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q: only flags are understood", flags.Arg(0))
	}
	return c, nil
}

// ports parses a comma-separated list of ports into dst.
func ports(dst *[]uint16) func(string) error {
	return func(list string) error {
		for item := range strings.SplitSeq(list, ",") {
			port, err := strconv.ParseUint(strings.TrimSpace(item), 10, 16)
			if err != nil || port == 0 {
				return fmt.Errorf("port %q: must be a number from 1 to 65535", item)
			}
			*dst = append(*dst, uint16(port))
		}
		return nil
	}
}

// Command fortio is the load generator and the server of the data plane's benchmark, made of fortio's own parts. It is a module of its own, so
// that what fortio needs changes no dependency of the product.
//
// It is not fortio's own program, since that one counts nothing at its server, speaks HTTP/2 over TLS only, and rounds latencies to buckets.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"syscall"
	"time"

	"fortio.org/fortio/log"
)

// Report is what a load prints, as JSON.
type Report struct {
	// Sent counts all requests, also those that open the connections before the time is taken. Failed are those without a good answer.
	Sent   int64 `json:"sent"`
	Failed int64 `json:"failed"`
	// Rate is in requests a second.
	Rate float64 `json:"rate"`
	// P50, P90 and P99 are quantiles of the time that requests took, in milliseconds.
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	// Connections that were opened. More than there are callers means that one broke, and was opened again.
	Connections int64 `json:"connections"`
	// CPU is what this process used, of one CPU.
	CPU float64 `json:"cpu"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fortio:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	log.SetLogLevelQuiet(log.Critical) // what fails is counted
	if len(args) == 0 {
		return fmt.Errorf("say serve or load")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	switch args[0] {
	case "serve":
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return serve()
	case "load":
		o := loadOptions{}
		flags.StringVar(&o.protocol, "protocol", "http1", "http1, http2, grpc or tcp")
		flags.StringVar(&o.address, "address", "", "address and port of the server")
		flags.Float64Var(&o.rate, "rate", 0, "requests a second; 0 is as many as there can be")
		flags.IntVar(&o.callers, "callers", 8, "how many callers there are, each with a connection of its own")
		flags.DurationVar(&o.duration, "duration", 3*time.Second, "how long it goes on")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		report, err := load(o)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(report)
	default:
		return fmt.Errorf("%s: say serve or load", args[0])
	}
}

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

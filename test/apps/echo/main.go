// Command echo is the tests' application in a pod: `echo serve` is a backend, `echo call` a client (see package echo).
//
//	echo serve -name=reviews -version=v1 -http=8080 -tcp=9000 -greeting=9001
//	echo call -protocol=grpc -n=100 -c=4 10.96.0.5:80
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/test/apps/program"
	"github.com/tulle-mesh/tulle/test/echo"
)

func main() { program.Main("echo", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "serve" {
		config, err := echo.ParseConfig(args[1:])
		if err != nil {
			return err
		}
		return echo.Run(ctx, config)
	}
	if len(args) > 0 && args[0] == "call" {
		return call(ctx, args[1:], out)
	}
	return fmt.Errorf("say serve or call, got %q", args)
}

// call sends requests and prints each answer as a line of JSON. It fails when one failed.
func call(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("echo call", flag.ContinueOnError)
	protocol := flags.String("protocol", string(echo.HTTP1), fmt.Sprintf("one of %v", echo.Protocols()))
	n := flags.Int("n", 1, "number of requests")
	concurrency := flags.Int("c", 1, "requests at a time")
	timeout := flags.Duration("timeout", 10*time.Second, "limit for each")
	keepAlive := flags.Bool("keepalive", false, "share connections")
	var r echo.Request
	flags.StringVar(&r.Path, "path", "/", "path and query")
	flags.StringVar(&r.Host, "host", "", "host or authority")
	flags.StringVar(&r.Body, "body", "", "body or message")
	r.Header = map[string]string{}
	flags.Func("header", "name=value; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q: must be name=value", s)
		}
		r.Header[name] = value
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("name one address:port, got %q", flags.Args())
	}
	r.Address = flags.Arg(0)
	client := echo.NewClient(echo.ClientOptions{Dial: new(net.Dialer).DialContext, KeepAlive: *keepAlive})
	defer client.Close()
	return repeat(*n, *concurrency, out, func() (*echo.Response, error) {
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		return client.Call(ctx, echo.Protocol(*protocol), r)
	})
}

func repeat(n, concurrency int, out io.Writer, send func() (*echo.Response, error)) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	encoder := json.NewEncoder(out)
	slots := make(chan struct{}, max(concurrency, 1))
	for range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			resp, err := send()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				fmt.Fprintln(os.Stderr, "echo:", err)
				return
			}
			if err := encoder.Encode(resp); err != nil {
				failed++
			}
		})
	}
	wg.Wait()
	if failed > 0 {
		return fmt.Errorf("%d of %d calls failed", failed, n)
	}
	return nil
}

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// headers is a flag that may be given several times.
type headers struct{ http.Header }

// Set implements flag.Value.
func (h headers) Set(text string) error {
	name, value, found := strings.Cut(text, ":")
	if !found {
		return fmt.Errorf("give a header as name: value")
	}
	h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

// String implements flag.Value.
func (h headers) String() string { return "" }

// runGet sends one request and fails on any answer but a 2xx. So it also serves as a Job and as an init container.
func runGet(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	header := headers{http.Header{}}
	flags.Var(header, "header", "`name: value` of a header; may be repeated")
	method := flags.String("method", http.MethodGet, "`method` of the request")
	timeout := flags.Duration("timeout", 10*time.Second, "how long to wait for the answer")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("get: give one URL")
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	return fetch(ctx, *method, flags.Arg(0), header.Header, out)
}

// runLoad drives the load generator that runs in the same pod. Without -for, the run goes on after it has returned.
func runLoad(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	server := flags.String("server", "http://127.0.0.1:9080", "`URL` of the load generator")
	stop := flags.Bool("stop", false, "start none: end the current run and print its report")
	query := planFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *stop {
		return fetch(ctx, http.MethodDelete, *server+"/run", nil, out)
	}
	values := query()
	if err := fetch(ctx, http.MethodPut, *server+"/run?"+values.Encode(), nil, out); err != nil {
		return err
	}
	if values.Get("for") == "0s" {
		return nil
	}
	return fetch(ctx, http.MethodGet, *server+"/report?wait", nil, out)
}

func fetch(ctx context.Context, method, url string, header http.Header, out io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	if header != nil {
		request.Header = header
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s", method, url, response.Status)
	}
	return nil
}

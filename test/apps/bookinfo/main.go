// Command bookinfo is Tulle's sample application: a page about a book whose parts come from several services, and a
// load generator that counts what it gets.
//
//	productpage ─▶ details
//	            └▶ reviews v1 (no stars), v2 (black stars), v3 (red stars)
//	                       └▶ ratings ─▶ datastore (TCP, a line protocol)
//
// Each service is a subcommand of this one static program.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tulle-mesh/tulle/test/apps/program"
)

// command is a subcommand. It returns when its work is done or ctx ends.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, out io.Writer) error
}

func commands() []command {
	return []command{
		{"productpage", "the page and its JSON", runProductpage},
		{"details", "what is printed on the book", runDetails},
		{"reviews", "reviews, with stars from version v2 on", runReviews},
		{"ratings", "stars, read from the data store", runRatings},
		{"datastore", "the data store (TCP)", runDatastore},
		{"loadgen", "send requests at a fixed rate and count the answers", runLoadgen},
		{"load", "let the load generator in this pod start or end a run, and print the report", runLoad},
		{"get", "send one request and print the answer", runGet},
	}
}

func main() { program.Main("bookinfo", run) }

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name == args[0] {
				return c.run(ctx, args[1:], out)
			}
		}
	}
	message := "name one of the commands:"
	for _, c := range commands() {
		message += fmt.Sprintf("\n  %-12s %s", c.name, c.summary)
	}
	return errors.New(message)
}

// Command esstandin runs a stand-in Elasticsearch for benchmarks and for tests of
// whole processes. It prints one line that holds address=HOST:PORT to standard
// error when it listens, and ends on SIGTERM or SIGINT.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/standin"
)

func main() { standin.Run("esstandin", run) }

func run(ctx context.Context, args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("esstandin", flag.ContinueOnError)
	fs.SetOutput(stderr)
	address := fs.String("address", "127.0.0.1:0", "`HOST:PORT` to listen on")
	discard := fs.Bool("discard", false, "answer every bulk as created, check and keep nothing")
	delay := fs.Duration("delay", 0, "how long every bulk takes")
	openSearch := fs.Bool("opensearch", false, "answer as OpenSearch does")
	authorization := fs.String("authorization", "", "the only right `VALUE` of that header; empty: any")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	s := esstandin.New(esstandin.Config{
		Discard: *discard, Delay: *delay, OpenSearch: *openSearch, Authorization: *authorization,
		Log: slog.New(slog.NewTextHandler(stderr, nil)),
	})
	return standin.Serve(ctx, "esstandin", *address, s, stderr)
}

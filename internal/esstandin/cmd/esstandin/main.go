// Command esstandin runs a stand-in Elasticsearch for benchmarks and for tests of
// whole processes. It prints one line that holds address=HOST:PORT to standard
// error when it listens, and ends on SIGTERM or SIGINT.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"vtsidecar/internal/esstandin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "esstandin:", err)
		os.Exit(1)
	}
}

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
	l, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Fprintf(stderr, "esstandin: listening address=%s\n", l.Addr())

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.Close() // first: what hangs would hold the shutdown
	drain, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = srv.Shutdown(drain)
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

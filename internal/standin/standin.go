// Package standin is what stand-ins of something outside share: it runs one as a
// program of its own, for demonstrations, benchmarks and tests of whole processes,
// and lets its answers be late.
//
// Promise: when it listens its address is on stderr, in one line; and when it is
// told to stop it does so soon, whatever answers hang.
package standin

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
)

// drain is how long requests may take to end when the program does.
const drain = 5 * time.Second

// Handler is a stand-in.
type Handler interface {
	http.Handler
	Close() // ends the answers that hang
}

// Run runs a program's run until SIGTERM or SIGINT. What went wrong is on stderr then;
// who started it goes by the line with its address.
func Run(name string, run func(ctx context.Context, args []string, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
}

// Serve answers at an address until ctx ends. When it listens it says so in one
// line on stderr that holds name and address=HOST:PORT.
func Serve(ctx context.Context, name, address string, h Handler, stderr io.Writer) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Fprintf(stderr, "%s: listening address=%s\n", name, l.Addr())

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	h.Close() // first: what hangs would hold the shutdown
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	err = srv.Shutdown(ctx)
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// Pause lets a time pass, or as much of it as there is until done is closed; false:
// the client is gone.
func Pause(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-done:
	case <-ctx.Done():
		return false
	}
	return true
}

// Hang gives no answer: it ends the connection when the client goes away, or when
// done is closed.
func Hang(r *http.Request, done <-chan struct{}) {
	select {
	case <-r.Context().Done():
	case <-done:
	}
	panic(http.ErrAbortHandler)
}

// Command vtsidecar is a server that Beats point their Logstash output at: it
// finds indicators of compromise in events, asks VirusTotal about them through
// a cache, adds the answer as arcanna.ioc and stores the events.
//
// Promise: a window is acknowledged only when every event of it is stored or
// durably dead-lettered, and no VirusTotal trouble of any kind delays or drops
// an event beyond a configured wait.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup wants it to be nothing
		signals = append(signals, syscall.SIGHUP) // a terminal that closes is a stop, as for Beats
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	// net/http logs through the standard library's logger, and what it logs can
	// quote bytes that a server sent. The program's own log says what matters.
	log.SetOutput(io.Discard)

	// The first signal ends ctx; from then on signals act as if nobody listened,
	// so a second one ends the process at once.
	context.AfterFunc(ctx, stop)

	os.Exit(run(ctx, env{
		args:     os.Args,
		environ:  os.Environ(),
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
	}))
}

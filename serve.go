package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/internal/admin"
	"vtsidecar/internal/datadir"
	"vtsidecar/internal/logging"
	"vtsidecar/internal/metrics"
	"vtsidecar/lumber"
	"vtsidecar/output"
)

// closeTimeout bounds what comes after the drain: nothing in it waits for
// senders or for VirusTotal.
const closeTimeout = 5 * time.Second

func serveCommand(c *cli.Context, e env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	return serve(c.Context, cfg, e)
}

// serve builds the program from the disk up to the listener, serves until ctx
// ends or something fails, and takes it down in this order:
//
//  1. readiness false, no new connection, no new window;
//  2. windows in flight finish under one drain deadline and get their acks,
//     connections close;
//  3. commands on the control socket: a replay under way ends, and what it has
//     stored is out of the dead letter; it needs all of the parts below;
//  4. look-ups, then the snapshot of what they learned, then the quota that
//     they spent;
//  5. the output, then the dead letter that it buries in: nobody stores any more;
//  6. the admin server, which reported on all that;
//  7. the lock on path.data.
//
// Each step is a deferred function of the step that opened its part, so what
// was opened last is closed first. Every error is joined to the result.
func serve(ctx context.Context, cfg *configs.Config, e env) (err error) {
	log, err := logging.New(e.stderr, e.terminal, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return usageError{err}
	}
	for _, warning := range cfg.Warnings {
		log.Warn(warning)
	}
	v, _, _ := build()
	log.Info("starting", "service.version", v, "path.data", cfg.DataDir, "output", cfg.Output)
	defer func() {
		switch {
		case err == nil:
			log.Info("stopped; all that was in flight was settled")
		case logging.IsJSON(e.terminal, cfg.LogFormat): // else run says it
			log.Error("vtsidecar: " + report(err))
			err = saidError{err}
		}
	}()
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))

	dir, err := datadir.Open(cfg.DataDir)
	if err != nil {
		return err
	}
	defer atExit(&err, "close path.data", dir.Close)

	m := metrics.New(build())
	failed := make(chan error, 2) // one slot for each goroutine that can end the program

	// Readiness is asked from the moment the admin server runs; the parts come
	// in as they are opened.
	var ready readiness
	if cfg.AdminAddress != "" {
		host, _, _ := net.SplitHostPort(cfg.AdminAddress)
		listener, err := listenOn("admin.address", cfg.AdminAddress)
		if err != nil {
			return err
		}
		server := admin.New(admin.Config{Host: host, Gatherer: m.Registry, Checks: ready.checks(cfg.Output), Version: v, Log: log})
		go func() { failed <- server.Serve(listener) }()
		defer atExit(&err, "stop the admin server", withTimeout(server.Shutdown))
		// Not as admin.address: in a log of text, address= stands in the input's line only.
		log.Info("the admin server listens", "admin.url", "http://"+listener.Addr().String())
	}

	dead, err := output.OpenDeadLetter(output.DeadLetterConfig{
		Dir: deadLetterPath(cfg), MaxBytes: cfg.DeadLetterBytes, Output: cfg.Output, Log: log, Metrics: m,
	})
	if err != nil {
		return err
	}
	defer atExit(&err, "close the dead letter", withTimeout(dead.Close))

	out, err := openOutput(cfg, dead, m, log)
	if err != nil {
		return err
	}
	defer atExit(&err, "close the output", withTimeout(out.close))

	enricher, closeEnricher, err := openEnricher(cfg, out.prepare, m, log)
	if err != nil {
		return err
	}
	defer atExit(&err, "close the enrichment", withTimeout(closeEnricher))

	closeControl := openControl(cfg, dead, &resender{out: out, enricher: func() (*enrich.Enricher, error) { return enricher, nil }}, log)
	defer atExit(&err, "close the control socket", withTimeout(closeControl))

	overTLS, closeTLS, err := openTLS(cfg, log)
	if err != nil {
		return err
	}
	defer closeTLS()
	server, err := lumber.NewServer(lumber.Config{
		MaxConnections: cfg.Input.MaxConnections,
		MaxPerAddress:  cfg.Input.MaxPerAddress,
		MaxEvent:       cfg.Input.MaxEvent,
		MaxWindow:      cfg.Input.MaxWindow,
		MaxWindowBytes: cfg.Input.MaxWindowBytes,
		Memory:         cfg.Input.Memory,
		Keepalive:      cfg.Input.Keepalive,
		TLS:            overTLS,
		Log:            log,
		Metrics:        m,
	}, &pipeline{enricher: enricher, output: out, dead: dead})
	if err != nil {
		return err
	}
	listener, err := listenOn("input.address", cfg.Input.Address)
	if err != nil {
		return err
	}
	go func() { failed <- server.Serve(listener) }()
	defer atExit(&err, "drain", func() error {
		ready.stopping.Store(true)
		log.Info("stopping", "shutdown.timeout", cfg.ShutdownTimeout)
		drain, cancel := context.WithTimeout(context.Background(), cfg.ShutdownTimeout)
		defer cancel()
		return server.Shutdown(drain)
	})
	ready.parts.Store(&parts{output: out.ready, dead: dead.Ready})
	if err := logging.Announce(e.stderr, e.terminal, cfg.LogFormat, "vtsidecar is listening, address="+listener.Addr().String()); err != nil {
		return fmt.Errorf("announce the address: %w", err)
	}

	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// atExit closes a part, and joins what that fails with to err.
func atExit(err *error, what string, f func() error) {
	if e := f(); e != nil {
		*err = errors.Join(*err, fmt.Errorf("%s: %w", what, e))
	}
}

// withTimeout is f with closeTimeout to do its work in.
func withTimeout(f func(context.Context) error) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return f(ctx)
	}
}

// listenOn opens the listener whose address a setting names.
func listenOn(setting, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %w: stop what listens there, or take another address", setting, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s: %w: name an address that this machine has, or 0.0.0.0 for all", setting, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return l, nil
}

// openTLS is what the listener speaks TLS with, which follows its files until stop
// is called; nil: it speaks none.
func openTLS(cfg *configs.Config, log *slog.Logger) (conf *tls.Config, stop func(), err error) {
	if cfg.Input.TLS == nil {
		return nil, func() {}, nil
	}
	certificates, err := lumber.OpenCertificates(lumber.CertificatesConfig{
		Read: func() lumber.Material {
			sum, settings := cfg.Input.ReadTLS()
			return lumber.Material{Sum: sum, TLS: settings}
		},
		AllowedNames: cfg.Input.AllowedNames, Log: log,
	})
	if err != nil {
		return nil, nil, usageError{err}
	}
	return certificates.TLS(), certificates.Close, nil
}

// readiness is what /readyz answers. Its methods are called concurrently.
type readiness struct {
	parts    atomic.Pointer[parts] // nil until the listener is open
	stopping atomic.Bool
}

type parts struct {
	output, dead func() error
}

// checks are those of a server with an output of that kind.
func (r *readiness) checks(output string) []admin.Check {
	of := func(part func(*parts) error) func() error {
		return func() error {
			p := r.parts.Load()
			if p == nil {
				return errors.New("starting")
			}
			return part(p)
		}
	}
	return []admin.Check{
		{Name: "input", Ready: of(func(*parts) error {
			if r.stopping.Load() {
				return errors.New("stopping")
			}
			return nil
		})},
		{Name: "output." + output, Ready: of(func(p *parts) error { return p.output() })},
		{Name: "dead_letter", Ready: of(func(p *parts) error { return p.dead() })},
	}
}

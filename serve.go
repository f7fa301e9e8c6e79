package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"vtsidecar/cache"
	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/quota"
	"vtsidecar/enrich/virustotal"
	"vtsidecar/internal/admin"
	"vtsidecar/internal/datadir"
	"vtsidecar/internal/logging"
	"vtsidecar/internal/metrics"
	"vtsidecar/lumber"
	"vtsidecar/output"
)

const (
	// closeTimeout bounds what comes after the drain: nothing in it waits for
	// senders or for VirusTotal.
	closeTimeout = 5 * time.Second

	// snapshotEvery bounds what a crash forgets of the cache: of a public key's
	// quota, 40 answers of a day's 500. A snapshot of 10,000 entries takes 12 ms, of
	// a million less than a second, so it is a small part of that time either way.
	snapshotEvery = 10 * time.Minute
)

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
		log.Info("the admin server listens", "admin.address", listener.Addr().String())
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

	var overTLS *tls.Config
	if cfg.Input.TLS != nil {
		certificates, err := lumber.OpenCertificates(lumber.CertificatesConfig{
			Read: func() lumber.Material {
				sum, settings := cfg.Input.ReadTLS()
				return lumber.Material{Sum: sum, TLS: settings}
			},
			AllowedNames: cfg.Input.AllowedNames, Log: log,
		})
		if err != nil {
			return usageError{err}
		}
		defer certificates.Close()
		overTLS = certificates.TLS()
	}
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

// openEnricher opens what the enrichment needs: the cache with its snapshot, the
// quota, the source. The returned function closes them in the right order.
func openEnricher(cfg *configs.Config, prepare func(*enrich.Config), m *metrics.Set, log *slog.Logger) (*enrich.Enricher, func(context.Context) error, error) {
	specs, errs := parseFields(cfg.Fields)
	if len(errs) > 0 {
		return nil, nil, usageError{errors.Join(errs...)}
	}
	types := make([]indicator.Type, 0, len(cfg.VT.Types))
	for _, t := range []indicator.Type{indicator.Hash, indicator.URL, indicator.Domain, indicator.IP} {
		for _, name := range cfg.VT.Types {
			if t.String() == name {
				types = append(types, t)
			}
		}
	}
	parser, err := indicator.NewParser(indicator.Config{
		Types: types, URLParts: cfg.VT.URLParts,
		Networks: cfg.Skip.Networks, Domains: cfg.Skip.Domains, Hashes: cfg.Skip.Hashes,
	})
	if err != nil {
		return nil, nil, usageError{err}
	}

	answers, err := openCache(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	own, _, _ := limits(&cfg.VT, quota.Account{})
	counts, err := quota.Open(quotaPath(cfg), own, nil)
	var damaged *quota.DamagedError
	if errors.As(err, &damaged) {
		log.Warn("the counts of requests could not be read; they begin anew", "error", damaged)
	} else if err != nil {
		return nil, nil, fmt.Errorf("path.data: open the counts of requests: %w", err)
	}

	vt, noSource, err := openSource(cfg, m, log)
	if err != nil {
		return nil, nil, errors.Join(err, counts.Close())
	}
	closeSource := func() error { return nil }
	var source enrich.Source // nil, not a *virustotal.Source that is nil
	var begin chan struct{}
	if vt != nil {
		source, closeSource = vt, vt.Close
		if readsAccount(&cfg.VT) {
			begin = make(chan struct{})
		}
	}
	rules := cfg.VT
	settings := enrich.Config{
		Fields: specs, MaxValues: cfg.FieldsMaxValues, Details: enrich.Details(cfg.Details),
		IDFromContent: cfg.ID.FromContent, IDMetadata: cfg.ID.Metadata, TrustVerdicts: cfg.Input.TrustVerdicts,
		Rules: enrich.Rules{
			Malicious:      enrich.PerType[int](rules.Malicious),
			Suspicious:     enrich.PerType[int](rules.Suspicious),
			Engines:        rules.Engines,
			EnginesIgnore:  rules.EnginesIgnore,
			MaxAnalysisAge: enrich.PerType[time.Duration](rules.MaxAnalysisAge),
		},
		ECS:  enrich.ECS(cfg.ECS),
		Wait: cfg.VT.Wait,
		TTL:  cfg.Cache.TTL, TTLMalicious: cfg.Cache.TTLMalicious, TTLNotFound: cfg.Cache.TTLNotFound,
		Off: !cfg.VT.Enabled, NoSource: noSource, Begin: begin,
		Log: log, Metrics: m,
	}
	prepare(&settings)
	enricher, err := enrich.New(settings, parser, answers, source, counts)
	if err != nil {
		return nil, nil, errors.Join(err, closeSource(), counts.Close())
	}
	stopKeeper := func() {}
	if vt != nil {
		stopKeeper = keepLimits(cfg, vt, counts, enricher, begin, log)
	}

	snapshots := newSnapshots(cfg, answers, log)
	stopLimit := keepMemoryLimit(cfg, answers.Len)
	return enricher, func(ctx context.Context) error {
		stopKeeper()
		stopLimit()
		err := errors.Join(enricher.Close(ctx), closeSource())
		if err := snapshots.close(); err != nil {
			// It costs quota, no event: all that was in flight may be settled all the same.
			log.Warn("the cache could not be saved at the end", "error", err)
		}
		return errors.Join(err, counts.Close())
	}, nil
}

func quotaPath(cfg *configs.Config) string { return filepath.Join(cfg.DataDir, "quota") }

// keepLimits holds the counts against what the account of the key says, as far
// as the settings want that. begin, if any, is closed when that is known for the
// first time, or has been waited for.
func keepLimits(cfg *configs.Config, source *virustotal.Source, counts *quota.Quota, enricher *enrich.Enricher, begin chan struct{}, log *slog.Logger) (stop func()) {
	k := &keeper{vt: &cfg.VT, read: source.Account, log: log}
	if begin == nil {
		k.apply = func(quota.Limits, quota.Account) error { return nil } // they are in force
		k.learned(quota.Account{}, "")
		return func() {}
	}
	open := sync.OnceFunc(func() {
		close(begin)
		enricher.QuotaChanged()
	})
	k.apply = func(l quota.Limits, a quota.Account) error {
		defer enricher.QuotaChanged()
		defer open()
		return counts.SetLimits(l, a)
	}
	timer := time.AfterFunc(accountWait, open)
	stopReading := k.start()
	return func() {
		stopReading()
		timer.Stop()
	}
}

// openSource makes VirusTotal a source, or says in words why there is none; then
// the source is nil.
func openSource(cfg *configs.Config, m *metrics.Set, log *slog.Logger) (source *virustotal.Source, none string, err error) {
	switch {
	case !cfg.VT.Enabled:
		return nil, "vt.enabled is false", nil
	case cfg.VT.APIKey == "":
		return nil, "there is no API key: set vt.api_key_file, vt.api_key or VT_API_KEY", nil
	}
	source, err = newSource(cfg, m, log)
	return source, "", err
}

// newSource makes VirusTotal a source; there is a key. m may be nil.
func newSource(cfg *configs.Config, m *metrics.Set, log *slog.Logger) (*virustotal.Source, error) {
	v, _, _ := build()
	var proxy string
	if cfg.VT.Proxy.URL != nil {
		proxy = cfg.VT.Proxy.URL.String()
	}
	source, err := virustotal.New(virustotal.Config{
		APIKey: cfg.VT.APIKey, URL: cfg.VT.URL.String(), ProxyURL: proxy, Direct: cfg.VT.Proxy.Direct,
		Timeout: cfg.VT.Timeout, UserAgent: "vtsidecar/" + v, Log: log, Metrics: m,
	})
	if err != nil {
		return nil, usageError{err}
	}
	return source, nil
}

func snapshotPath(cfg *configs.Config) string { return filepath.Join(cfg.DataDir, "cache.snapshot") }

// openCache makes the cache and fills it from the last snapshot. A damaged
// snapshot costs quota, not events: it is set aside with one warning.
func openCache(cfg *configs.Config, log *slog.Logger) (*cache.Cache[*enrich.Answer], error) {
	answers := cache.New[*enrich.Answer](cache.Config{MaxEntries: cfg.Cache.MaxEntries})
	if !cfg.Cache.Persist {
		return answers, nil
	}
	n, err := answers.Load(snapshotPath(cfg), enrich.DecodeAnswer)
	var damaged *cache.DamagedError
	switch {
	case errors.As(err, &damaged):
		log.Warn("the cache's snapshot is damaged and was set aside", "error", damaged, "entries", n)
	case err != nil:
		return nil, fmt.Errorf("path.data: %w", err)
	case n > 0:
		log.Info("the cache was loaded", "entries", n)
	}
	return answers, nil
}

// snapshots saves the cache from time to time and at the end.
type snapshots struct {
	save func() error
	stop chan struct{}
	done chan struct{}
}

func newSnapshots(cfg *configs.Config, answers *cache.Cache[*enrich.Answer], log *slog.Logger) *snapshots {
	s := &snapshots{stop: make(chan struct{}), done: make(chan struct{})}
	s.save = func() error {
		if !cfg.Cache.Persist {
			return nil
		}
		return answers.Save(snapshotPath(cfg), enrich.AppendAnswer)
	}
	go func() {
		defer close(s.done)
		ticker := time.NewTicker(snapshotEvery)
		defer ticker.Stop()
		failing := false
		for {
			select {
			case <-s.stop:
				return
			case <-ticker.C:
			}
			err := s.save()
			if (err != nil) != failing {
				if failing = err != nil; failing {
					log.Warn("the cache could not be saved", "error", err)
				} else {
					log.Info("the cache is saved again")
				}
			}
		}
	}()
	return s
}

// close saves for the last time.
func (s *snapshots) close() error {
	close(s.stop)
	<-s.done
	return s.save()
}

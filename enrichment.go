package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/quota"
	"vtsidecar/enrich/virustotal"
	"vtsidecar/internal/metrics"
)

// openEnricher opens what the enrichment needs: the cache with its snapshot, the
// quota, the source. The returned function closes them in the right order.
func openEnricher(cfg *configs.Config, prepare func(*enrich.Config), m *metrics.Set, log *slog.Logger) (*enrich.Enricher, func(context.Context) error, error) {
	specs, errs := parseFields(cfg.Fields)
	if len(errs) > 0 {
		return nil, nil, usageError{errors.Join(errs...)}
	}
	parser, err := newParser(cfg)
	if err != nil {
		return nil, nil, err
	}
	answers, err := openCache(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	counts, damaged, err := openQuota(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("path.data: open the counts of requests: %w", err)
	}
	if damaged != nil {
		log.Warn("the counts of requests could not be read; they begin anew", "error", damaged)
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
		saveAtEnd(log, "the cache", snapshots.close)
		saveAtEnd(log, "the counts of requests", counts.Close)
		return err
	}, nil
}

// saveAtEnd saves what costs quota and no event where it is lost: all that was in
// flight may be settled all the same, so it is no failure of the program.
func saveAtEnd(log *slog.Logger, what string, save func() error) {
	if err := save(); err != nil {
		log.Warn(what+" could not be saved at the end", "error", err)
	}
}

// newParser makes the parser of indicators.
func newParser(cfg *configs.Config) (*indicator.Parser, error) {
	types := make([]indicator.Type, 0, len(cfg.VT.Types))
	for _, t := range []indicator.Type{indicator.Hash, indicator.URL, indicator.Domain, indicator.IP} {
		if slices.Contains(cfg.VT.Types, t.String()) {
			types = append(types, t)
		}
	}
	parser, err := indicator.NewParser(indicator.Config{
		Types: types, URLParts: cfg.VT.URLParts,
		Networks: cfg.Skip.Networks, Domains: cfg.Skip.Domains, Hashes: cfg.Skip.Hashes,
	})
	if err != nil {
		return nil, usageError{err}
	}
	return parser, nil
}

func quotaPath(cfg *configs.Config) string { return filepath.Join(cfg.DataDir, "quota") }

// openQuota opens the counts of requests. Where they were damaged they begin anew,
// and damaged says so.
func openQuota(cfg *configs.Config) (counts *quota.Quota, damaged *quota.DamagedError, err error) {
	own, _, _ := limits(&cfg.VT, quota.Account{})
	counts, err = quota.Open(quotaPath(cfg), own, nil)
	if errors.As(err, &damaged) {
		err = nil
	}
	return counts, damaged, err
}

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

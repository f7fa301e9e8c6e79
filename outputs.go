package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
	"vtsidecar/output"
	"vtsidecar/output/elasticsearch"
	"vtsidecar/output/logstash"
)

// watchEvery is how long nothing may be heard of where events go before it is
// asked, so that readiness is true without an event as well.
const watchEvery = 10 * time.Second

// destination is the output that the settings name, opened.
type destination struct {
	store
	ready func() error
	close func(context.Context) error
	// replay stores letters that it refused once, see elasticsearch.Output.Replay;
	// nil: it refuses nothing.
	replay func(ctx context.Context, letters []event.DeadLetter) ([]*event.DeadLetter, error)
	// storeOr is Store with another dead letter; nil: Store needs none.
	storeOr func(ctx context.Context, lines *event.Lines, dead elasticsearch.Graveyard) error
	// prepare tells the enrichment what the output wants to know of each line.
	prepare func(*enrich.Config)
}

// openOutput opens the output that the settings name. What it refuses goes to
// the dead letter.
func openOutput(cfg *configs.Config, dead *output.DeadLetter, m *metrics.Set, log *slog.Logger) (*destination, error) {
	switch cfg.Output {
	case configs.OutputToElasticsearch:
		return openElasticsearch(cfg, dead, m, log)
	case configs.OutputToLogstash:
		return openLogstash(cfg, m, log)
	default:
		return openFile(cfg, m, log)
	}
}

func openFile(cfg *configs.Config, m *metrics.Set, log *slog.Logger) (*destination, error) {
	file, err := output.OpenFile(output.FileConfig{
		Path: cfg.OutputFile.Path, Permissions: cfg.OutputFile.Permissions,
		RotateBytes: cfg.OutputFile.RotateBytes, RotateEvery: cfg.OutputFile.RotateEvery,
		Keep: cfg.OutputFile.Keep, Compress: cfg.OutputFile.Compress,
		Log: log, Metrics: m,
	})
	if err != nil {
		return nil, err
	}
	return &destination{
		store: file, ready: file.Ready, close: file.Close,
		prepare: func(*enrich.Config) {},
	}, nil
}

func openElasticsearch(cfg *configs.Config, dead *output.DeadLetter, m *metrics.Set, log *slog.Logger) (*destination, error) {
	client, err := newSearchClient(cfg)
	if err != nil {
		return nil, err
	}
	es := searchConfig(cfg)
	es.Doer, es.Hosts, es.Dead, es.Log, es.Metrics = client, len(cfg.Elasticsearch.Hosts), dead, log, m
	es.Watch = watchEvery
	out, err := elasticsearch.Open(es)
	if err != nil {
		return nil, errors.Join(err, client.Close(context.Background()))
	}
	return &destination{
		store: out, ready: out.Ready, replay: out.Replay, storeOr: out.StoreOr,
		close: func(ctx context.Context) error { return errors.Join(out.Close(ctx), client.Close(ctx)) },
		prepare: func(c *enrich.Config) {
			c.Routing, c.Routes = true, out.Routes()
			c.PortionBytes = int(es.BulkMaxBytes)
		},
	}, nil
}

func openLogstash(cfg *configs.Config, m *metrics.Set, log *slog.Logger) (*destination, error) {
	out, err := logstash.Open(logstash.Config{
		Hosts: cfg.Logstash.Hosts, TLS: cfg.Logstash.SSL.For, Timeout: cfg.Logstash.Timeout, Watch: watchEvery, Log: log, Metrics: m,
	})
	if err != nil {
		return nil, err
	}
	return &destination{
		store: out, ready: out.Ready, close: out.Close,
		prepare: func(c *enrich.Config) { c.KeepMetadata = true },
	}, nil
}

// searchConfig says where events go in Elasticsearch or OpenSearch.
func searchConfig(cfg *configs.Config) elasticsearch.Config {
	es := &cfg.Elasticsearch
	return elasticsearch.Config{
		Index: es.Index, AllowedIndices: es.AllowedIndices, FallbackIndex: es.FallbackIndex, Pipeline: es.Pipeline, OpType: es.OpType,
		BulkMaxBytes: es.BulkMaxBytes, Workers: es.Workers, Timeout: es.Timeout,
	}
}

// searchClient says how to reach it.
func searchClient(cfg *configs.Config) elasticsearch.ClientConfig {
	es := &cfg.Elasticsearch
	v, _, _ := build()
	return elasticsearch.ClientConfig{
		Hosts: es.Hosts, Username: es.Username, Password: es.Password, APIKey: es.APIKey, BearerToken: es.BearerToken,
		TLS: es.SSL.For, Proxy: es.Proxy.URL, Direct: es.Proxy.Direct,
		Timeout: es.Timeout, CompressionLevel: es.Compression, UserAgent: "vtsidecar/" + v,
	}
}

// newSearchClient makes a client of Elasticsearch or OpenSearch.
func newSearchClient(cfg *configs.Config) (*elasticsearch.Client, error) {
	return elasticsearch.NewClient(searchClient(cfg))
}

func deadLetterPath(cfg *configs.Config) string { return filepath.Join(cfg.DataDir, "dead-letter") }

// checkOutput says what is wrong with the names that events are to be stored under.
func checkOutput(es *configs.Elasticsearch) (mistakes []configs.Mistake) {
	const e = "output.elasticsearch."
	wrong := func(name string, err error) {
		if err != nil {
			mistakes = append(mistakes, configs.Mistake{Name: e + name, Text: err.Error()})
		}
	}
	if es.Index != "" {
		wrong("index", elasticsearch.CheckIndex(es.Index, es.AllowedIndices))
	}
	wrong("pipeline", elasticsearch.CheckPipeline(es.Pipeline))
	wrong("fallback_index", elasticsearch.CheckName(es.FallbackIndex))
	for _, pattern := range es.AllowedIndices {
		wrong("allowed_indices", elasticsearch.CheckPattern(pattern))
	}
	return mistakes
}

// outputMemory is what an output may hold beside input.memory: of Elasticsearch
// the bodies of its requests, plain and compressed, and their answers.
func outputMemory(cfg *configs.Config) int64 {
	switch cfg.Output {
	case configs.OutputToElasticsearch:
		return int64(cfg.Elasticsearch.Workers) * 2 * cfg.Elasticsearch.BulkMaxBytes
	case configs.OutputToLogstash:
		return logstash.Memory(len(cfg.Logstash.Hosts))
	}
	return 0
}

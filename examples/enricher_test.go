package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vtsidecar/cache"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	events "vtsidecar/internal/event"
)

var update = flag.Bool("update", false, "write the tables in docs")

// nobody is a source that knows no indicator.
type nobody struct{}

func (nobody) Name() string { return "virustotal" }

func (nobody) Lookup(context.Context, enrich.Indicator) (*enrich.Answer, error) {
	return &enrich.Answer{FetchedAt: time.Now()}, nil
}

// newEnricher is the enrichment with these fields, its other settings at their defaults.
func newEnricher(t *testing.T, cfg enrich.Config, fields ...string) *enrich.Enricher {
	t.Helper()
	for _, text := range fields {
		spec, err := indicator.ParseField(text)
		require.NoError(t, err)
		cfg.Fields = append(cfg.Fields, spec)
	}
	cfg.Wait = time.Minute // nobody answers at once
	parser, err := indicator.NewParser(indicator.Config{})
	require.NoError(t, err)
	answers := cache.New[*enrich.Answer](cache.Config{MaxEntries: 1000, Now: time.Now})
	e, err := enrich.New(cfg, parser, answers, nobody{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close(context.Background())) })
	return e
}

// enriched takes one event through and returns its identity and line.
func enriched(t *testing.T, e *enrich.Enricher, raw []byte) (events.ID, []byte) {
	t.Helper()
	padded := append(bytes.Clone(raw), make([]byte, events.Sentinel)...)
	work := e.Enrich(&events.Batch{Events: []events.Event{{Raw: padded[:len(raw)]}}, Budget: events.Unlimited{}})
	defer work.Close()
	p, err := work.Next(context.Background())
	require.NoError(t, err)
	require.Len(t, p.Lines.Index, 1, "%s", raw)
	return p.Lines.Index[0].ID, bytes.Clone(p.Lines.Buf)
}

// iocOf is the arcanna.ioc of a line.
func iocOf(t *testing.T, line []byte) map[string]any {
	t.Helper()
	var ev struct {
		Arcanna struct {
			IOC map[string]any `json:"ioc"`
		} `json:"arcanna"`
	}
	require.NoError(t, json.Unmarshal(line, &ev))
	require.NotNil(t, ev.Arcanna.IOC)
	return ev.Arcanna.IOC
}

// section compares what stands in a document between <!-- name --> and
// <!-- /name --> with what a test found out, or writes it (-update).
func section(t *testing.T, path, name, found string) {
	t.Helper()
	doc, err := os.ReadFile(path)
	require.NoError(t, err)
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
	before, rest, ok := bytes.Cut(doc, []byte(begin))
	require.True(t, ok, "%s has no %s", path, begin)
	was, after, ok := bytes.Cut(rest, []byte(end))
	require.True(t, ok, "%s has no %s", path, end)
	if *update {
		all := append(append(append(bytes.Clone(before), begin...), "\n"+found+"\n"...), append([]byte(end), after...)...)
		require.NoError(t, os.WriteFile(path, all, 0o644))
		return
	}
	require.Equal(t, "\n"+found+"\n", string(was), "run go test ./examples -update")
}

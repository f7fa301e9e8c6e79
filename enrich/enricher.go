package enrich

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vtsidecar/cache"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/scan"
	"vtsidecar/internal/metrics"
)

// Details says for which indicators a document carries details.
type Details string

const (
	DetailsHits Details = "hits" // malicious and suspicious ones; also the empty string
	DetailsAll  Details = "all"
	DetailsNone Details = "none"
)

// Config is what an Enricher does.
type Config struct {
	Fields    []indicator.FieldSpec
	MaxValues int     // distinct indicators of one event that are looked up; 0: 64
	Details   Details // empty: DetailsHits

	IDFromContent bool // an event without a position is identified by its content
	IDMetadata    bool // @metadata._id identifies an event that has one
	TrustVerdicts bool // an event's own arcanna.ioc stays, and nothing is looked up for it

	// Routing: portions say where their lines should go; Routes are the dotted
	// paths, outside @metadata, whose values are in it.
	Routing bool
	Routes  []string
	// KeepMetadata: lines keep their @metadata, in which _id is the identity where
	// there was none.
	KeepMetadata bool
	PortionBytes int // of lines in a portion, more only for a single event; 0: 1 MiB

	Rules        Rules
	ECS          ECS
	Wait         time.Duration // longest that a batch waits for answers; 0: not at all
	TTL          time.Duration // of answers in the cache; 0: 7 days
	TTLMalicious time.Duration // of malicious ones; 0: TTL
	TTLNotFound  time.Duration // of those that say "not known"; 0: 1 day

	// Off: the integration's switch is off. Cached answers are not used either.
	Off bool
	// NoSource is why there is no source, in words, for the one warning about it.
	NoSource string

	// Begin holds look-ups back until it is closed, and QuotaChanged is called: for
	// limits that are still being read. nil: nothing does.
	Begin <-chan struct{}

	Workers     int // look-ups side by side; 0: 8
	QueueLength int // indicators that may wait for a look-up; 0: 10,000

	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: none
	Metrics *metrics.Set     // nil: a set that nobody reads
}

// complete fills in what zero values stand for. The error is about a value that
// stands for nothing.
func (c *Config) complete() error {
	orDefault(&c.TTL, 7*24*time.Hour)
	orDefault(&c.TTLMalicious, c.TTL)
	orDefault(&c.TTLNotFound, 24*time.Hour)
	orDefault(&c.MaxValues, 64)
	orDefault(&c.Workers, 8)
	orDefault(&c.QueueLength, 10_000)
	orDefault(&c.PortionBytes, maxPortion)
	switch c.Details {
	case "":
		c.Details = DetailsHits
	case DetailsHits, DetailsAll, DetailsNone:
	default:
		return fmt.Errorf("enrich: details cannot be %q", string(c.Details))
	}
	if c.ECS.MatchedType == "" {
		c.ECS.MatchedType = "indicator_match_rule"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.New("", "", "")
	}
	return nil
}

// orDefault sets what is not above 0.
func orDefault[T int | time.Duration](p *T, def T) {
	if *p <= 0 {
		*p = def
	}
}

// field is a configured field: scan finds it by its place in Config.Fields.
type field struct {
	kind indicator.Kind
	name int // in Enricher.names
}

// Enricher enriches batches. It is safe for concurrent use; all fields are
// constant after New but for what says otherwise.
type Enricher struct {
	cfg      Config
	provider string // the source's name as the inside of a JSON string
	matched  string // ecs.matched_type as a JSON string
	parser   *indicator.Parser
	scanner  *scan.Scanner
	fields   []field
	names    []name // in the order in which they stand in documents
	judge    *judge
	answers  *cache.Cache[*Answer] // nil: none are used
	queue    *queue                // nil: nothing can be looked up
	counted  [indicator.Hash + 1][results]prometheus.Counter
	cached   [cacheWords]prometheus.Counter
	facts    *facts       // has its own lock-free ways
	seed     maphash.Seed // of all tables
	pool     pool
}

// New makes an Enricher and starts its workers; Close ends them. Without a
// source (nil) and without answers (nil) every indicator is unavailable;
// without a quota (nil) requests are unlimited.
func New(cfg Config, parser *indicator.Parser, answers *cache.Cache[*Answer], source Source, quota Quota) (*Enricher, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if parser == nil {
		return nil, errors.New("enrich: no parser of indicators")
	}
	if source != nil && answers == nil {
		return nil, errors.New("enrich: a source needs a cache")
	}
	if cfg.Off {
		source, answers = nil, nil
	}

	e := &Enricher{cfg: cfg, parser: parser, judge: newJudge(cfg.Rules), answers: answers, facts: newFacts(), seed: maphash.MakeSeed()}
	e.matched = string(appendString(nil, cfg.ECS.MatchedType))
	var err error
	if e.names, e.fields, err = arrange(cfg.Fields); err != nil {
		return nil, fmt.Errorf("enrich: %w", err)
	}
	fields := make([]scan.Field, len(cfg.Fields))
	for i, f := range cfg.Fields {
		fields[i] = scan.Field{Path: f.Path, Hashes: f.Kind == indicator.KindHash}
	}
	if e.scanner, err = scan.New(scan.Config{Fields: fields, MaxValues: maxEventRefs, Routes: cfg.Routes, KeepMetadata: cfg.KeepMetadata}); err != nil {
		return nil, fmt.Errorf("enrich: %w", err)
	}
	for t := range e.counted {
		for r := range e.counted[t] {
			if indicator.Type(t) == indicator.None && result(r) != resultNone || result(r) == resultPending {
				continue // never counted
			}
			e.counted[t][r] = cfg.Metrics.Indicators.WithLabelValues(indicator.Type(t).String(), result(r).String())
		}
	}
	for w := cacheHit; w < cacheWords; w++ {
		e.cached[w] = cfg.Metrics.CacheRequests.WithLabelValues(cacheWordTexts[w])
	}

	switch {
	case cfg.Off:
		cfg.Log.Info("look-ups are switched off")
	case source == nil:
		reason := cfg.NoSource
		if reason == "" {
			reason = "no source"
		}
		cfg.Log.Warn("nothing can be looked up: indicators without a cached answer are unavailable", "reason", reason)
		e.provider = "virustotal" // whose answers the cache may hold
	default:
		e.provider = inside(source.Name())
		e.queue = &queue{
			source: source, quota: quota, answers: answers, judge: e.judge,
			life: lifetimes{answer: cfg.TTL, malicious: cfg.TTLMalicious, notFound: cfg.TTLNotFound},
			now:  cfg.Now, log: cfg.Log, metrics: cfg.Metrics, most: cfg.QueueLength, workers: cfg.Workers, begin: cfg.Begin,
		}
		e.queue.start()
	}
	if answers != nil {
		cfg.Metrics.CacheEntries.Set(float64(answers.Len()))
	}
	return e, nil
}

// QuotaChanged says that the quota may grant requests before it said it would.
func (e *Enricher) QuotaChanged() {
	if e.queue != nil {
		e.queue.quotaChanged()
	}
}

// Close ends the look-ups: those in flight are cancelled, those that wait are
// given up. Works that are still under way go on without them. It returns when
// every worker has ended, or with ctx's error.
func (e *Enricher) Close(ctx context.Context) error {
	if e.queue == nil {
		return nil
	}
	return e.queue.close(ctx)
}

// name is where a part stands under arcanna.ioc.
type name struct {
	// quoted and inside are the name ("source.ip") as a JSON string, with and
	// without its quotes.
	quoted, inside string
	// open are the beginnings of the objects that the part stands in, the last
	// of which is the part itself: `"source":{`, `"ip":`.
	open []string
	// shared is how many objects are the same as those of the name before.
	shared int
}

// arrange makes the names of the fields, in the order in which a document that
// opens each object only once has them.
func arrange(specs []indicator.FieldSpec) ([]name, []field, error) {
	if err := errors.Join(indicator.CheckFields(specs)...); err != nil {
		return nil, nil, err
	}
	var paths [][]string
	for _, s := range specs {
		paths = append(paths, strings.Split(s.Name, "."))
	}
	order := slices.Clone(paths)
	slices.SortFunc(order, slices.Compare)
	order = slices.CompactFunc(order, slices.Equal)
	if len(order) > 1<<16 {
		return nil, nil, errors.New("too many fields")
	}
	names := make([]name, len(order))
	for i, segments := range order {
		n := &names[i]
		n.inside = inside(strings.Join(segments, "."))
		n.quoted = `"` + n.inside + `"`
		for j, s := range segments {
			text := `"` + inside(s) + `":`
			if j < len(segments)-1 {
				text += "{"
			}
			n.open = append(n.open, text)
		}
		if i == 0 {
			continue
		}
		before := order[i-1]
		for n.shared < min(len(before), len(segments)) && before[n.shared] == segments[n.shared] {
			n.shared++
		}
	}
	fields := make([]field, len(specs))
	for i, s := range specs {
		at, _ := slices.BinarySearchFunc(order, paths[i], slices.Compare)
		fields[i] = field{kind: s.Kind, name: at}
	}
	return names, fields, nil
}

// inside is s as the inside of a JSON string.
func inside(s string) string {
	b := appendString(nil, s)
	return string(b[1 : len(b)-1])
}

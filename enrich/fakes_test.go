package enrich_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/cache"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSource is a source with a memory. It complains about two requests for one
// indicator at a time, about more requests at a time than there are workers,
// and about requests that nobody counted.
type fakeSource struct {
	t       testing.TB
	quota   *fakeQuota // nil: none is asked for
	workers int        // 0: any number

	mu       sync.Mutex
	replies  map[string]reply // by value; others are not known
	running  map[string]int
	requests []string // all that were made, in order
	busiest  int
}

// reply is what the source says about one value.
type reply struct {
	answer *enrich.Answer
	err    error
	after  time.Duration // how long it takes
	hold   chan struct{} // or until this is closed
	do     func()
}

func newSource(t testing.TB) *fakeSource {
	return &fakeSource{t: t, replies: map[string]reply{}, running: map[string]int{}}
}

func (s *fakeSource) Name() string { return "virustotal" }

func (s *fakeSource) say(value string, r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies[value] = r
}

func (s *fakeSource) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

func (s *fakeSource) Lookup(ctx context.Context, ind enrich.Indicator) (*enrich.Answer, error) {
	s.mu.Lock()
	s.requests = append(s.requests, ind.Value)
	s.running[ind.Value]++
	running := len(s.running)
	s.busiest = max(s.busiest, running)
	if s.running[ind.Value] > 1 {
		s.t.Errorf("%s is being asked for twice", ind.Value)
	}
	if s.workers > 0 && running > s.workers {
		s.t.Errorf("%d requests at a time, for %d workers", running, s.workers)
	}
	if s.quota != nil && len(s.requests) > s.quota.granted() {
		s.t.Errorf("%d requests, %d counted", len(s.requests), s.quota.granted())
	}
	r, known := s.replies[ind.Value]
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.running, ind.Value)
	}()
	if r.do != nil {
		r.do()
	}
	var after <-chan time.Time
	if r.after > 0 {
		timer := time.NewTimer(r.after)
		defer timer.Stop()
		after = timer.C
	}
	if r.hold != nil || after != nil {
		select {
		case <-r.hold:
		case <-after:
		case <-ctx.Done():
			return nil, &enrich.LookupError{Decision: enrich.Retry, Reason: "timed out"}
		}
	}
	if !known || r.answer == nil && r.err == nil {
		return &enrich.Answer{FetchedAt: time.Now()}, nil
	}
	return r.answer, r.err
}

// fakeQuota is a quota of one window.
type fakeQuota struct {
	window string
	mu     sync.Mutex
	left   int
	taken  int
	until  time.Time // when left was used up: what Take says
	spent  []string
	broken error
}

func (q *fakeQuota) granted() int { q.mu.Lock(); defer q.mu.Unlock(); return q.taken }

func (q *fakeQuota) grant(n int) { q.mu.Lock(); defer q.mu.Unlock(); q.left = n }

func (q *fakeQuota) Take() (bool, time.Time, string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.broken != nil:
		return false, time.Time{}, "", q.broken
	case q.left <= 0:
		return false, q.until, q.window, nil
	}
	q.left--
	q.taken++
	return true, time.Time{}, "", nil
}

func (q *fakeQuota) Spent(window string, until time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spent = append(q.spent, window)
	q.left, q.until = 0, until
	return nil
}

func (q *fakeQuota) Left() map[string]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return map[string]int{q.window: q.left}
}

// fakeBudget complains about bytes that are given back twice or never.
type fakeBudget struct {
	t    testing.TB
	mu   sync.Mutex
	held int64
	most int64
	full bool   // nothing is granted
	wait func() // called before a wait; nil: nothing
}

func (b *fakeBudget) Reserve(ctx context.Context, n int64) error {
	b.mu.Lock()
	full := b.full
	if !full {
		b.held += n
		b.most = max(b.most, b.held)
	}
	b.mu.Unlock()
	if full {
		if b.wait != nil {
			b.wait()
		}
		<-ctx.Done()
	}
	return ctx.Err()
}

func (b *fakeBudget) Wanted() bool { return false }

func (b *fakeBudget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held -= n; b.held < 0 {
		b.t.Errorf("%d bytes given back that were not reserved", -b.held)
	}
}

func (b *fakeBudget) now() int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.held }

// logBook keeps what was logged.
type logBook struct {
	mu    sync.Mutex
	lines []string
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, string(p))
	return len(p), nil
}

func (b *logBook) count(text string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lines {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

// bench is an Enricher with everything around it.
type bench struct {
	*enrich.Enricher
	t       testing.TB
	source  *fakeSource
	answers *cache.Cache[*enrich.Answer]
	metrics *metrics.Set
	log     *logBook
}

func specs(texts ...string) []indicator.FieldSpec {
	kinds := map[string]indicator.Kind{
		"ip": indicator.KindIP, "domain": indicator.KindDomain, "url": indicator.KindURL,
		"hash": indicator.KindHash, "auto": indicator.KindAuto, "scan": indicator.KindScan,
	}
	var out []indicator.FieldSpec
	for _, text := range texts {
		rest, name, _ := strings.Cut(text, "=")
		path, kind, _ := strings.Cut(rest, ":")
		if name == "" {
			name = path
		}
		k, ok := kinds[kind]
		if !ok {
			panic("no kind in " + text)
		}
		out = append(out, indicator.FieldSpec{Path: path, Kind: k, Name: name})
	}
	return out
}

var sixFields = []string{"source.ip:ip", "destination.ip:ip", "url.full:url", "dns.question.name:domain", "process.hash:hash", "message:scan"}

// newBench starts an Enricher. source may be nil.
func newBench(t testing.TB, cfg enrich.Config, source *fakeSource, quota enrich.Quota) *bench {
	b := &bench{t: t, source: source, metrics: metrics.New("", "", ""), log: &logBook{}}
	if cfg.Fields == nil {
		cfg.Fields = specs(sixFields...)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Metrics = b.metrics
	cfg.Log = slog.New(slog.NewTextHandler(b.log, nil))
	cfg.Rules.MaxAnalysisAge = enrich.PerType[time.Duration]{IP: 90 * day, URL: 30 * day, Domain: 180 * day}
	parser, err := indicator.NewParser(indicator.Config{})
	require.NoError(t, err)
	b.answers = cache.New[*enrich.Answer](cache.Config{MaxEntries: 10_000, Now: cfg.Now})
	var s enrich.Source
	if source != nil {
		s = source
	}
	b.Enricher, err = enrich.New(cfg, parser, b.answers, s, quota)
	require.NoError(t, err)
	return b
}

const day = 24 * time.Hour

// figure is a metric's value. labels are its labels' values, by their names' order.
func (b *bench) figure(name string, labels ...string) float64 {
	b.t.Helper()
	families, err := b.metrics.Registry.Gather()
	require.NoError(b.t, err)
	for _, f := range families {
		if f.GetName() != "vtsidecar_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			if slices.Equal(have, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (b *bench) close() {
	require.NoError(b.t, b.Close(context.Background()))
}

// batch makes a batch as it comes from the wire: with readable bytes behind each event.
func batch(budget event.Budget, events ...string) *event.Batch {
	out := &event.Batch{Budget: budget}
	for _, e := range events {
		raw := append([]byte(e), make([]byte, event.Sentinel)...)
		out.Events = append(out.Events, event.Event{Raw: raw[:len(e)]})
	}
	return out
}

// outcome is a batch behind the Enricher.
type outcome struct {
	lines []string
	ids   []event.ID
	dead  []event.DeadLetter
}

// run takes a batch through and checks every line.
func (b *bench) run(ctx context.Context, in *event.Batch) (outcome, error) {
	b.t.Helper()
	var out outcome
	err := b.drain(ctx, in, func(p enrich.Portion) {
		at := 0
		for _, l := range p.Lines.Index {
			line := string(p.Lines.Buf[at:l.End])
			if !json.Valid([]byte(line)) {
				b.t.Errorf("not JSON: %.300q", line)
			}
			out.lines = append(out.lines, line)
			out.ids = append(out.ids, l.ID)
			at = l.End
		}
		for _, d := range p.Dead {
			d.Event = append([]byte(nil), d.Event...)
			out.dead = append(out.dead, d)
		}
	})
	return out, err
}

// drain takes a batch through, shows its portions, and checks what holds for
// every batch and costs little however large it is.
func (b *bench) drain(ctx context.Context, in *event.Batch, show func(enrich.Portion)) error {
	b.t.Helper()
	came := 0
	work := b.Enrich(in)
	defer work.Close()
	for {
		p, err := work.Next(ctx)
		if errors.Is(err, io.EOF) {
			require.Equal(b.t, len(in.Events), came, "every event comes out once")
			return nil
		}
		if err != nil {
			return err
		}
		came += len(p.Lines.Index) + len(p.Dead)
		at := 0
		for _, l := range p.Lines.Index {
			if l.End <= at || p.Lines.Buf[l.End-1] != '\n' {
				b.t.Errorf("not a line: %.300q", p.Lines.Buf[at:l.End])
			}
			at = l.End
		}
		require.Equal(b.t, len(p.Lines.Buf), at)
		if len(p.Lines.Index) > 1 {
			require.LessOrEqual(b.t, len(p.Lines.Buf), 1<<20, "a portion is more only for a single event")
		}
		require.Equal(b.t, len(p.Lines.Index), bytes.Count(p.Lines.Buf, []byte("\n")), "one line for one event")
		show(p)
		size, held := work.Footprint()
		if size > held {
			b.t.Errorf("%d bytes in use, %d reserved", size, held)
		}
		if used := int64(cap(p.Lines.Buf) + 24*cap(p.Lines.Index) + 96*cap(p.Dead)); used > size {
			b.t.Errorf("a portion of %d bytes, %d accounted for", used, size)
		}
		if budget, ok := in.Budget.(*fakeBudget); ok {
			require.Equal(b.t, budget.now(), held)
		}
	}
}

// docs runs events and returns their arcanna.ioc.
func (b *bench) docs(events ...string) []doc {
	b.t.Helper()
	budget := &fakeBudget{t: b.t}
	out, err := b.run(context.Background(), batch(budget, events...))
	require.NoError(b.t, err)
	require.Zero(b.t, budget.now(), "everything is given back")
	var docs []doc
	for _, l := range out.lines {
		docs = append(docs, docOf(b.t, l))
	}
	return docs
}

func (b *bench) doc(ev string) doc { b.t.Helper(); return b.docs(ev)[0] }

// doc is an arcanna.ioc.
type doc map[string]any

func docOf(t testing.TB, line string) doc {
	t.Helper()
	var ev struct {
		Arcanna struct {
			IOC doc `json:"ioc"`
		} `json:"arcanna"`
	}
	require.NoError(t, json.Unmarshal([]byte(line), &ev), line)
	require.NotNil(t, ev.Arcanna.IOC, line)
	return ev.Arcanna.IOC
}

// at is a value within the document, by its dotted path; nil where there is none.
func (d doc) at(path string) any {
	var v any = map[string]any(d)
	for s := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[s]
	}
	return v
}

// word is the status and result of a part.
func (d doc) word(name string) string {
	return fmt.Sprint(d.at(name+".status"), " ", d.at(name+".result"))
}

// flagged is an answer of 90 engines.
func flagged(malicious, suspicious int, age time.Duration) *enrich.Answer {
	a := &enrich.Answer{Found: true, LastAnalysis: time.Now().Add(-age), FetchedAt: time.Now(), Link: "https://www.virustotal.com/gui/x"}
	for i := range 90 {
		c := enrich.CategoryUndetected
		switch {
		case i < malicious:
			c = enrich.CategoryMalicious
		case i < malicious+suspicious:
			c = enrich.CategorySuspicious
		case i < malicious+suspicious+50:
			c = enrich.CategoryHarmless
		}
		a.Engines = append(a.Engines, enrich.EngineVerdict{Engine: fmt.Sprintf("Engine%02d", i), Category: c})
	}
	return a
}

func ipEvent(ip string) string { return fmt.Sprintf(`{"source":{"ip":%q}}`, ip) }

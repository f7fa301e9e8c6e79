package elasticsearch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/event"
	"vtsidecar/output/elasticsearch"
)

// How long a request may take and an answer may be: the real client has bounds
// of its own.
const (
	timeout   = time.Minute
	maxAnswer = 1 << 20
)

// wire is a Doer without a network.
type wire struct{ rt http.RoundTripper }

func (d wire) Do(ctx context.Context, r *elasticsearch.Request) (*elasticsearch.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://es.test"+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	if len(r.Body) > 0 {
		req.Header.Set("Content-Type", r.ContentType)
		if r.ContentType == "" {
			req.Header.Set("Content-Type", "application/json")
		}
	}
	if r.Mark != "" {
		req.Header.Set("X-Opaque-Id", r.Mark)
	}
	resp, err := d.rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, elasticsearch.ErrAnswerTooLong
	}
	return &elasticsearch.Response{Status: resp.StatusCode, Header: resp.Header, Body: body, Host: "es.test"}, nil
}

// grave is a dead letter that knows what the cluster said.
type grave struct {
	t  *testing.T
	es *esstandin.Server

	mu      sync.Mutex
	letters map[string][]event.DeadLetter // by the event's bytes
	full    int                           // so many times it is full
	allowed map[string]bool               // identities that the cluster need not have refused
}

func (g *grave) allow(id string) {
	if g.allowed == nil {
		g.allowed = map[string]bool{}
	}
	g.allowed[id] = true
}

var errFull = errors.New("the dead letter is full")

func (g *grave) Store(_ context.Context, letters []event.DeadLetter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.full > 0 {
		g.full--
		return errFull
	}
	for _, l := range letters {
		l.Event = bytes.Clone(l.Event) // it belongs to the caller
		key := string(bytes.TrimSuffix(l.Event, []byte("\n")))
		g.letters[key] = append(g.letters[key], l)
		if l.Target != nil && l.Status != 0 && l.Status < 500 && l.Status != http.StatusRequestEntityTooLarge && !g.allowed[l.Target.ID] {
			assert.True(g.t, g.es.Refused(l.Target.ID), "an event is given up that the cluster never refused for good")
		}
	}
	return nil
}

func (g *grave) of(line string) []event.DeadLetter {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.letters[line]
}

func (g *grave) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, l := range g.letters {
		n += len(l)
	}
	return n
}

// one is an event of a test.
type one struct {
	id   string // its identity in the cluster
	line string
	raw  event.ID
	own  []byte // its @metadata._id
	meta string
}

// some are events n to m, with words in them to know them by.
func some(from, to int) []one {
	out := make([]one, 0, to-from)
	for i := from; i < to; i++ {
		e := one{line: fmt.Sprintf(`{"@timestamp":"2026-01-02T03:04:05.678Z","message":"needle%d."}`, i)}
		e.raw = event.ID{0: 0xe0, 14: byte(i >> 8), 15: byte(i)}
		e.id = e.raw.String()
		out = append(out, e)
	}
	return out
}

// word is what stands in event i and in no other.
func word(i int) string { return fmt.Sprintf("needle%d.", i) }

func linesOf(o *elasticsearch.Output, events []one) *event.Lines {
	l := &event.Lines{}
	for _, e := range events {
		l.Buf = append(l.Buf, e.line...)
		l.Buf = append(l.Buf, '\n')
		l.Index = append(l.Index, event.Line{ID: e.raw, End: len(l.Buf)})
		r := event.Routing{ID: e.own, Values: make([][]byte, len(o.Routes()))}
		if e.meta != "" {
			r.Meta = []byte(e.meta)
		}
		for i, path := range o.Routes() {
			r.Values[i] = valueAt(e.line, path)
		}
		l.Routing = append(l.Routing, r)
	}
	return l
}

// valueAt is the string at a dotted path.
func valueAt(line, path string) []byte {
	var v any
	if json.Unmarshal([]byte(line), &v) != nil {
		return nil
	}
	for key := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		v = m[key]
	}
	if s, ok := v.(string); ok {
		return []byte(s)
	}
	return nil
}

// bench is an output before a stand-in.
type bench struct {
	t    *testing.T
	es   *esstandin.Server
	out  *elasticsearch.Output
	dead *grave
	log  *bytes.Buffer
}

func open(t *testing.T, es esstandin.Config, change ...func(*elasticsearch.Config)) *bench {
	t.Helper()
	b := &bench{t: t, es: esstandin.New(es), log: &bytes.Buffer{}}
	b.dead = &grave{t: t, es: b.es, letters: map[string][]event.DeadLetter{}}
	cfg := elasticsearch.Config{
		Doer: wire{b.es}, Index: "events", FallbackIndex: "logs-vtsidecar-fallback", OpType: "create",
		AllowedIndices: []string{"events", "*beat-*", "logs-*-*"}, BulkMaxBytes: 10 << 20, Workers: 2,
		Dead: b.dead, Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	out, err := elasticsearch.Open(cfg)
	require.NoError(t, err)
	b.out = out
	t.Cleanup(func() { // of a test that failed: nothing may be left in its bubble
		b.es.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = out.Close(ctx) // it is closed, or the test has failed already
	})
	return b
}

// close closes the output and looks at what should never have been.
func (b *bench) close() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(b.t, b.out.Close(ctx))
	b.es.Close()
	assert.Empty(b.t, b.es.Complaints())
	assert.NotContains(b.t, b.log.String(), "needle", "a document is in the log")
	assert.NotContains(b.t, b.log.String(), "Preview", "a reason that may quote a document is in the log")
}

// store starts a Store.
func (b *bench) store(ctx context.Context, events []one) <-chan error {
	done := make(chan error, 1)
	l := linesOf(b.out, events)
	go func() {
		err := b.out.Store(ctx, l)
		if err == nil {
			b.durable(events) // in this moment, not later
		}
		for i := range l.Buf {
			l.Buf[i] = '#' // the caller may do with its memory what it likes
		}
		done <- err
	}()
	return done
}

// storeUnseen starts a Store whose nil is not looked at.
func (b *bench) storeUnseen(events []one) <-chan error {
	done := make(chan error, 1)
	go func() { done <- b.out.Store(context.Background(), linesOf(b.out, events)) }()
	return done
}

// durable looks whether a nil was true: each event is in the dead letter or the
// cluster has said, in an answer that nobody disturbed, that it has it.
func (b *bench) durable(events []one) {
	for _, e := range events {
		assert.True(b.t, b.es.Settled(e.id) || len(b.dead.of(e.line)) > 0, "nil before %s was durable", e.id)
	}
}

// once looks whether each event is stored once, or dead once.
func (b *bench) once(events []one, dead ...int) {
	b.t.Helper()
	isDead := map[int]bool{}
	for _, i := range dead {
		isDead[i] = true
	}
	for i, e := range events {
		docs, letters := b.es.Find(e.id), b.dead.of(e.line)
		if isDead[i] {
			assert.Empty(b.t, docs, "event %d", i)
			assert.Equal(b.t, 1, len(letters), "letters of event %d", i)
			continue
		}
		assert.Zero(b.t, len(letters), "letters of event %d", i)
		if assert.Len(b.t, docs, 1, "event %d", i) {
			assert.EqualValues(b.t, 1, docs[0].Version, "event %d was written twice", i)
			assert.Equal(b.t, e.line, string(docs[0].Source), "event %d", i)
		}
	}
}

// returned is the result of a Store that is bound to end within a time.
func (b *bench) returned(done <-chan error, within time.Duration) error {
	b.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(within):
		require.FailNow(b.t, "Store does not return", "after %v more", within)
		return nil
	}
}

// waiting looks whether a Store has not returned.
func (b *bench) waiting(done <-chan error) {
	b.t.Helper()
	select {
	case err := <-done:
		require.FailNow(b.t, "Store returned", "%v", err)
	default:
	}
}

func (b *bench) bulks() int { return b.es.Stats().Requests["POST /_bulk"] }

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

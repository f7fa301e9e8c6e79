// Package elasticsearch stores events in Elasticsearch or OpenSearch.
//
// Promise: Store returns nil only when the cluster has answered for every line
// that it holds the document (2xx, or 409 on the event's own identity), or when
// the dead letter holds it durably. A cluster that is away, throttles, blocks or
// answers nonsense is waited for; only a document's own fault sends that
// document, alone, to the dead letter; and an event never chooses an index
// outside of those that the settings allow.
//
// Where to look: route.go says where an event goes (by format strings, format.go),
// outcome.go what an answer means, answer.go how it is read, bulk.go how requests are
// filled and sent, reply.go what becomes of their events then, health.go what is
// known of the cluster, watch.go how it is asked while no event tells, client.go how
// it is reached. Beside that way, template.go says how what is added to events is
// mapped, setup.go brings that into a cluster (by diff.go), simulate.go asks what
// becomes of it there, and examine.go looks for what would stop events.
package elasticsearch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
)

// Graveyard keeps events that the cluster refuses for their own sake; nil means
// that they survive a power cut.
type Graveyard interface {
	Store(ctx context.Context, letters []event.DeadLetter) error
}

// Doer sends one request to one host of the cluster. Client is the real one.
type Doer interface {
	// Do returns the answer whatever its status is. An error means that there is
	// none, and says nothing about whether the request had an effect. Every call
	// chooses a host anew, a healthy one where there is one.
	Do(ctx context.Context, r *Request) (*Response, error)
}

// Request is a request without its host.
type Request struct {
	Method      string
	Path        string // with the query; begins with a slash
	Body        []byte // not changed, not used after Do has returned
	ContentType string // empty: application/json where there is a body
	Mark        string // sent as X-Opaque-Id, which the cluster sends back; empty: none
}

// Response is an answer, read whole and bounded.
type Response struct {
	Status int
	Header http.Header
	Body   []byte // after any Content-Encoding; at most the Doer's bound
	Host   string // who answered, for words: no credentials in it
}

// ErrAnswerTooLong is what a Doer returns, perhaps wrapped, for an answer beyond
// its bound: a smaller request may have a shorter one.
var ErrAnswerTooLong = errors.New("the answer is too long")

// ErrClosed is returned by stores that were still waiting at Close.
var ErrClosed = errors.New("output.elasticsearch: closed")

// ErrHeldBack is returned by a Store whose last events the cluster takes from
// nobody at present, while it stores others and these wait for the memory: the
// sender sends the window again (docs/decisions/0006-held-back.md).
var ErrHeldBack = errors.New("output.elasticsearch: some events of the window are held back by the cluster, and others wait for what the window holds")

// Config says where events go. All but Doer and Dead may be zero.
type Config struct {
	Doer           Doer
	Dead           Graveyard
	Index          string        // output.elasticsearch.index; empty: the event's data_stream.*, else DefaultIndex
	AllowedIndices []string      // names that events may choose, with *; nil: DefaultAllowed
	FallbackIndex  string        // empty: DefaultFallback
	Pipeline       string        // empty: none
	OpType         string        // "create" or "index"; empty: create
	BulkMaxBytes   int64         // of a request's body, more only for a single event; 0: 10 MiB
	Workers        int           // requests side by side; 0: 2
	Hosts          int           // of the Doer: each is tried before nothing counts as well; 0: 1
	Timeout        time.Duration // of the Doer's requests; 0: 60 s
	Watch          time.Duration // without an answer, before the cluster is asked how it is; 0: it never is
	Log            *slog.Logger
	Metrics        *metrics.Set
}

func (c *Config) setDefaults() {
	if c.AllowedIndices == nil {
		c.AllowedIndices = DefaultAllowed
	}
	c.FallbackIndex = cmp.Or(c.FallbackIndex, DefaultFallback)
	c.OpType = cmp.Or(c.OpType, "create")
	if c.BulkMaxBytes <= 0 {
		c.BulkMaxBytes = 10 << 20
	}
	if c.Workers <= 0 {
		c.Workers = 2
	}
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	if c.Hosts <= 0 {
		c.Hosts = 1
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.New("", "", "")
	}
}

// Output stores events. Its methods are safe for concurrent use.
type Output struct {
	cfg     Config
	routing *routing
	path    string          // of bulk requests
	base    context.Context // of requests; ends when Close gives up
	cut     context.CancelFunc
	working sync.WaitGroup

	mu      sync.Mutex    // guards all below
	changed chan struct{} // closed and renewed when there may be something to do
	queue   []piece       // to be sent now, in order
	later   pieces        // to be sent later, the next one first
	jobs    map[*job]struct{}
	closing bool

	ended   int       // stores given up whose pieces may be in queue or later still
	sending int       // requests under way
	slow    int       // of these, those with slow pieces: one, where there are several workers
	due     time.Time // when the cluster is asked how it is
	most    int64     // bytes of a body, lowered by a server with a smaller bound
	lowered time.Time
	renamed time.Time // when an answer named another _id than was sent, last
	health  health
}

// Open starts the workers. A cluster that is away is no error.
func Open(cfg Config) (*Output, error) {
	if cfg.Doer == nil || cfg.Dead == nil {
		return nil, errors.New("output.elasticsearch: a client and a dead letter are needed")
	}
	cfg.setDefaults()
	if cfg.OpType != "create" && cfg.OpType != "index" {
		return nil, fmt.Errorf("output.elasticsearch.op_type: %q is neither create nor index", cfg.OpType)
	}
	routing, err := newRouting(&cfg)
	if err != nil {
		return nil, err
	}
	base, cut := context.WithCancel(context.Background())
	o := &Output{
		cfg: cfg, routing: routing, base: base, cut: cut,
		path:    bulkPath + strconv.FormatInt(max(1, min(waitMost, cfg.Timeout/4).Milliseconds()), 10) + "ms",
		changed: make(chan struct{}), jobs: map[*job]struct{}{}, most: cfg.BulkMaxBytes,
	}
	o.health = health{cfg: &o.cfg, outages: map[place]*trouble{}}
	for _, x := range itemOutcomes { // an alert on increase() does not see a series that begins at 1
		cfg.Metrics.OutputItems.WithLabelValues(x.outcome, x.reason)
		switch x.outcome {
		case "refused":
			cfg.Metrics.EventsDeadLettered.WithLabelValues(x.reason)
		case "retried":
			cfg.Metrics.OutputRetries.WithLabelValues(x.reason)
		}
	}
	for _, reason := range []string{reasonUnreached, reasonTimeout, reasonUnreadable, reasonRenamed, reasonRedirect, reasonExplicit, reasonTooLarge, reasonDocument} {
		cfg.Metrics.OutputRetries.WithLabelValues(reason)
	}
	for _, reason := range fallbackReasons {
		cfg.Metrics.OutputFallback.WithLabelValues(reason)
	}
	cfg.Metrics.OutputOldestRetry.From(o.oldestRetry)
	cfg.Metrics.OutputUp.Set(1)
	for range cfg.Workers {
		w := &worker{o: o, router: newRouter(routing)}
		o.working.Go(w.run)
	}
	if cfg.Watch > 0 {
		o.working.Go(o.watch)
	}
	return o, nil
}

// Routes are the paths whose values Store wants in each line's Routing.Values,
// in that order.
func (o *Output) Routes() []string { return slices.Clone(o.routing.paths) }

// Ready returns nil, or in words why nothing, or nothing of some index, can be
// stored at present.
func (o *Output) Ready() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.health.lapse(time.Now(), len(o.jobs) > 0)
	return o.health.err()
}

// oldestRetry is since when the oldest event waits that is tried again.
func (o *Output) oldestRetry() (oldest time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.health.down != nil {
		oldest = o.health.down.since
	}
	for j := range o.jobs {
		if t := j.troubled; !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	return oldest
}

// Store returns nil when every line is stored, or in the dead letter. While the
// cluster is away, or takes some of them from nobody, it waits, until ctx ends.
// An error means that the lines may or may not be stored. The bytes are not used
// after it returns.
func (o *Output) Store(ctx context.Context, lines *event.Lines) error {
	if len(lines.Index) == 0 {
		return nil
	}
	return o.settle(ctx, &job{lines: lines, wanted: lines.Wanted, bury: o.cfg.Dead.Store})
}

// StoreOr is Store with another dead letter. What that is given stays its own.
func (o *Output) StoreOr(ctx context.Context, lines *event.Lines, dead Graveyard) error {
	if len(lines.Index) == 0 {
		return nil
	}
	return o.settle(ctx, &job{lines: lines, wanted: lines.Wanted, bury: func(ctx context.Context, letters []event.DeadLetter) error {
		own := slices.Clone(letters)
		for i := range own {
			own[i].Event = slices.Clone(own[i].Event)
		}
		return dead.Store(ctx, own)
	}})
}

// CanReplay says in words why a dead letter cannot be stored under its Target;
// empty: it can.
func CanReplay(l *event.DeadLetter) string {
	switch t := l.Target; {
	case t == nil || t.ID == "" || len(t.ID) > maxID || t.Index == "" || t.Op != "create" && t.Op != "index":
		return "it does not say where it was to be stored"
	case len(l.Event) == 0 || int64(len(l.Event)) < l.Length || slices.Contains(l.Event, '\n') || slices.Contains(l.Event, '\r'):
		return "it does not have its event whole, on one line"
	}
	return ""
}

// Replay stores dead letters, all of which CanReplay, under the Targets they
// have. refused has an element for each of them: nil where it is stored, else
// what the cluster says now. An error means that some may be stored and some not.
func (o *Output) Replay(ctx context.Context, letters []event.DeadLetter) (refused []*event.DeadLetter, err error) {
	lines := &event.Lines{}
	var fixed []*route
	for i := range letters {
		l := &letters[i]
		lines.Buf = append(append(lines.Buf, l.Event...), '\n')
		lines.Index = append(lines.Index, event.Line{End: len(lines.Buf)})
		lines.Routing = append(lines.Routing, event.Routing{ID: []byte(l.Target.ID)})
		t := *l.Target
		t.ID = ""
		fixed = append(fixed, newRoute(t))
	}
	refused = make([]*event.DeadLetter, len(letters))
	if len(letters) == 0 {
		return refused, nil
	}
	at := map[*byte]int{} // by the first byte of the line, which letters alias
	begin := 0
	for i, line := range lines.Index {
		at[&lines.Buf[begin]] = i
		begin = line.End
	}
	err = o.settle(ctx, &job{lines: lines, fixed: fixed, bury: func(_ context.Context, again []event.DeadLetter) error {
		for _, l := range again {
			i := at[&l.Event[0]]
			l.Event = letters[i].Event
			refused[i] = &l
		}
		return nil
	}})
	return refused, err
}

// Close waits for what is being stored until ctx ends. Stores that are still
// waiting then return ErrClosed.
func (o *Output) Close(ctx context.Context) error {
	o.mu.Lock()
	o.closing = true
	o.endUnwanted()
	o.wake()
	o.mu.Unlock()
	done := make(chan struct{})
	go func() { o.working.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	o.cut()
	<-done // requests end with their context
	o.mu.Lock()
	defer o.mu.Unlock()
	left := len(o.jobs)
	for j := range o.jobs {
		j.fail(ErrClosed)
	}
	if left > 0 {
		return fmt.Errorf("output.elasticsearch: %d windows or parts of windows were given up", left)
	}
	return nil
}

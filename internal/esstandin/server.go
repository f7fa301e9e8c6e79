// Package esstandin is an Elasticsearch, or an OpenSearch, for tests and
// benchmarks: the part of the REST API that this program speaks, with documents
// that are kept, templates, pipelines, blocks and faults that are switched while
// it runs.
//
// Promise: it answers in the shapes of the real servers, it knows of every
// document how often it was written and whether an honest answer about it went
// out, and it complains (Complaints) about every request that a real cluster
// should never see, also where that cluster would take it.
package esstandin

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a stand-in starts with. The zero value is an Elasticsearch that
// takes any credentials and has no limits.
type Config struct {
	OpenSearch bool // answers as OpenSearch does; else as Elasticsearch

	// Authorization is the only value of the header of that name that is right;
	// empty: any, or none.
	Authorization string
	// NoCredentials: this host is none that credentials belong to; to see some is
	// a complaint.
	NoCredentials bool
	// NoAutoCreate: an index that nobody made is not made by writing to it.
	NoAutoCreate bool
	// NoExplicitIndex: rest.action.multi.allow_explicit_index is false; every bulk
	// that names its indices is refused as a whole.
	NoExplicitIndex bool

	// Discard: bulks are counted and answered as created, nothing is kept and
	// nothing is checked: the cheapest cluster there is, for benchmarks.
	Discard bool
	// Delay is how long every bulk takes beyond its own time.
	Delay time.Duration

	Log *slog.Logger // complaints; nil: silent
}

// Limits are the bounds of a server; 0: none.
type Limits struct {
	MaxContentLength int64 // http.max_content_length: 413, also after inflation
	IndexingPressure int64 // indexing_pressure.memory.limit, of one bulk's body: request 429
	MaxMessage       int   // bytes of a document's "message"; Lucene's bound is 32766
}

// Doc is a document that is kept.
type Doc struct {
	Index    string // the concrete one: of a data stream the backing index
	ID       string
	Version  int64 // 1, and one more for each overwrite
	SeqNo    int64
	Pipeline string // that the action named
	Source   []byte
}

// Stats is what a stand-in has seen.
type Stats struct {
	Requests   map[string]int `json:"requests"`   // "POST /_bulk": how many
	Answers    map[string]int `json:"answers"`    // "200", "413"; a request that had no answer is not there
	Items      map[string]int `json:"items"`      // of bulks: "201", "409 version_conflict_engine_exception"
	Lines      int64          `json:"lines"`      // documents in the bulks that were read
	Bytes      int64          `json:"bytes"`      // of the bulks' bodies, as they were sent
	Resent     int            `json:"resent"`     // documents that came again though an honest answer had settled them
	Overwrites int            `json:"overwrites"` // documents that were written over
	MaxBulk    int            `json:"max_bulk"`   // bytes of the largest body, inflated
	InFlight   int            `json:"in_flight"`  // most bulks at once
	Complaints []string       `json:"complaints"`

	FailureStore int `json:"failure_store"` // documents in failure stores
}

// Server is a stand-in. It is an http.Handler, an http.RoundTripper for tests
// without a network, and safe for concurrent use.
type Server struct {
	cfg   Config // constant
	done  chan struct{}
	stop  sync.Once
	lines atomic.Int64 // documents seen with Discard
	bytes atomic.Int64 // of bodies seen with Discard
	bulks atomic.Int64 // seen with Discard

	mu         sync.Mutex
	limits     Limits              // guarded by mu, as is all below
	faults     []Fault             // the first is in force
	rules      []Rule              //
	tries      map[string]int      // "rule number, id": how often the rule was applied
	indices    map[string]*index   // by concrete name
	streams    map[string][]string // data stream: its backing indices, the last is written to
	aliases    map[string]string   // alias: index
	components map[string]any      // component templates
	templates  map[string]any      // index templates
	pipelines  map[string]any      //
	settled    map[string]bool     // ids that an honest answer called stored
	refused    map[string]bool     // ids that an honest answer refused for good
	missing    []string            // privileges
	inFlight   int
	stats      Stats
}

type index struct {
	docs     map[string]*Doc
	order    []string // ids as they came
	seq      int64
	closed   bool
	settings map[string]any // the flat names that a user set
	mappings any
}

// New makes a stand-in.
func New(cfg Config) *Server {
	s := &Server{
		cfg: cfg, done: make(chan struct{}),
		indices: map[string]*index{}, streams: map[string][]string{}, aliases: map[string]string{},
		components: map[string]any{}, templates: map[string]any{}, pipelines: map[string]any{},
		settled: map[string]bool{}, refused: map[string]bool{}, tries: map[string]int{},
	}
	if !cfg.OpenSearch {
		s.templates["logs"] = map[string]any{ // as it comes with the stack
			"index_patterns": []any{"logs-*-*"}, "priority": 100.0, "data_stream": map[string]any{}, "composed_of": []any{},
			"template": map[string]any{}, "_meta": map[string]any{"managed": true},
		}
	}
	s.resetStats()
	return s
}

// Close ends the answers that hang and those that are late.
func (s *Server) Close() { s.stop.Do(func() { close(s.done) }) }

// SetLimits sets the bounds that are in force from now on.
func (s *Server) SetLimits(l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
}

// Docs are the documents of an index, an alias or a data stream, in the order
// in which they came; "" are those of all.
func (s *Server) Docs(name string) []Doc {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Doc
	for _, n := range s.concrete(name) {
		ix := s.indices[n]
		for _, id := range ix.order {
			out = append(out, *ix.docs[id])
		}
	}
	return out
}

// Find are all documents with an identity: of an event that was stored once,
// one.
func (s *Server) Find(id string) []Doc {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Doc
	for _, name := range slices.Sorted(maps.Keys(s.indices)) {
		if d := s.indices[name].docs[id]; d != nil {
			out = append(out, *d)
		}
	}
	return out
}

// Settled reports whether an honest and whole answer went out that calls the
// document stored: 2xx, or 409 on a create.
func (s *Server) Settled(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled[id]
}

// Refused reports whether an honest and whole answer went out that refuses the
// document with a 4xx other than 409 and 429.
func (s *Server) Refused(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused[id]
}

// concrete are the indices behind a name. With mu.
func (s *Server) concrete(name string) []string {
	if name == "" {
		return slices.Sorted(maps.Keys(s.indices))
	}
	if target, ok := s.aliases[name]; ok {
		name = target
	}
	if backing, ok := s.streams[name]; ok {
		return backing
	}
	if s.indices[name] != nil {
		return []string{name}
	}
	return nil
}

// CreateIndex makes an empty index where there is none of this name.
func (s *Server) CreateIndex(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.create(name)
}

// create makes an index. With mu.
func (s *Server) create(name string) *index {
	if ix := s.indices[name]; ix != nil {
		return ix
	}
	ix := &index{docs: map[string]*Doc{}, settings: map[string]any{}}
	s.indices[name] = ix
	return ix
}

// SetAlias lets a name stand for an index or a data stream.
func (s *Server) SetAlias(alias, target string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aliases[alias] = target
}

// SetClosed closes an index, or opens it.
func (s *Server) SetClosed(name string, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.concrete(name) {
		s.indices[n].closed = closed
	}
}

// The blocks that an operator, or a full disk, puts on an index.
const (
	BlockReadOnlyAllowDelete = "index.blocks.read_only_allow_delete"
	BlockWrite               = "index.blocks.write"
	NoShard                  = "index.routing.allocation.require._name" // with any value, no node has its shard
)

// SetBlock puts a block on an index, or lifts it. An index that is not there is
// made.
func (s *Server) SetBlock(name, block string, on bool) {
	s.SetSetting(name, block, fmt.Sprint(on))
}

// SetSetting gives an index a setting by its whole name; an index that is not
// there is made.
func (s *Server) SetSetting(name, setting, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.concrete(name)
	if len(names) == 0 {
		s.create(name)
		names = []string{name}
	}
	for _, n := range names {
		s.indices[n].settings[setting] = value
	}
}

// DeleteSetting takes a setting from an index.
func (s *Server) DeleteSetting(name, setting string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.concrete(name) {
		delete(s.indices[n].settings, setting)
	}
}

// PutPipeline makes an ingest pipeline of these processors: {"set": {"field",
// "value"}}, {"fail": {"message"}}, {"drop": {}}.
func (s *Server) PutPipeline(name string, processors ...map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]any, len(processors))
	for i, p := range processors {
		list[i] = p
	}
	s.pipelines[name] = map[string]any{"processors": list}
}

// PutTemplate makes an index template for a pattern; stream: what it matches is
// a data stream.
func (s *Server) PutTemplate(name, pattern string, priority int, stream bool) {
	t := map[string]any{"index_patterns": []any{pattern}, "priority": float64(priority), "composed_of": []any{}, "template": map[string]any{}}
	if stream {
		t["data_stream"] = map[string]any{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.templates[name] = t
}

// Rollover gives a data stream a new index to write to.
func (s *Server) Rollover(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roll(stream)
}

// roll adds a backing index. With mu.
func (s *Server) roll(stream string) string {
	name := fmt.Sprintf(".ds-%s-%s-%06d", stream, time.Now().UTC().Format("2006.01.02"), len(s.streams[stream])+1)
	s.create(name)
	s.streams[stream] = append(s.streams[stream], name)
	return name
}

// Stats is a copy of what has been seen.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Requests, out.Answers, out.Items = maps.Clone(out.Requests), maps.Clone(out.Answers), maps.Clone(out.Items)
	out.Complaints = slices.Clone(out.Complaints)
	out.Lines += s.lines.Load()
	out.Bytes += s.bytes.Load()
	if n := int(s.bulks.Load()); n > 0 {
		out.Requests["POST /_bulk"] += n
		out.Answers["200"] += n
	}
	return out
}

// Complaints is what a real cluster should never have seen.
func (s *Server) Complaints() []string { return s.Stats().Complaints }

// Reset forgets the documents, the data streams and what was seen; not the
// faults, the blocks, the templates and the pipelines.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ix := range s.indices {
		ix.docs, ix.order, ix.seq = map[string]*Doc{}, nil, 0
	}
	clear(s.settled)
	clear(s.refused)
	clear(s.tries)
	s.lines.Store(0)
	s.bytes.Store(0)
	s.bulks.Store(0)
	s.resetStats()
}

func (s *Server) resetStats() {
	s.stats = Stats{Requests: map[string]int{}, Answers: map[string]int{}, Items: map[string]int{}, Complaints: []string{}}
}

// maxComplaints bounds those that are kept.
const maxComplaints = 1000

// complain notes what should not have come. The words may name no document: they
// end up in the output of tests, but also in a demonstration's log.
func (s *Server) complain(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	s.mu.Lock()
	if len(s.stats.Complaints) < maxComplaints {
		s.stats.Complaints = append(s.stats.Complaints, text)
	}
	s.mu.Unlock()
	if s.cfg.Log != nil {
		s.cfg.Log.Warn("complaint: " + text)
	}
}

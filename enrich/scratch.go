package enrich

import (
	"context"
	"unsafe"

	"vtsidecar/cache"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/scan"
	"vtsidecar/internal/event"
)

// scratch is the memory of a Work. It is kept for the next one.
type scratch struct {
	result   scan.Result // of the event that is being scanned
	scanned  int         // bytes of it that are accounted for
	planned  []planned   // events of the round
	refs     []ref       // what is in them
	findings []finding   // distinct indicators, and values that are none
	text     []byte      // their values, remembered values, and identities
	known    table       // findings by type and value
	memo     table       // memos by kind and value as it was sent
	memos    []memo
	members  []indicator.Member // of one object of hashes
	waits    []wait             // findings that were asked for
	dead     []event.DeadLetter
	parts    []part                  // of the event that is being written
	distinct []uint32                // its findings that count
	skipped  [indicator.Hash + 1]int // its values that do not, by type
	bodies   []byte                  // parts, ready to be put in
	bodiesOf uint32                  // generation of bodies
	doc      []byte                  // of the event that is being written
	hit      bool                    // it has hits:
	hits     []hit                   // those that become elements of threat.enrichments,
	ecs      []byte                  // and what they add to threat and related
	inserts  []insert                // pieces of ecs, where they go
	key      []byte                  // of the cache
	name     []byte                  // of the event that is being written, for @metadata
	found    []byte                  // the parser's, for free text
	lines    event.Lines
	metas    []scan.Span // of each planned event, where routing is wanted
	routes   []route     // the same, as many for each as Config.Routes
	values   [][]byte    // of the lines
	stamp    []byte      // the round's time as documents have it

	uses   int       // works that had it
	random [256]byte // for identities
	fresh  int       // bytes of random that were not used yet
}

// forget lets go of what the memory points to.
func (s *scratch) forget() {
	s.forgetRound()
	clear(s.dead[:cap(s.dead)])
	clear(s.members[:cap(s.members)])
	clear(s.result.Values[:cap(s.result.Values)])
}

// forgetRound empties what holds answers, plans and flights: a later round may
// not reach what an earlier one has left there.
func (s *scratch) forgetRound() {
	clear(s.findings)
	clear(s.planned)
	clear(s.waits)
	clear(s.lines.Routing)
	clear(s.values)
	s.metas, s.routes = s.metas[:0], s.routes[:0]
	s.findings, s.planned, s.waits = s.findings[:0], s.planned[:0], s.waits[:0]
	s.lines.Wanted = nil
}

// size is how many bytes s holds.
func (s *scratch) size() int64 {
	n := s.scanned + bytesOf(s.planned) + bytesOf(s.refs) + bytesOf(s.findings) + bytesOf(s.text) +
		bytesOf(s.known.slots) + bytesOf(s.memo.slots) + bytesOf(s.memos) + bytesOf(s.members) + bytesOf(s.waits) +
		bytesOf(s.dead) + bytesOf(s.parts) + bytesOf(s.distinct) + bytesOf(s.bodies) + bytesOf(s.doc) +
		bytesOf(s.hits) + bytesOf(s.ecs) + bytesOf(s.inserts) + bytesOf(s.key) + bytesOf(s.found) + bytesOf(s.name) +
		bytesOf(s.lines.Buf) + bytesOf(s.lines.Index) + bytesOf(s.lines.Routing) +
		bytesOf(s.metas) + bytesOf(s.routes) + bytesOf(s.values)
	return int64(n)
}

func bytesOf[T any](s []T) int { var t T; return cap(s) * int(unsafe.Sizeof(t)) }

// planned is an event of the round that will be written.
type planned struct {
	plan    scan.Plan
	id      event.ID
	index   int32  // in Batch.Events
	from    uint32 // its refs, to
	to      uint32 // here
	idAt    uint32 // its @metadata._id in text,
	idLen   uint32 // where that is its identity; else 0
	dropped int32  // values that nobody looked at
	kept    bool   // its own verdict stays
	hasSite bool   // a threat or a related of its own
}

// route is the value of a route of an event, in scratch.text.
type route struct {
	at, size uint32
	there    bool
}

// ref is a value of an event.
type ref struct {
	finding uint32
	name    uint16
	tooMany bool // the event has more than are looked up
}

// finding is a distinct indicator of the round, or a value that is none.
type finding struct {
	// What every event that has it touches comes first, in one cache line: a batch
	// has thousands.
	event     uint32 // event of the round that it was seen in last, counted from 1
	rendered  uint32 // document that it was seen in last
	names     uint64 // the names it stands under in that event, as far as they have bits
	at, size  uint32 // its value in scratch.text
	typ       indicator.Type
	status    status
	result    result
	cached    cacheWord
	asked     bool   // some event wants its answer
	chosen    bool   // in the event it is one of those that are looked up
	found     bool   // the answer's Found
	positives uint16 // the verdict's malicious
	spare     uint32 // bytes that its answer may add to a document, less a detail
	ready     string // the fact's body
	fact      *fact  // what it says of the finding holds; nil: there is none

	answer   *Answer // found, stale and not_found have one
	verdict  verdict // found and stale have one
	skip     indicator.Skip
	leftOut  string
	body     piece // its part, but for the closing brace
	sentence piece // what the explanation says about it
	element  piece // hits: its element of threat.enrichments, but for the field
	_        [32]byte
}

// trust takes a fact for what is to be said about the finding.
func (f *finding) trust(x *fact) { f.fact, f.ready = x, x.body }

func (f *finding) distrust() { f.fact, f.ready = nil, "" }

// piece is a range of scratch.bodies, of one generation.
type piece struct{ generation, at, size uint32 }

// memo remembers what a value as it was sent became.
type memo struct {
	at, size uint32 // in scratch.text
	kind     indicator.Kind
	finding  uint32
}

// wait is a finding that the queue was asked for.
type wait struct {
	finding uint32
	joined  bool
	flight  *cache.Flight[*Answer]
	key     string
	stale   *Answer // an expired answer, in case no other comes
}

// reserve takes n bytes from the budget.
func (w *Work) reserve(ctx context.Context, n int) error {
	if use := min(n, w.credit); use > 0 {
		w.credit -= use
		n -= use
	}
	if n <= 0 {
		return nil
	}
	if err := w.batch.Budget.Reserve(ctx, int64(n)); err != nil {
		return err
	}
	w.held += int64(n)
	return nil
}

func (w *Work) release(n int) {
	if n > 0 {
		w.batch.Budget.Release(int64(n))
		w.held -= int64(n)
	}
}

// room makes room for n more elements in s. What it allocates it reserves
// first; old and new are both held while one is copied into the other.
func room[T any](ctx context.Context, w *Work, s *[]T, n int) error {
	need := len(*s) + n
	if need <= cap(*s) {
		return nil
	}
	return resize(ctx, w, s, max(need, 2*cap(*s), 64))
}

// resize moves s into memory for n elements.
func resize[T any](ctx context.Context, w *Work, s *[]T, n int) error {
	old := bytesOf(*s)
	var t T
	if err := w.reserve(ctx, n*int(unsafe.Sizeof(t))); err != nil {
		return err
	}
	grown := make([]T, len(*s), n)
	copy(grown, *s)
	*s = grown
	w.release(old)
	return nil
}

// settle accounts for a slice that a callee has appended to beyond its room,
// which then was larger than before.
func settle[T any](ctx context.Context, w *Work, s []T, before int) error {
	if now := bytesOf(s); now > before {
		return w.reserve(ctx, now-before)
	}
	return nil
}

func (w *Work) roomInTable(ctx context.Context, t *table) error {
	if !t.full() {
		return nil
	}
	n, old := t.next(), bytesOf(t.slots)
	if err := w.reserve(ctx, n*slotSize); err != nil {
		return err
	}
	t.rehash(make([]slot, n))
	w.release(old)
	return nil
}

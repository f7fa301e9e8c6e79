package enrich

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"time"
	"unsafe"

	"vtsidecar/cache"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/scan"
	"vtsidecar/internal/event"
)

// A Work goes through its batch in rounds. A round scans events and gathers
// what is in them, up to the bounds below; looks every distinct indicator up
// once; and then writes lines, in one portion or several. So an attacker's
// batch costs more rounds and portions, not more memory. An ordinary batch is
// one round and one portion.
const (
	maxPortion    = 1 << 20 // bytes of lines by default; more only for a single event. What fits into a core's cache is written to the file from there
	maxRoundRefs  = 64 << 10
	maxFindings   = 32 << 10
	maxRound      = 16 << 10 // events
	maxEventRefs  = 4096     // values of one event that are looked at
	maxValue      = 8 << 10  // bytes of an indicator; longer ones are none
	maxMemo       = 1 << 10  // bytes of a value that is remembered as it was sent
	maxBodies     = 1 << 20  // bytes of parts that are kept ready
	maxID         = 512      // bytes of an @metadata._id
	maxRouteValue = 1 << 10  // bytes of a value that names a place; longer ones name none
)

// Portion is some events of a batch: those that can be stored, and those that
// never can. It is valid until the next call of Next or Close.
type Portion struct {
	Lines event.Lines
	Dead  []event.DeadLetter
}

// Work is a batch on its way through the Enricher. It belongs to one goroutine.
type Work struct {
	e        *Enricher
	batch    *event.Batch
	deadline time.Time  // for answers, of the whole batch
	next     int        // event that is scanned next
	written  int        // of scratch.planned, how many events are written
	rendered uint32     // documents of the round that were begun
	touched  uint32     // what was read ahead, for nothing but that
	hashes   [16]uint64 // of the first values of the event that is being scanned; 0: none
	now      time.Time  // of the round, by Config.Now
	s        *scratch   // nil: not yet, or not any more
	asked    int        // indicators of the event that is being scanned that are looked up
	held     int64      // bytes reserved from the batch's budget,
	credit   int        // and of these, those that nothing was allocated for yet
	err      error      // what ended it; then Next has nothing more

	// For panics; see retry.
	at       int  // event that is being scanned or written, -1: none
	most     int  // events that the next round takes
	done     int  // events before it were handed out
	buried   int  // dead letters before it were handed out
	blamed   int  // event that is buried, -1: none
	panicked bool // it was logged

	tally  [indicator.Hash + 1][results]int
	cached [cacheWords]int
}

// Enrich begins a batch: from now on answers are waited for, Config.Wait at
// most for all of it. The batch must stay as it is until Close.
func (e *Enricher) Enrich(b *event.Batch) *Work {
	return &Work{e: e, batch: b, deadline: time.Now().Add(e.cfg.Wait), most: maxRound, blamed: -1}
}

// Next returns the next portion, or io.EOF behind the last one. Any other error
// means that the batch cannot be enriched now, and none of its events that were
// not in a portion before may be acknowledged: the sender sends them again.
//
// An event whose handling panics goes to the dead letter, whole, and its
// neighbours are stored: refused for ever, it would keep everything behind it
// at its sender. A panic that is no event's own is an error.
func (w *Work) Next(ctx context.Context) (Portion, error) {
	if w.err != nil {
		return Portion{}, w.err
	}
	for {
		p, panicked, err := w.portion(ctx)
		if panicked && w.retry() {
			continue
		}
		if err != nil {
			w.err = err
			return Portion{}, err
		}
		return p, nil
	}
}

// retry prepares for another try after a panic, with new memory, since what is
// in the old one is not known. It begins behind what has been handed out and
// takes one event at first, then twice as many with each portion, so that a
// batch in which every event panics costs two panics an event and no more. An
// event that panics in a try of its own is to blame, and is buried in the next.
// It is false where no event can be blamed.
func (w *Work) retry() bool {
	if w.at < 0 || w.blamed >= 0 {
		return false
	}
	if w.most == 1 {
		w.blamed = w.at
	}
	w.most = 1
	w.forget()
	w.next = w.done
	return true
}

// portion is one try at Next.
func (w *Work) portion(ctx context.Context) (p Portion, panicked bool, err error) {
	w.at = -1
	defer func() {
		if r := recover(); r != nil {
			if !w.panicked {
				// The panic's value may quote the event; the stack does not.
				w.e.cfg.Log.Error("enriching a batch panicked", "stack", string(debug.Stack()))
			}
			w.panicked = true
			w.s = nil // in an unknown state
			p, panicked, err = Portion{}, true, errors.New("enrich: panic over a batch; see the log")
		}
	}()
	if err := ctx.Err(); err != nil {
		return Portion{}, false, err
	}
	if w.s == nil {
		if err := w.begin(ctx); err != nil {
			return Portion{}, false, err
		}
	}
	s := w.s
	s.dead = s.dead[:0]
	if w.written == len(s.planned) {
		if w.next == len(w.batch.Events) {
			return Portion{}, false, io.EOF
		}
		if err := w.gather(ctx); err != nil {
			return Portion{}, false, err
		}
		if err := w.answers(ctx); err != nil {
			return Portion{}, false, err
		}
	}
	if err := w.write(ctx); err != nil {
		return Portion{}, false, err
	}
	w.release(w.credit)
	w.credit = 0
	w.at = -1
	w.count()
	w.blamed = -1
	w.most = min(2*w.most, maxRound)
	w.buried = max(w.buried, w.next) // a round's are in its first portion
	if w.done = w.next; w.written < len(s.planned) {
		w.done = int(s.planned[w.written].index)
	}
	return Portion{Lines: s.lines, Dead: s.dead}, false, nil
}

// forget drops all that the Work knows of its round.
func (w *Work) forget() {
	w.s = nil
	w.written = 0
	w.batch.Budget.Release(w.held)
	w.held, w.credit = 0, 0
	clear(w.tally[:])
	clear(w.cached[:])
}

// Close gives back everything that the Work holds. Portions end with it.
func (w *Work) Close() {
	if w.s != nil {
		w.e.pool.give(w.s, w.s.size(), int64(w.e.cfg.PortionBytes))
		w.s = nil
	}
	w.batch.Budget.Release(w.held)
	w.held, w.credit = 0, 0
	if w.err == nil {
		w.err = errors.New("enrich: work is closed")
	}
}

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

// begin gets memory.
func (w *Work) begin(ctx context.Context) error {
	total := 0
	for i := range w.batch.Events {
		total += len(w.batch.Events[i].Raw)
	}
	n := w.e.pool.need(total)
	if err := w.reserve(ctx, int(n)); err != nil {
		return err
	}
	k := w.e.pool.take(total, n)
	w.credit = int(n - k.size)
	w.s = k.s
	return nil
}

// gather scans the events of a round.
func (w *Work) gather(ctx context.Context) error {
	s := w.s
	s.forgetRound()
	s.refs, s.text, s.memos = s.refs[:0], s.text[:0], s.memos[:0]
	s.known.reset()
	s.memo.reset()
	s.bodies = s.bodies[:0]
	s.bodiesOf++
	w.written, w.rendered, w.now = 0, 0, w.e.cfg.Now()
	s.stamp = appendTime(s.stamp[:0], w.now)
	for w.next < len(w.batch.Events) &&
		len(s.refs) < maxRoundRefs && len(s.findings) < maxFindings && len(s.planned)+len(s.dead) < w.most {
		if w.next%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		w.at = w.next
		if err := w.scan(ctx, &w.batch.Events[w.next]); err != nil {
			return err
		}
		w.next++
	}
	w.at = -1
	return nil
}

// scan reads one event.
func (w *Work) scan(ctx context.Context, ev *event.Event) error {
	s := w.s
	if w.next == w.blamed || ev.Oversize != nil || len(ev.Raw) == 0 {
		return w.bury(ctx, ev, nil)
	}
	// What unescaping may take is known beforehand, and the rest of a Result is bounded.
	if need := len(ev.Raw) + len(ev.Raw)/4 + 64; need > s.scanned {
		if err := w.reserve(ctx, need-s.scanned); err != nil {
			return err
		}
		s.scanned = need
	}
	err := w.e.scanner.Scan(ev.Raw, &s.result)
	if n := s.result.Size(); n > s.scanned {
		if err := w.reserve(ctx, n-s.scanned); err != nil {
			return err
		}
		s.scanned = n
	}
	if err != nil {
		return w.bury(ctx, ev, err)
	}

	if err := room(ctx, w, &s.planned, 1); err != nil {
		return err
	}
	r := &s.result
	from := uint32(len(s.refs))
	s.planned = append(s.planned, planned{plan: r.Plan(), index: int32(w.next), from: from, dropped: int32(min(r.Dropped, 1<<30)), hasSite: r.HasSite})
	p := &s.planned[len(s.planned)-1]
	if err := w.reserve(ctx, p.plan.Size()); err != nil { // rarely anything; until Close
		return err
	}
	if err := w.identify(ctx, p); err != nil {
		return err
	}
	if w.e.cfg.Routing {
		if err := w.remember(ctx, ev.Raw); err != nil {
			return err
		}
	}
	if r.HadVerdict && w.e.cfg.TrustVerdicts {
		p.kept = true
	} else {
		if r.HadVerdict {
			w.e.cfg.Metrics.VerdictsRemoved.Inc()
		}
		if err := w.collect(ctx, p); err != nil {
			return err
		}
	}
	p.to = uint32(len(s.refs))
	return nil
}

// bury sets an event aside that cannot be stored. The letter has the event's
// own bytes, which stay as long as the batch.
func (w *Work) bury(ctx context.Context, ev *event.Event, err error) error {
	if w.next < w.buried && w.next != w.blamed {
		return nil // in a portion already
	}
	s := w.s
	if err := room(ctx, w, &s.dead, 1); err != nil {
		return err
	}
	d := event.DeadLetter{Reason: "malformed", Event: ev.Raw, Length: int64(len(ev.Raw))}
	var malformed *scan.Malformed
	switch {
	case ev.Oversize != nil && ev.Oversize.Length > 0:
		d.Reason, d.Detail = "oversize", "longer than input.max_event"
		d.Length, d.SHA256 = ev.Oversize.Length, hex.EncodeToString(ev.Oversize.SHA256[:])
	case w.next == w.blamed:
		// Nothing is wrong with it as far as is known, so it is kept whole.
		d.Reason, d.Detail = "internal_error", "enriching it panicked; the log has the stack"
	case err == nil:
		d.Detail, d.Length = "empty event", 0
	case errors.As(err, &malformed):
		d.Detail = fmt.Sprintf("%s at byte %d", malformed.Reason, malformed.Offset)
	default:
		d.Detail = "not an event"
	}
	if len(d.Event) > event.MaxStub && w.next != w.blamed {
		if d.SHA256 == "" {
			sum := sha256.Sum256(ev.Raw)
			d.SHA256 = hex.EncodeToString(sum[:])
		}
		d.Event = d.Event[:event.MaxStub]
	}
	s.dead = append(s.dead, d)
	return nil
}

// identify finds the event's identity.
func (w *Work) identify(ctx context.Context, p *planned) error {
	s := w.s
	r := &s.result
	if r.HadVerdict && w.e.cfg.TrustVerdicts {
		if kept, err := w.keptID(ctx, p); kept || err != nil {
			return err
		}
	}
	switch {
	case w.e.cfg.IDMetadata && len(r.MetadataID) > 0:
		return w.named(ctx, p, r.MetadataID)
	case r.HasPosition || w.e.cfg.IDFromContent:
		p.id = r.Digest
	case w.batch.Events[w.next].Receipt != event.ID{}:
		p.id = w.batch.Events[w.next].Receipt
	default:
		if s.fresh < len(p.id) {
			rand.Read(s.random[:]) // never fails
			s.fresh = len(s.random)
		}
		s.fresh -= len(p.id)
		copy(p.id[:], s.random[s.fresh:])
	}
	return nil
}

// remember notes what the scanned event says about where it should go.
func (w *Work) remember(ctx context.Context, raw []byte) error {
	s := w.s
	if err := room(ctx, w, &s.metas, 1); err != nil {
		return err
	}
	s.metas = append(s.metas, s.result.Metadata(raw))
	if err := room(ctx, w, &s.routes, len(s.result.Routes)); err != nil {
		return err
	}
	for _, v := range s.result.Routes {
		if v == nil || len(v) > maxRouteValue {
			s.routes = append(s.routes, route{})
			continue
		}
		if err := room(ctx, w, &s.text, len(v)); err != nil {
			return err
		}
		s.routes = append(s.routes, route{at: uint32(len(s.text)), size: uint32(len(v)), there: true})
		s.text = append(s.text, v...)
	}
	return nil
}

// say adds what a planned event says about where it should go to the lines. It
// has room for that.
func (w *Work) say(p *planned, raw []byte) {
	s := w.s
	says := event.Routing{}
	if p.idLen > 0 {
		says.ID = s.text[p.idAt : p.idAt+p.idLen]
	}
	if meta := s.metas[w.written]; meta.To > 0 {
		says.Meta = raw[meta.From:meta.To]
	}
	n := len(w.e.cfg.Routes)
	from := len(s.values)
	for _, r := range s.routes[n*w.written : n*(w.written+1)] {
		var v []byte
		if r.there {
			v = s.text[r.at : r.at+r.size : r.at+r.size]
		}
		s.values = append(s.values, v)
	}
	says.Values = s.values[from:len(s.values):len(s.values)]
	s.lines.Routing = append(s.lines.Routing, says)
}

// keptID takes the identity over from the event's own verdict, which stays: two
// identities in one event would be one too many, and the first server knew the
// event before it had anything added.
func (w *Work) keptID(ctx context.Context, p *planned) (bool, error) {
	raw := w.batch.Events[w.next].Raw
	v := w.s.result.Find(raw, "arcanna.ioc.event_id").Value
	if v.To-v.From <= len(`""`) || v.To-v.From > longest(maxID) || raw[v.From] != '"' {
		return false, nil
	}
	var id string
	if json.Unmarshal(raw[v.From:v.To], &id) != nil {
		return false, nil
	}
	if n, err := hex.Decode(p.id[:], []byte(id)[:min(len(id), 2*len(p.id))]); err == nil && n == len(p.id) && len(id) == 2*n {
		return true, nil
	}
	return true, w.named(ctx, p, []byte(id)) // it was an @metadata._id
}

// named takes a name that a sender gave an event for its identity. It may be
// chosen with care, hence a digest in which nobody finds two of a kind.
func (w *Work) named(ctx context.Context, p *planned, id []byte) error {
	s := w.s
	sum := sha256.Sum256(id)
	copy(p.id[:], sum[:])
	if len(id) > maxID {
		return nil
	}
	if err := room(ctx, w, &s.text, len(id)); err != nil {
		return err
	}
	p.idAt, p.idLen = uint32(len(s.text)), uint32(len(id))
	s.text = append(s.text, id...)
	return nil
}

// collect turns the values of the scanned event into refs to findings.
func (w *Work) collect(ctx context.Context, p *planned) error {
	s := w.s
	values := s.result.Values
	w.asked = 0
	w.lookAhead(values)
	for i := 0; i < len(values); i++ {
		v := &values[i]
		f := w.e.fields[v.Field]
		switch {
		case v.Group != 0:
			s.members = s.members[:0]
			first, last := i, i
			for ; last < len(values) && values[last].Group == v.Group && values[last].Field == v.Field; last++ {
				if err := room(ctx, w, &s.members, 1); err != nil {
					return err
				}
				s.members = append(s.members, indicator.Member{Key: values[last].Key, Value: values[last].Text})
			}
			i = last - 1
			if len(s.members) == 1 && string(s.members[0].Key) == "sha256" { // as most objects of hashes are
				if err := w.add(ctx, p, kindSHA256, s.members[0].Value, f.name, w.hashAhead(first)); err != nil {
					return err
				}
				continue
			}
			if err := room(ctx, w, &s.text, 256); err != nil {
				return err
			}
			at, before := len(s.text), bytesOf(s.text)
			var found indicator.Found
			s.text, found = w.e.parser.AppendHashes(s.text, s.members)
			if err := settle(ctx, w, s.text, before); err != nil {
				return err
			}
			n, err := w.finding(ctx, at, found)
			if err != nil {
				return err
			}
			if err := w.refer(ctx, p, n, f.name); err != nil {
				return err
			}
		case f.kind == indicator.KindScan:
			if err := w.collectText(ctx, p, v.Text, f.name); err != nil {
				return err
			}
		default:
			if err := w.add(ctx, p, f.kind, v.Text, f.name, w.hashAhead(i)); err != nil {
				return err
			}
		}
	}
	// By name, and within a name as they came.
	refs := s.refs[p.from:]
	if len(refs) <= 24 {
		for i := 1; i < len(refs); i++ {
			for j := i; j > 0 && refs[j].name < refs[j-1].name; j-- {
				refs[j], refs[j-1] = refs[j-1], refs[j]
			}
		}
		return nil
	}
	slices.SortStableFunc(refs, func(a, b ref) int { return int(a.name) - int(b.name) })
	return nil
}

// lookAhead asks for what the event's values will need, of all of them at once:
// it lies far apart and in no near cache, and to wait for each piece of it in
// turn took longer than much of the work. Nothing but the hashes comes of it.
func (w *Work) lookAhead(values []scan.Value) {
	s := w.s
	values = values[:min(len(values), len(w.hashes))]
	for i := range values {
		v := &values[i]
		kind := w.e.fields[v.Field].kind
		if v.Group != 0 {
			kind = kindSHA256
		}
		w.hashes[i] = 0
		if len(v.Text) <= maxMemo && kind != indicator.KindScan {
			w.hashes[i] = hashOf(w.e.seed, uint8(kind), v.Text)
		}
	}
	if len(s.memo.slots) == 0 || len(values) < 2 {
		return
	}
	var numbers [len(w.hashes)]uint32
	for i := range values {
		numbers[i] = s.memo.likely(uint32(w.hashes[i]))
	}
	touched := uint32(0)
	for i, number := range numbers[:len(values)] {
		if number == 0 {
			touched |= w.e.facts.set(w.hashes[i]).tags[0].Load()
		} else if m := &s.memos[number-1]; m.size > 0 {
			touched |= uint32(s.text[m.at]) | s.findings[m.finding].event
		}
	}
	w.touched = touched
}

// hashAhead is what lookAhead has made of the value with this number, or 0.
func (w *Work) hashAhead(value int) uint64 {
	if value < len(w.hashes) {
		return w.hashes[value]
	}
	return 0
}

// add turns a value into a ref of the event. It is parsed only where neither the
// round has seen it yet nor a fact is known about it. hash is what lookAhead has
// made of it; 0: nothing.
func (w *Work) add(ctx context.Context, p *planned, kind indicator.Kind, value []byte, name int, hash uint64) error {
	s := w.s
	if len(value) > maxMemo {
		n, err := w.parse(ctx, kind, value)
		if err != nil {
			return err
		}
		return w.refer(ctx, p, n, name)
	}
	if err := w.roomInTable(ctx, &s.memo); err != nil {
		return err
	}
	if hash == 0 {
		hash = hashOf(w.e.seed, uint8(kind), value)
	}
	number, place := s.memo.find(uint32(hash), func(n int) bool {
		m := &s.memos[n]
		return m.kind == kind && string(s.text[m.at:m.at+m.size]) == string(value)
	})
	if number >= 0 {
		return w.refer(ctx, p, s.memos[number].finding, name)
	}
	var n uint32
	var err error
	before := len(s.findings)
	if x := w.e.facts.find(hash, kind, value); x != nil {
		n, err = w.known(ctx, x)
	} else {
		n, err = w.parse(ctx, kind, value)
	}
	if err != nil {
		return err
	}
	m := memo{kind: kind, finding: n, size: uint32(len(value))}
	if f := &s.findings[n]; string(s.text[f.at:f.at+f.size]) == string(value) {
		m.at = f.at // canonical as it was sent
	} else {
		if err := room(ctx, w, &s.text, len(value)); err != nil {
			return err
		}
		m.at = uint32(len(s.text))
		s.text = append(s.text, value...)
	}
	if err := room(ctx, w, &s.memos, 1); err != nil {
		return err
	}
	s.memos = append(s.memos, m)
	s.memo.put(place, uint32(hash), len(s.memos)-1)
	if err := w.refer(ctx, p, n, name); err != nil {
		return err
	}
	if int(n) == before { // else it is perhaps about another spelling, of which something else was left out
		w.learn(hash, kind, value, n)
	}
	return nil
}

// known returns the finding that a fact is about.
func (w *Work) known(ctx context.Context, x *fact) (uint32, error) {
	s := w.s
	if err := room(ctx, w, &s.text, len(x.value)); err != nil {
		return 0, err
	}
	at, before := len(s.text), len(s.findings)
	s.text = append(s.text, x.value...)
	n, err := w.finding(ctx, at, indicator.Found{Canonical: s.text[at:], Type: x.typ, Skip: x.skip, LeftOut: x.leftOut})
	if err == nil && int(n) == before {
		s.findings[n].trust(x) // a new one, for which nobody has asked yet
	}
	return n, err
}

// kindSHA256 is, for add and parse, the only member of scratch.members.
const kindSHA256 indicator.Kind = 0xff

// parse makes a value canonical.
func (w *Work) parse(ctx context.Context, kind indicator.Kind, value []byte) (uint32, error) {
	s := w.s
	if len(value) > 4*maxValue { // a list of hashes may be longer than its best one
		return w.finding(ctx, len(s.text), indicator.Found{Skip: indicator.Invalid})
	}
	if err := room(ctx, w, &s.text, 4*len(value)+256); err != nil {
		return 0, err
	}
	at, before := len(s.text), bytesOf(s.text)
	var found indicator.Found
	if kind == kindSHA256 {
		s.text, found = w.e.parser.AppendHashes(s.text, s.members)
	} else {
		s.text, found = w.e.parser.Append(s.text, kind, value)
	}
	if err := settle(ctx, w, s.text, before); err != nil {
		return 0, err
	}
	return w.finding(ctx, at, found)
}

// collectText finds the indicators in free text.
func (w *Work) collectText(ctx context.Context, p *planned, text []byte, name int) (err error) {
	s := w.s
	// What is found is copied to the text of the round, so the parser's own
	// output goes into memory that is used again for each value.
	s.found = s.found[:0]
	if err := room(ctx, w, &s.found, 4*min(len(text), maxValue)+256); err != nil {
		return err
	}
	before := bytesOf(s.found)
	s.found = w.e.parser.AppendText(s.found, text, func(found indicator.Found) bool {
		if len(s.refs)-int(p.from) >= maxEventRefs {
			p.dropped++
			return false
		}
		at := len(s.text)
		if err = room(ctx, w, &s.text, len(found.Canonical)); err != nil {
			return false
		}
		s.text = append(s.text, found.Canonical...)
		found.Canonical = s.text[at:]
		var n uint32
		if n, err = w.finding(ctx, at, found); err != nil {
			return false
		}
		err = w.refer(ctx, p, n, name)
		return err == nil
	})
	if err != nil {
		return err
	}
	return settle(ctx, w, s.found, before)
}

// finding returns the number of the finding whose value is text from at on. The
// text goes again where it is known.
func (w *Work) finding(ctx context.Context, at int, found indicator.Found) (uint32, error) {
	s := w.s
	if len(found.Canonical) > maxValue {
		found = indicator.Found{Type: found.Type, Skip: indicator.Invalid}
	}
	value := found.Canonical
	if err := w.roomInTable(ctx, &s.known); err != nil {
		return 0, err
	}
	hash := uint32(hashOf(w.e.seed, uint8(found.Type), value))
	number, place := s.known.find(hash, func(n int) bool {
		f := &s.findings[n]
		return f.typ == found.Type && f.skip == found.Skip && string(s.text[f.at:f.at+f.size]) == string(value)
	})
	if number >= 0 {
		s.text = s.text[:at]
		return uint32(number), nil
	}
	// The parser appends the value, and perhaps more; only the value stays.
	size := copy(s.text[at:cap(s.text)], value)
	s.text = s.text[:at+size]
	if err := room(ctx, w, &s.findings, 1); err != nil {
		return 0, err
	}
	f := finding{at: uint32(at), size: uint32(size), typ: found.Type, skip: found.Skip, leftOut: found.LeftOut}
	if f.skip != indicator.Lookup {
		f.status = statusSkipped
	}
	s.findings = append(s.findings, f)
	s.known.put(place, hash, len(s.findings)-1)
	return uint32(len(s.findings) - 1), nil
}

// refer notes that the event has the finding under a name.
func (w *Work) refer(ctx context.Context, p *planned, n uint32, name int) error {
	s := w.s
	serial := uint32(len(s.planned))
	f := &s.findings[n]
	bit := uint64(0)
	if name < 64 {
		bit = 1 << name
	}
	if f.event != serial {
		f.event, f.names = serial, 0
		f.chosen = f.skip == indicator.Lookup && w.asked < w.e.cfg.MaxValues
		if f.chosen {
			w.asked++
			if !f.asked {
				f.asked = true
				if err := w.recall(ctx, n); err != nil {
					return err
				}
				f = &s.findings[n]
			}
		}
	} else if bit != 0 && f.names&bit != 0 || bit == 0 && slices.ContainsFunc(s.refs[p.from:], func(r ref) bool {
		return r.finding == n && int(r.name) == name
	}) {
		return nil
	}
	f.names |= bit
	if err := room(ctx, w, &s.refs, 1); err != nil {
		return err
	}
	s.refs = append(s.refs, ref{finding: n, name: uint16(name), tooMany: f.skip == indicator.Lookup && !f.chosen})
	return nil
}

// recall looks a finding up in the cache.
func (w *Work) recall(ctx context.Context, n uint32) error {
	s := w.s
	f := &s.findings[n]
	f.status, f.result = statusUnavailable, resultUnknown
	if w.e.answers == nil {
		return nil
	}
	if f.fact != nil {
		if w.remind(f) {
			return nil
		}
		f.distrust()
	}
	if err := room(ctx, w, &s.key, 512-len(s.key)); err != nil {
		return err
	}
	s.key = appendKey(s.key[:0], f.typ, s.text[f.at:f.at+f.size])
	a, fresh, ok := w.e.answers.Get(s.key, w.now)
	if ok && fresh {
		f.cached = cacheHit
		w.settleFinding(f, a, statusFound)
		return nil
	}
	if !ok {
		a = nil
	}
	f.cached = cacheMiss
	if err := room(ctx, w, &s.waits, 1); err != nil {
		return err
	}
	s.waits = append(s.waits, wait{finding: n, stale: a})
	return nil
}

// settleFinding gives a finding its answer.
func (w *Work) settleFinding(f *finding, a *Answer, st status) {
	f.answer, f.status, f.found = a, st, a.Found
	f.spare = uint32(longest(len(a.Link)) + longest(len(a.ThreatLabel)) + 256)
	if !a.Found {
		f.status, f.result = statusNotFound, resultUnknown
		if st == statusStale {
			f.status = statusStale
		}
		f.verdict = verdict{ageDays: -1}
		return
	}
	f.verdict = w.e.judge.verdict(a, f.typ, w.now)
	f.result, f.positives = f.verdict.result, f.verdict.malicious
}

// answers asks for what the cache did not know, and waits.
func (w *Work) answers(ctx context.Context) error {
	s := w.s
	q := w.e.queue
	switch {
	case len(s.waits) == 0 || q == nil:
	case q.hopeless(time.Until(w.deadline)):
		for i := range s.waits {
			s.findings[s.waits[i].finding].status = statusQuota
		}
	default:
		for i := range s.waits {
			wt := &s.waits[i]
			f := &s.findings[wt.finding]
			value := string(s.text[f.at : f.at+f.size])
			wt.key = string(appendKey(nil, f.typ, value))
			wt.flight, wt.joined = q.ask(Indicator{Type: f.typ, Value: value}, wt.key)
			if wt.joined {
				f.cached = cacheCoalesced
			}
		}
		if err := w.await(ctx, q); err != nil {
			return err
		}
	}
	for i := range s.waits {
		wt := &s.waits[i]
		if f := &s.findings[wt.finding]; f.answer == nil && wt.stale != nil {
			f.cached = cacheStale
			w.settleFinding(f, wt.stale, statusStale)
		}
	}
	for i := range s.findings {
		w.cached[s.findings[i].cached]++
	}
	return nil
}

// await waits for the answers, as long as they can come in time.
func (w *Work) await(ctx context.Context, q *queue) error {
	s := w.s
	timer := time.NewTimer(time.Until(w.deadline))
	defer timer.Stop()
	late := false // the deadline has passed
	o := q.look()
	for i := range s.waits {
		wt := &s.waits[i]
		f := &s.findings[wt.finding]
		for {
			select {
			case <-wt.flight.Done():
			default:
				hopeless, st := w.outlook(q, &o, wt.key)
				if late || hopeless {
					f.status = st
					break
				}
				select {
				case <-wt.flight.Done():
				case <-o.changed:
					o = q.look()
					continue
				case <-timer.C:
					late = true
					o = q.look()
					continue
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			break
		}
	}
	// All of them, since what seemed hopeless may have come meanwhile.
	for i := range s.waits {
		wt := &s.waits[i]
		select {
		case <-wt.flight.Done():
			w.answered(&s.findings[wt.finding], wt)
		default:
		}
	}
	return nil
}

// outlook says whether it is of no use to wait for key's answer, and what its
// status is as long as there is none.
func (w *Work) outlook(q *queue, o *outlook, key string) (hopeless bool, st status) {
	seq, ahead, waiting := q.place(key)
	if !waiting { // it is being asked
		return false, statusPending
	}
	left := time.Until(w.deadline)
	switch {
	case o.status == statusUnavailable:
		return true, o.status
	case o.status == statusQuota:
		return o.until.Sub(q.now()) > left || ahead >= q.workers, o.status
	case o.room >= 0 && int(seq-min(seq, o.taken)) >= o.room: // both at the time of the outlook
		return true, statusQuota
	}
	return time.Duration(ahead/q.workers)*o.took > left, statusPending
}

// answered draws the conclusions from a flight that has ended.
func (w *Work) answered(f *finding, wt *wait) {
	a, err := wt.flight.Result()
	if err == nil && a != nil {
		w.settleFinding(f, a, statusFound)
		return
	}
	f.status = statusUnavailable
	if errors.Is(err, errFull) {
		// The queue is full because requests are scarce.
		f.status = statusQuota
		if o := w.e.queue.look(); o.status == statusUnavailable {
			f.status = statusUnavailable
		}
	}
}

// write renders the next portion of the round.
func (w *Work) write(ctx context.Context) error {
	s := w.s
	portion := w.e.cfg.PortionBytes
	if cap(s.lines.Buf) > 2*portion { // a giant event came before
		w.release(bytesOf(s.lines.Buf))
		s.lines.Buf = nil
	}
	s.lines.Buf, s.lines.Index = s.lines.Buf[:0], s.lines.Index[:0]
	s.lines.Routing, s.values = s.lines.Routing[:0], s.values[:0]
	s.lines.Wanted = w.batch.Budget.Wanted
	left := len(s.planned) - w.written
	if left == 0 {
		return nil
	}
	if err := room(ctx, w, &s.lines.Index, left); err != nil {
		return err
	}
	if w.e.cfg.Routing {
		if err := room(ctx, w, &s.lines.Routing, left); err != nil {
			return err
		}
		if err := room(ctx, w, &s.values, left*len(w.e.cfg.Routes)); err != nil {
			return err
		}
	}
	if cap(s.lines.Buf) < portion {
		estimate := 0
		for i := range s.planned[w.written:] {
			estimate += len(w.batch.Events[s.planned[w.written+i].index].Raw) + 1024
		}
		if estimate = min(estimate, portion); estimate > cap(s.lines.Buf) {
			if err := resize(ctx, w, &s.lines.Buf, estimate); err != nil {
				return err
			}
		}
	}
	for w.written < len(s.planned) {
		p := &s.planned[w.written]
		w.at = int(p.index)
		raw := w.batch.Events[p.index].Raw
		need := len(raw) + 64
		if !p.kept {
			if err := w.document(ctx, p); err != nil {
				return err
			}
			need += len(s.doc)
			s.ecs = s.ecs[:0]
			if s.hit && (w.e.cfg.ECS.Threat || w.e.cfg.ECS.Related) {
				if err := w.completion(ctx); err != nil {
					return err
				}
				need += len(s.ecs)
			}
		}
		if w.e.cfg.KeepMetadata {
			s.name = s.name[:0]
			if err := room(ctx, w, &s.name, max(2*len(p.id), longest(int(p.idLen)))); err != nil {
				return err
			}
			s.name = s.appendID(s.name, p)
			need += scan.LenMetadataID(s.name)
		}
		if len(s.lines.Buf) > 0 && len(s.lines.Buf)+need > portion {
			return nil // its document is rendered again; that is once in a megabyte at most
		}
		if need > cap(s.lines.Buf)-len(s.lines.Buf) {
			// As much as the rest will need if it is like what came so far.
			done := len(s.lines.Index)
			rest := (len(s.lines.Buf) + need) / (done + 1) * (len(s.planned) - w.written) / 16 * 17
			if err := resize(ctx, w, &s.lines.Buf, max(len(s.lines.Buf)+need, min(len(s.lines.Buf)+need+rest, portion))); err != nil {
				return err
			}
		}
		from := len(s.lines.Buf)
		if p.kept {
			s.lines.Buf = p.plan.AppendLineKeepingVerdict(s.lines.Buf, raw)
		} else {
			s.lines.Buf = p.plan.AppendLine(s.lines.Buf, raw, s.doc)
			if len(s.ecs) > 0 {
				if err := w.complete(ctx, p, from); err != nil {
					return err
				}
			}
			w.tallyEvent()
		}
		if w.e.cfg.KeepMetadata {
			s.lines.Buf = scan.SetMetadataID(s.lines.Buf, from, s.name)
		}
		if w.e.cfg.Routing {
			w.say(p, raw)
		}
		s.lines.Index = append(s.lines.Index, event.Line{ID: p.id, End: len(s.lines.Buf)})
		w.written++
		if w.written%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// appendID appends an event's identity as the inside of a JSON string.
func (s *scratch) appendID(b []byte, p *planned) []byte {
	if p.idLen == 0 {
		return hex.AppendEncode(b, p.id[:])
	}
	quoted := appendString(b, s.text[p.idAt:p.idAt+p.idLen])
	return append(b, quoted[len(b)+1:len(quoted)-1]...) // one to the left
}

// tallyEvent counts the indicators of the event that was written last.
func (w *Work) tallyEvent() {
	for _, n := range w.s.distinct {
		f := &w.s.findings[n]
		w.tally[f.typ][f.result]++
	}
	for t, n := range w.s.skipped {
		w.tally[t][resultNone] += n
	}
}

// count hands the portion's figures to the metrics.
func (w *Work) count() {
	for t := range w.tally {
		for r, n := range w.tally[t] {
			if c := w.e.counted[t][r]; n > 0 && c != nil {
				c.Add(float64(n))
			}
		}
	}
	for word, n := range w.cached {
		if c := w.e.cached[word]; n > 0 && c != nil {
			c.Add(float64(n))
		}
	}
	clear(w.tally[:])
	clear(w.cached[:])
}

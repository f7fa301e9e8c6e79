package enrich

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"vtsidecar/cache"
	"vtsidecar/enrich/indicator"
)

// Most of what a batch holds was in the one before: the same addresses, names
// and hashes, with the same answers. A fact is what became of such a value, so
// that the next batch need not parse it, look it up and render its part again.
//
// A fact never outlives what the cache says: each time it is used, its entry is
// asked whether it is still the cache's own, and fresh. What the cache does not
// know is no fact.

const (
	mostFacts = 16 << 10
	factWays  = 8
	maxFact   = 1 << 10 // bytes of a fact's texts, so 16 MiB of them at most
)

// fact is constant, but for asked.
type fact struct {
	raw      string // the value as it was sent
	value    string // canonical
	body     string // its part, but for the closing brace
	sentence string // what the explanation says about it
	leftOut  string
	skip     indicator.Skip
	entry    cache.Ref[*Answer] // of those that are looked up
	from     time.Time          // since when the verdict holds
	until    time.Time          // and until when, exclusive
	verdict  verdict
	kind     indicator.Kind
	typ      indicator.Type
	status   status
	result   result
	found    bool   // as a finding's
	spare    uint32 // so too

	asked atomic.Bool // found since a place was last looked for
}

// facts is a set-associative table of them. Readers take no lock; where two
// write at a time one fact may be lost, and is learned again. It is safe for
// concurrent use.
type facts struct {
	sets []factSet // constant; a power of two of them
}

// factSet has its tags in one cache line, so that a value that is not known
// costs no more than that.
type factSet struct {
	tags  [factWays]atomic.Uint32
	_     [32]byte
	facts [factWays]atomic.Pointer[fact]
}

func newFacts() *facts { return &facts{sets: make([]factSet, mostFacts/factWays)} }

func (t *facts) set(hash uint64) *factSet { return &t.sets[hash>>32&uint64(len(t.sets)-1)] }

// find returns the fact about a value as it was sent, or nil.
func (t *facts) find(hash uint64, kind indicator.Kind, raw []byte) *fact {
	s := t.set(hash)
	for i := range s.tags {
		if s.tags[i].Load() != uint32(hash) {
			continue
		}
		if x := s.facts[i].Load(); x != nil && x.kind == kind && x.raw == string(raw) {
			if !x.asked.Load() { // a write only where it changes something
				x.asked.Store(true)
			}
			return x
		}
	}
	return nil
}

// put remembers x: in the place of an older fact about the same value, else
// where there is none, else for one that was not found since the last time that
// a place was looked for.
func (t *facts) put(hash uint64, x *fact) {
	s := t.set(hash)
	place, empty := -1, false
	for i := range s.facts {
		old := s.facts[i].Load()
		switch {
		case old == nil:
			place, empty = i, true
		case old.kind == x.kind && old.raw == x.raw:
			s.facts[i].Store(x)
			s.tags[i].Store(uint32(hash))
			return
		case !empty && !old.asked.Load():
			place = i
		}
	}
	if place < 0 {
		for i := range s.facts {
			if old := s.facts[i].Load(); old != nil {
				old.asked.Store(false)
			}
		}
		place = int(hash >> 61) // any
	}
	s.facts[place].Store(x)
	s.tags[place].Store(uint32(hash))
}

// hashOf spreads values; tag tells kinds of them apart. The seed is a secret of
// the process, so nobody can send values that collide.
func hashOf(seed maphash.Seed, tag uint8, value []byte) uint64 {
	return maphash.Bytes(seed, value) ^ uint64(tag)*0x9e3779b97f4a7c15
}

// learn remembers what became of a value, where the same would come of it again:
// it is never looked up, or the cache has its answer. Junk is not worth it, since
// anybody can send any amount of that.
func (w *Work) learn(hash uint64, kind indicator.Kind, raw []byte, n uint32) {
	s := w.s
	f := &s.findings[n]
	looked := f.skip == indicator.Lookup
	if f.fact != nil || f.skip == indicator.Invalid || looked && f.cached != cacheHit {
		return
	}
	value := w.value(f)
	if len(raw)+2*longest(len(value))+len(f.leftOut) > maxFact || f.answer != nil && longest(len(f.answer.Link)) > maxFact {
		return // no need to render it to see that
	}
	x := &fact{
		leftOut: f.leftOut, skip: f.skip, from: w.now, until: w.now,
		verdict: f.verdict, kind: kind, typ: f.typ, status: f.status, result: f.result, found: f.found, spare: f.spare,
	}
	if looked {
		s.key = appendKey(s.key[:0], f.typ, value)
		var ok bool
		if x.entry, ok = w.e.answers.Ref(s.key); !ok {
			return
		}
		if a, _, ok := x.entry.Get(w.now); !ok || a != f.answer {
			return // replaced meanwhile
		}
		x.until = w.e.judge.until(f.answer, f.typ, w.now)
	}
	var room [3 * maxFact]byte
	text := append(append(room[:0], raw...), value...)
	body := len(text)
	text = w.appendBody(text, ref{finding: n}, false)
	sentence := len(text)
	if looked {
		text = w.appendSentence(text, f)
	}
	if len(text) > maxFact {
		return
	}
	all := string(text)
	x.raw, x.value, x.body, x.sentence = all[:len(raw)], all[len(raw):body], all[body:sentence], all[sentence:]
	f.trust(x)
	w.e.facts.put(hash, x)
}

// remind gives a finding the answer that its fact knows, if that is still so.
func (w *Work) remind(f *finding) bool {
	x := f.fact
	if w.now.Before(x.from) || !w.now.Before(x.until) {
		return false
	}
	a, fresh, ok := x.entry.Get(w.now)
	if !ok || !fresh {
		return false
	}
	f.answer, f.cached, f.status, f.result, f.verdict = a, cacheHit, x.status, x.result, x.verdict
	f.found, f.positives, f.spare = x.found, x.verdict.malicious, x.spare
	return true
}

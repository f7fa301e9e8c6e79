package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
)

// ledger holds what was acknowledged against what was stored. It remembers
// numbers as spans, so its memory depends on the gaps and not on the events. Its
// methods are safe for concurrent use.
type ledger struct {
	maker *maker

	mu       sync.Mutex // guards all below
	accounts map[string]*account
	repeats  uint64 // events stored more than once: resends
	wrong    []string
	wrongs   int
}

// account is one sender's.
type account struct {
	acked  spans
	stored spans
	buried spans
}

func newLedger(m *maker) *ledger { return &ledger{maker: m, accounts: map[string]*account{}} }

func (l *ledger) account(name string) *account {
	a := l.accounts[name]
	if a == nil {
		a = &account{}
		l.accounts[name] = a
	}
	return a
}

// acked: the events from up to but without to were acknowledged to their sender.
func (l *ledger) acked(name string, from, to uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.account(name).acked.add(from, to)
}

// total is how many events were acknowledged, and how many of them were found.
func (l *ledger) total() (acked, found uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.accounts {
		acked += a.acked.size()
		found += a.stored.size() + a.buried.size()
	}
	return acked, found
}

func (l *ledger) complain(format string, args ...any) {
	if l.wrongs++; len(l.wrong) < 5 {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

// line takes one line of the output. mine is false when it is no healthy
// sender's.
func (l *ledger) line(line []byte) (mine bool) {
	name, n, ok := author(line)
	if !ok {
		return false
	}
	err := l.maker.held(line, name, n)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.complain("event %s/%d: %.2000v", name, n, err)
	case l.maker.bad(n):
		l.complain("event %s/%d is malformed and stands in the output", name, n)
	case !l.account(name).stored.add(n, n+1):
		l.repeats++
	}
	return true
}

// letter is what the tests read of one line of the dead letter.
type letter struct {
	Reason string
	Detail string
	Event  *string
	Base64 []byte `json:"event_base64"`
	Length int64  `json:"event_length"`
	SHA256 string `json:"event_sha256"`
}

func (l *letter) raw() string {
	if l.Event != nil {
		return *l.Event
	}
	return string(l.Base64)
}

// buried takes one line of the dead letter.
func (l *ledger) buried(line []byte) (mine bool, err error) {
	var d letter
	if err := json.Unmarshal(line, &d); err != nil {
		return false, fmt.Errorf("dead letter: %w: %.200s", err, line)
	}
	raw := d.raw()
	name, n, ok := author([]byte(raw))
	if !ok {
		return false, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.maker.bad(n):
		l.complain("event %s/%d is sound and stands in the dead letter: %s", name, n, d.Reason)
	case raw != string(l.maker.event(nil, name, n)):
		l.complain("event %s/%d: altered in the dead letter: %s", name, n, raw)
	case !l.account(name).buried.add(n, n+1):
		l.repeats++
	}
	return true, nil
}

// settle says what is wrong once everything was read: nothing that was
// acknowledged may be missing, nothing altered.
func (l *ledger) settle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var words []string
	names := make([]string, 0, len(l.accounts))
	for name := range l.accounts {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		a := l.accounts[name]
		found := slices.Clone(a.stored)
		for _, s := range a.buried {
			found.add(s.from, s.to)
		}
		if n, first := a.acked.missing(found); n > 0 {
			words = append(words, fmt.Sprintf("LOST: %d acknowledged events of %s are stored nowhere, the first is %d", n, name, first))
		}
	}
	if l.wrongs > 0 {
		words = append(words, fmt.Sprintf("%d events are wrong: %s", l.wrongs, strings.Join(l.wrong, "; ")))
	}
	if len(words) > 0 {
		return fmt.Errorf("%s", strings.Join(words, "; "))
	}
	return nil
}

// spans is a set of numbers: apart, in order, none empty.
type spans []span

type span struct{ from, to uint64 } // without to

// add reports whether none of the numbers was in the set.
func (s *spans) add(from, to uint64) (fresh bool) {
	if from >= to {
		return true
	}
	// at: the first span that touches or overlaps; end: behind the last that does.
	at := sort.Search(len(*s), func(i int) bool { return (*s)[i].to >= from })
	end, fresh := at, true
	merged := span{from, to}
	for ; end < len(*s) && (*s)[end].from <= to; end++ {
		old := (*s)[end]
		fresh = fresh && (old.to <= from || old.from >= to)
		merged.from, merged.to = min(merged.from, old.from), max(merged.to, old.to)
	}
	*s = slices.Replace(*s, at, end, merged)
	return fresh
}

func (s spans) size() (n uint64) {
	for _, x := range s {
		n += x.to - x.from
	}
	return n
}

// missing is how many numbers of s are not in other, and the least of them.
func (s spans) missing(other spans) (n, first uint64) {
	lack := func(from, to uint64) {
		if from >= to {
			return
		}
		if n == 0 {
			first = from
		}
		n += to - from
	}
	for _, x := range s {
		at := x.from
		for _, o := range other {
			if o.to <= at || o.from >= x.to {
				continue
			}
			lack(at, o.from)
			at = max(at, o.to)
		}
		lack(at, x.to)
	}
	return n, first
}

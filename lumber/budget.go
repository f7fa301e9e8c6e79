package lumber

// The byte budget, by its rules:
//
//  1. Nothing that grows with what a client sends is allocated before it was
//     reserved here, and capacity is charged, not only the bytes in use.
//  2. Every batch has a share of its own, from its first byte to the end of its
//     Handle. Shares have an age: the window's, then the batch's place in it.
//  3. Who has to wait is served by rank, and by age within a rank: the Handle of
//     a window's first batch before what begins a window, that before the rest of
//     its first batch, and that before later batches. A part of the budget is out
//     of reach for all but the first rank, more for each that follows: a thousand
//     windows that arrive at once must leave some of them room to be handled, and
//     a few that inflate to a gigabyte each must not stand before everybody else's
//     small ones. The oldest share of the server never waits. So one batch always
//     completes, however full the budget is, no window waits for ever, and the
//     overdraft is one batch and what its Handle adds.
//  4. The same holds for the bounded number of Handle calls: if the oldest batch
//     had to wait for a place that younger ones occupy, and those for memory
//     that it holds, nothing would ever move again.
//  5. Closing a share gives back whatever it still holds, so no path through the
//     code can leak budget.

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

var errShareClosed = errors.New("the batch has ended")

type budget struct {
	total   int64
	handles int
	used    func(int64)   // told the bytes in use after each change, under mu
	opened  atomic.Uint64 // age of the youngest window
	pressed atomic.Bool   // somebody waits for memory
	wanted  atomic.Bool   // somebody waits for memory or for a place

	mu      sync.Mutex // guards all below, and the shares
	inUse   int64
	running int
	open    ageHeap[*share]
	memory  line
	slots   line
}

func newBudget(total int64, handles int, used func(int64)) *budget {
	return &budget{total: total, handles: handles, used: used}
}

// share is what one batch holds. It is the event.Budget of its batch; the
// lower-case methods are the connection's.
type share struct {
	b      *budget
	window uint64
	batch  uint32
	since  time.Time // when the batch began to arrive

	// under b.mu
	held    int64 // all of it
	added   int64 // what Reserve took; Release gives back no more than that
	running bool  // occupies a place for Handle
	place   int   // in b.open; -1 once closed
}

// waiter is one blocked request.
type waiter struct {
	s     *share
	n     int64
	added bool
	late  bool          // the share was closed meanwhile; written before ready is closed
	ready chan struct{} // closed when granted
	place int           // in its heap; -1 once granted or given up
	rank  int
}

// window starts a new window's first share.
func (b *budget) window(now time.Time) *share {
	return b.add(&share{b: b, window: b.opened.Add(1), since: now})
}

// next is the share of the batch that follows in the same window.
func (s *share) next(now time.Time) *share {
	return s.b.add(&share{b: s.b, window: s.window, batch: s.batch + 1, since: now})
}

func (b *budget) add(s *share) *share {
	b.mu.Lock()
	heap.Push(&b.open, s)
	b.mu.Unlock()
	return s
}

// Reserve implements event.Budget.
func (s *share) Reserve(ctx context.Context, n int64) error { return s.take(ctx, n, true) }

// Release implements event.Budget.
func (s *share) Release(n int64) {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	// More than was reserved would be the caller's mistake; the connection's own
	// charge must not pay for it.
	n = max(0, min(n, s.added))
	s.added -= n
	b.giveBack(s, n)
}

// Wanted implements event.Budget.
func (s *share) Wanted() bool { return s.b.wanted.Load() }

// reserve is Reserve for the connection's own chunks.
func (s *share) reserve(ctx context.Context, n int64) error { return s.take(ctx, n, false) }

func (s *share) release(n int64) {
	s.b.mu.Lock()
	s.b.giveBack(s, n)
	s.b.mu.Unlock()
}

// move hands n held bytes to another share; to nil: out of all shares, to be
// given back with budget.release.
func (s *share) move(to *share, n int64) {
	s.b.mu.Lock()
	s.held -= n
	if to != nil {
		to.held += n
	}
	s.b.mu.Unlock()
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	b.giveBack(nil, n)
	b.mu.Unlock()
}

func (s *share) take(ctx context.Context, n int64, added bool) error {
	if n <= 0 {
		return nil
	}
	b := s.b
	b.mu.Lock()
	rank := b.rank(s, n, added)
	switch {
	case s.place < 0:
		b.mu.Unlock()
		return errShareClosed
	case b.open[0] == s, !b.memory.before(rank) && b.inUse+n <= b.limit(rank):
		b.grant(s, n, added)
		b.mu.Unlock()
		return nil
	}
	w := &waiter{s: s, n: n, added: added, rank: rank, ready: make(chan struct{})}
	b.memory.join(w)
	b.pressed.Store(true)
	b.wanted.Store(true)
	b.mu.Unlock()
	return b.await(ctx, &b.memory, w)
}

// slot waits for a place among the concurrent Handle calls. Closing the share
// gives it back.
func (s *share) slot(ctx context.Context) error {
	b := s.b
	b.mu.Lock()
	rank := b.rank(s, 0, false)
	if b.open[0] == s || !b.slots.before(rank) && b.running < b.handles {
		b.running++
		s.running = true
		b.mu.Unlock()
		return nil
	}
	w := &waiter{s: s, rank: rank, ready: make(chan struct{})}
	b.slots.join(w)
	b.wanted.Store(true)
	b.mu.Unlock()
	return b.await(ctx, &b.slots, w)
}

func (b *budget) await(ctx context.Context, in *line, w *waiter) error {
	select {
	case <-w.ready:
		if w.late {
			return errShareClosed
		}
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.place < 0 {
		// Granted in the same moment. The grant stays with the share, which will
		// be closed soon: whoever waits here gives up with its connection.
		return ctx.Err()
	}
	in.leave(w)
	b.serve()
	return ctx.Err()
}

// close ends the share and gives back all that it holds.
func (s *share) close() {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.place < 0 {
		return
	}
	heap.Remove(&b.open, s.place)
	s.place = -1
	s.added = 0
	if s.running {
		s.running = false
		b.running--
	}
	b.giveBack(s, s.held)
}

// The ranks of those who wait.
const (
	rankHandle = iota // of a window's first batch
	rankSmall         // holds no more than a small part of the budget yet
	rankFirst         // the rest of a window's first batch
	rankLater
	ranks
)

func (b *budget) rank(s *share, n int64, added bool) int {
	switch {
	case s.batch > 0:
		return rankLater
	case added:
		return rankHandle
	case s.held+n > b.total/64:
		return rankFirst
	default:
		return rankSmall
	}
}

// limit is what may be in use once somebody of a rank has been served.
func (b *budget) limit(rank int) int64 { return b.total - b.total/8*int64(rank) }

func (b *budget) grant(s *share, n int64, added bool) {
	b.inUse += n
	s.held += n
	if added {
		s.added += n
	}
	b.used(b.inUse)
}

func (b *budget) giveBack(s *share, n int64) {
	if s != nil {
		s.held -= n
	}
	b.inUse -= n
	b.used(b.inUse)
	b.serve()
}

// serve grants what can be granted, in the order of rule 3.
func (b *budget) serve() {
	for w := b.memory.next(b.open); w != nil; w = b.memory.next(b.open) {
		if w.s.place >= 0 && b.open[0] != w.s && b.inUse+w.n > b.limit(w.rank) {
			break
		}
		b.memory.leave(w)
		if w.late = w.s.place < 0; !w.late {
			b.grant(w.s, w.n, w.added)
		}
		close(w.ready)
	}
	b.pressed.Store(b.memory.len() > 0)
	for w := b.slots.next(b.open); w != nil; w = b.slots.next(b.open) {
		if w.s.place >= 0 && b.open[0] != w.s && b.running >= b.handles {
			break
		}
		b.slots.leave(w)
		if w.late = w.s.place < 0; !w.late {
			b.running++
			w.s.running = true
		}
		close(w.ready)
	}
	b.wanted.Store(b.memory.len()+b.slots.len() > 0)
}

// line is who waits for one thing: a heap by age for each rank.
type line [ranks]ageHeap[*waiter]

func (l *line) join(w *waiter)  { heap.Push(&l[w.rank], w) }
func (l *line) leave(w *waiter) { heap.Remove(&l[w.rank], w.place) }

func (l *line) len() int {
	n := 0
	for _, h := range l {
		n += len(h)
	}
	return n
}

// before reports whether somebody waits whom one of this rank may not pass.
func (l *line) before(rank int) bool {
	for _, h := range l[:rank+1] {
		if len(h) > 0 {
			return true
		}
	}
	return false
}

// next is whose turn it is; nil when nobody waits. The oldest share of all comes
// before any rank. It stands on top of its heap, unless under waiters whose
// shares have been closed: those leave before anybody.
func (l *line) next(open ageHeap[*share]) *waiter {
	var next *waiter
	for _, h := range l {
		switch {
		case len(h) == 0:
		case h[0].s.place < 0 || h[0].s == open[0]:
			return h[0]
		case next == nil:
			next = h[0]
		}
	}
	return next
}

// oldest is when the oldest unfinished batch began to arrive; zero without any.
func (b *budget) oldest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.open) == 0 {
		return time.Time{}
	}
	return b.open[0].since
}

// aged is something with an age and a place in a heap.
type aged interface {
	age() (window uint64, batch uint32)
	setPlace(int)
}

func (s *share) age() (uint64, uint32)  { return s.window, s.batch }
func (s *share) setPlace(i int)         { s.place = i }
func (w *waiter) age() (uint64, uint32) { return w.s.age() }
func (w *waiter) setPlace(i int)        { w.place = i }

// ageHeap is a heap with the oldest on top, in which everybody knows its place.
type ageHeap[T aged] []T

func (h ageHeap[T]) Len() int { return len(h) }
func (h ageHeap[T]) Less(i, j int) bool {
	wi, bi := h[i].age()
	wj, bj := h[j].age()
	return wi < wj || wi == wj && bi < bj
}
func (h ageHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].setPlace(i)
	h[j].setPlace(j)
}
func (h *ageHeap[T]) Push(x any) {
	t := x.(T)
	t.setPlace(len(*h))
	*h = append(*h, t)
}
func (h *ageHeap[T]) Pop() any {
	old := *h
	n := len(old) - 1
	t := old[n]
	var zero T
	old[n] = zero
	*h = old[:n]
	t.setPlace(-1)
	return t
}

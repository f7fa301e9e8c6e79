package enrich

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"time"

	"vtsidecar/enrich/indicator"
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
	maxEventRefs  = 4096     // values of one event that are looked at; the setting fields_max_values allows no more
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

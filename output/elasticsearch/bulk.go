package elasticsearch

import (
	"container/heap"
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"vtsidecar/internal/event"
)

// This file fills requests and sends them. Its rules:
//
//  1. A Store is a job, cut into pieces. A piece waits in one place at a time:
//     the queue, the heap of what is tried later, or a worker's request.
//  2. A worker that is free takes what waits at once, from as many jobs as fit.
//     So requests fill by themselves when the cluster is slow, nobody waits for
//     company when it is fast, and one job's lines may be under way in several
//     requests.
//  3. Lines belong to the Store's caller. They are read under the job's lock and
//     only while the job has not ended; what is under way is a copy.
//  4. While requests fail, one at a time probes.
//  5. Waiting costs no goroutine and no memory beyond the job's own, and what a
//     job leaves behind when it is given up is taken away.

const (
	bulkPath = "/_bulk?filter_path=" + bulkFilter + "&timeout="

	// That an item may wait for its index, whose shard has no node for example: else
	// it is a minute, and the request times out, with all that is in it, each time.
	waitMost  = 10 * time.Second
	maxItems  = 16 << 10         // of a request, so that its answer stays within bounds
	heldBack  = 10 * time.Second // that a job is held back before others' needs count
	slowPause = time.Second      // when another request with slow pieces is under way
	raiseMost = time.Minute      // without a 413, before larger bodies are tried again
	markFor   = time.Hour        // after an answer about another _id

	markHeader = "X-Opaque-Id"
)

// job is a Store under way.
type job struct {
	wanted func() bool
	bury   func(context.Context, []event.DeadLetter) error
	fixed  []*route // of the lines; nil: they are found
	notice chan struct{}

	using sync.Mutex // held while lines are read; guards ended and lines
	ended bool
	lines *event.Lines

	// under Output.mu
	left     int // lines that are neither stored nor handed to bury
	letters  []event.DeadLetter
	err      error
	retrying int       // of these, those that were answered and not taken
	moved    time.Time // when a line of it was settled last
	troubled time.Time // since when there is always a line that is tried again; zero: there is none
}

// piece is some lines of a job.
type piece struct {
	job      *job
	picks    []int32 // the lines; nil: from up to to
	from, to int32
	alone    bool      // it gets a request of its own
	slow     bool      // the cluster waits long before it does not take its lines
	tries    int       // that its lines were not taken
	due      time.Time // in the heap
	doubt    doubt
}

// doubt is that requests with a piece are refused for no reason that is known.
type doubt struct {
	since time.Time // zero: they are not
	tries int       // of the piece as it is
}

func (p *piece) len() int {
	if p.picks != nil {
		return len(p.picks)
	}
	return int(p.to - p.from)
}

func (p *piece) line(i int) int {
	if p.picks != nil {
		return int(p.picks[i])
	}
	return int(p.from) + i
}

// cut takes the first n lines off.
func (p *piece) cut(n int) piece {
	first := *p
	if p.picks != nil {
		first.picks, p.picks = p.picks[:n:n], p.picks[n:]
	} else {
		first.to = p.from + int32(n)
		p.from = first.to
	}
	return first
}

// bytes are those of the lines with their action lines, roughly.
func (p *piece) bytes(lines *event.Lines, n int) int64 {
	const action = 128
	if p.picks == nil {
		begin := 0
		if p.from > 0 {
			begin = lines.Index[p.from-1].End
		}
		return int64(lines.Index[int(p.from)+n-1].End-begin) + int64(n)*action
	}
	var sum int64
	for _, i := range p.picks[:n] {
		begin, end := lineAt(lines, int(i))
		sum += int64(end-begin) + action
	}
	return sum
}

// fitting is how many lines have room in so many bytes.
func (p *piece) fitting(lines *event.Lines, room int64, most int) int {
	n := min(p.len(), most)
	if n == 0 || p.bytes(lines, n) <= room {
		return n
	}
	return sort.Search(n, func(i int) bool { return p.bytes(lines, i+1) > room })
}

func lineAt(lines *event.Lines, i int) (begin, end int) {
	if i > 0 {
		begin = lines.Index[i-1].End
	}
	return begin, lines.Index[i].End
}

// pieces is a heap with the next one on top.
type pieces []piece

func (h pieces) Len() int           { return len(h) }
func (h pieces) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h pieces) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *pieces) Push(x any)        { *h = append(*h, x.(piece)) }
func (h *pieces) Pop() any {
	old := *h
	n := len(old) - 1
	p := old[n]
	old[n] = piece{}
	*h = old[:n]
	return p
}

// wake tells the workers to look again. The caller holds mu.
func (o *Output) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// settle waits until every line of a job is settled.
func (o *Output) settle(ctx context.Context, j *job) error {
	j.notice = make(chan struct{}, 1)
	j.left = len(j.lines.Index)
	o.mu.Lock()
	if o.closing {
		o.mu.Unlock()
		return ErrClosed
	}
	o.jobs[j] = struct{}{}
	o.queue = append(o.queue, piece{job: j, to: int32(j.left)})
	o.wake()
	o.mu.Unlock()
	defer o.end(j)

	look := time.NewTicker(heldBack / 2)
	defer look.Stop()
	for {
		select {
		case <-j.notice:
		case <-look.C:
			if o.isHeldBack(j) {
				return ErrHeldBack
			}
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		o.mu.Lock()
		letters, left, err := j.letters, j.left, j.err
		j.letters = nil
		o.mu.Unlock()
		if len(letters) > 0 {
			// Their bytes are the lines', which stay as long as this call.
			if err := j.bury(ctx, letters); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
	}
}

// end lets go of a job's lines; what of it is under way counts no more.
func (o *Output) end(j *job) {
	j.using.Lock()
	j.ended, j.lines, j.fixed = true, nil, nil
	j.using.Unlock()
	o.mu.Lock()
	delete(o.jobs, j)
	if j.left > 0 {
		o.sweep()
	}
	if o.closing {
		o.endUnwanted()
		o.wake()
	}
	o.mu.Unlock()
}

// endUnwanted ends requests under way at Close that no Store waits for any more:
// a cluster that hangs would hold up the end for nothing. The caller holds mu.
func (o *Output) endUnwanted() {
	if len(o.jobs) == 0 {
		o.cut()
	}
}

// sweep takes the pieces of jobs that were given up out of the queue and the
// heap, now and then: while the cluster is away nobody comes past them, and
// senders come again and again. The caller holds mu.
func (o *Output) sweep() {
	const few = 64
	if o.ended++; o.ended < few || o.ended < len(o.jobs) {
		return
	}
	o.ended = 0
	gone := func(p piece) bool { _, ok := o.jobs[p.job]; return !ok }
	o.queue = slices.Clip(slices.DeleteFunc(o.queue, gone))
	o.later = slices.DeleteFunc(o.later, gone)
	if cap(o.later) > 2*len(o.later)+few {
		o.later = slices.Clone(o.later)
	}
	heap.Init(&o.later)
}

// fail ends the Store of a job. The caller holds mu.
func (j *job) fail(err error) {
	if j.err == nil {
		j.err = err
	}
	j.tell()
}

func (j *job) tell() {
	select {
	case j.notice <- struct{}{}:
	default:
	}
}

// isHeldBack reports whether a job only holds what others wait for: all that is
// left of it was tried and not taken, for a while, in which others' lines were. A
// job that goes on, however slowly, is not held back: to send it again would be
// more work for a cluster that has too much.
func (o *Output) isHeldBack(j *job) bool {
	if j.wanted == nil || !j.wanted() {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if j.retrying == 0 || j.retrying < j.left || o.health.down != nil {
		return false
	}
	since := j.troubled
	if j.moved.After(since) {
		since = j.moved
	}
	return time.Since(since) >= heldBack && o.health.stored.After(since)
}

// worker sends one request at a time.
type worker struct {
	o      *Output
	router *router
	body   []byte
	items  []item
	took   []piece // what the request is made of
	room   int64   // bytes of a body
	begun  int     // the round of Output.health at that time
	mark   string  // of the request; empty: none
	slow   bool    // so are its pieces
}

// item is a line in a request.
type item struct {
	piece  int32 // in took
	line   int32 // of its job
	from   int   // the _id as it is spelled, in the body,
	to     int   // up to here
	route  *route
	result outcome
	index  []byte // that holds the document, as it is spelled in the answer
	typ    string // of an error
	detail string // of an error, for the dead letter alone
	status int
}

func (w *worker) run() {
	for w.take() {
		w.round()
		w.drop()
	}
}

// drop forgets what the request was made of, and memory that a giant took.
func (w *worker) drop() {
	clear(w.took)
	clear(w.items)
	w.took, w.items = w.took[:0], w.items[:0]
	if int64(cap(w.body)) > w.o.cfg.BulkMaxBytes+w.o.cfg.BulkMaxBytes/2 {
		w.body = nil
	}
}

// round fills and sends one request. A panic over it fails the windows in it,
// and nothing else: their senders send them again.
func (w *worker) round() {
	o := w.o
	defer func() {
		r := recover()
		o.mu.Lock()
		defer o.mu.Unlock()
		o.sending--
		o.due = time.Now().Add(o.cfg.Watch)
		if w.slow {
			o.slow--
		}
		if r != nil {
			o.cfg.Log.Error("sending a bulk request panicked", "stack", string(debug.Stack())) // the value may quote an event
			for _, p := range w.took {
				p.job.fail(errors.New("output.elasticsearch: panic over a request; see the log"))
			}
		}
		o.wake()
	}()
	w.fill()
	if len(w.items) == 0 {
		return
	}
	start := time.Now()
	resp, err := o.cfg.Doer.Do(o.base, &Request{Method: http.MethodPost, Path: o.path, Body: w.body, ContentType: "application/x-ndjson", Mark: w.mark})
	o.cfg.Metrics.OutputBulkDuration.Observe(time.Since(start).Seconds())
	if o.base.Err() != nil {
		return
	}
	w.answered(resp, err)
}

// take waits until there is something to send, and takes it; false: closed.
func (w *worker) take() bool {
	o := w.o
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		now := time.Now()
		for len(o.later) > 0 && !o.later[0].due.After(now) {
			o.queue = append(o.queue, heap.Pop(&o.later).(piece))
		}
		if o.closing && (len(o.jobs) == 0 || o.base.Err() != nil) {
			return false
		}
		next := time.Time{}
		switch {
		case len(o.queue) == 0:
			if len(o.later) > 0 {
				next = o.later[0].due
			}
		case o.health.failures > 0 && o.sending > 0: // somebody probes
		case now.Before(o.health.pause):
			next = o.health.pause
		default:
			if w.collect(now) {
				o.sending++
				if w.slow = w.took[0].slow; w.slow {
					o.slow++
				}
				if len(o.queue) > 0 {
					o.wake() // for the next worker
				}
				return true
			}
			continue
		}
		changed := o.changed
		o.mu.Unlock()
		var due <-chan time.Time
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-changed:
		case <-due:
		case <-o.base.Done():
		}
		o.mu.Lock()
	}
}

// collect moves pieces from the queue into the request, as many as fit. The
// caller holds mu.
func (w *worker) collect(now time.Time) bool {
	o := w.o
	if o.most < o.cfg.BulkMaxBytes && now.Sub(o.lowered) >= raiseMost {
		o.most, o.lowered = min(2*o.most, o.cfg.BulkMaxBytes), now
	}
	w.room, w.begun, w.mark = o.most, o.health.round, ""
	if !o.renamed.IsZero() && now.Sub(o.renamed) < markFor {
		w.mark = "vtsidecar-" + strconv.FormatUint(rand.Uint64(), 16)
	}
	room, items := o.most, maxItems
	done := 0
	for done < len(o.queue) && items > 0 {
		p := &o.queue[done]
		if p.slow && len(w.took) == 0 && o.slow > 0 && o.cfg.Workers > 1 {
			p.due = now.Add(slowPause)
			heap.Push(&o.later, *p)
			*p = piece{}
			done++
			continue
		}
		p.job.using.Lock()
		if p.job.ended {
			p.job.using.Unlock()
			*p = piece{}
			done++
			continue
		}
		n := p.fitting(p.job.lines, room, items)
		switch {
		case len(w.took) == 0:
			n = max(n, 1) // a giant goes alone
		case p.alone || p.slow != w.took[0].slow:
			n = 0
		}
		if n > 0 {
			room -= p.bytes(p.job.lines, n)
			items -= n
		}
		p.job.using.Unlock()
		switch {
		case n == 0:
			items = 0
		case n < p.len():
			w.took = append(w.took, p.cut(n))
			items = 0
		default:
			if p.alone {
				items = 0
			}
			w.took = append(w.took, *p)
			*p = piece{}
			done++
		}
	}
	o.queue = o.queue[done:]
	if len(o.queue) == 0 {
		o.queue = nil // its array would keep growing at its end
	}
	return len(w.took) > 0
}

// fill writes the request's body. What has no room in it after all, because its
// action lines are longer than was thought, goes back to the queue.
func (w *worker) fill() {
	w.body = w.body[:0]
	for at := range w.took {
		p := &w.took[at]
		n := w.fillPiece(at)
		if n == p.len() {
			continue
		}
		first := p.cut(n)
		o := w.o
		o.mu.Lock()
		o.putBack(w.took[at:])
		o.wake()
		o.mu.Unlock()
		clear(w.took[at:])
		w.took = w.took[:at]
		if n > 0 {
			w.took = append(w.took, first)
		}
		return
	}
}

// fillPiece writes as many lines of a piece as have room, and the first of a
// request always.
func (w *worker) fillPiece(at int) int {
	p := &w.took[at]
	j := p.job
	j.using.Lock()
	defer j.using.Unlock()
	if j.ended {
		return p.len()
	}
	lines := j.lines
	var none event.Routing
	for i := range p.len() {
		n := p.line(i)
		begin, end := lineAt(lines, n)
		says := &none
		if n < len(lines.Routing) {
			says = &lines.Routing[n]
		}
		var r *route
		if j.fixed != nil {
			r = j.fixed[n]
		} else {
			r = w.router.of(says)
		}
		start := len(w.body)
		w.body = append(w.body, r.action...)
		from := len(w.body)
		if id := says.ID; len(id) > 0 && len(id) <= maxID {
			w.body = appendEscaped(w.body, id)
		} else {
			w.body = hex.AppendEncode(w.body, lines.Index[n].ID[:])
		}
		to := len(w.body)
		w.body = append(w.body, "\"}}\n"...)
		if len(w.items) > 0 && int64(len(w.body)+end-begin) > w.room {
			w.body = w.body[:start]
			return i
		}
		w.body = append(w.body, lines.Buf[begin:end]...)
		w.items = append(w.items, item{piece: int32(at), line: int32(n), from: from, to: to, route: r})
	}
	return p.len()
}

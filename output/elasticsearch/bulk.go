package elasticsearch

import (
	"container/heap"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	"vtsidecar/internal/backoff"
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
//  4. A request that was not answered is put back whole; while requests fail,
//     one at a time probes. An item that was not taken goes to the heap alone.
//  5. A request that is refused for no known reason is put back in parts, behind
//     all others: so an event that something between does not let pass comes to
//     wait by itself, and is not lost, and the others go on.
//  6. Waiting costs no goroutine and no memory beyond the job's own, and what a
//     job leaves behind when it is given up is taken away.

const (
	bulkPath = "/_bulk?filter_path=" + bulkFilter

	maxItems  = 16 << 10         // of a request, so that its answer stays within bounds
	heldBack  = 10 * time.Second // that a job is held back before others' needs count
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
	tries    int       // that its lines were not taken
	due      time.Time // in the heap
	doubt    time.Time // since when requests with it are refused for no known reason; zero: they are not
	doubts   int       // so often it was, as it is
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

// has reports whether a job has not ended. The caller holds mu.
func (o *Output) has(j *job) bool {
	_, ok := o.jobs[j]
	return ok
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
	gone := func(p piece) bool { return !o.has(p.job) }
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
}

// item is a line in a request.
type item struct {
	piece  int32 // in took
	line   int32 // of its job
	from   int   // the _id as it is spelled, in the body,
	to     int   // up to here
	route  *route
	result outcome
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
	resp, err := o.cfg.Doer.Do(o.base, &Request{Method: http.MethodPost, Path: bulkPath, Body: w.body, ContentType: "application/x-ndjson", Mark: w.mark})
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
	var timer *time.Timer
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
			timer = time.NewTimer(time.Until(next))
			due = timer.C
		}
		select {
		case <-changed:
		case <-due:
		case <-o.base.Done():
		}
		if timer != nil {
			timer.Stop()
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
		p.job.using.Lock()
		if p.job.ended || p.job.err != nil {
			p.job.using.Unlock()
			*p = piece{}
			done++
			continue
		}
		n := p.fitting(p.job.lines, room, items)
		switch {
		case len(w.took) == 0:
			n = max(n, 1) // a giant goes alone
		case p.alone:
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

// answered draws the conclusions from what came of a request.
func (w *worker) answered(resp *Response, err error) {
	switch {
	case err != nil:
		reason, words := unanswered(err)
		if errors.Is(err, ErrAnswerTooLong) && len(w.items) > 1 {
			w.halve(reasonUnreadable)
			return
		}
		w.failed(outcome{verdict: again, reason: reason}, words)
	case resp.Status != http.StatusOK:
		switch result := request(resp.Status, resp.Body); {
		case result.verdict == refused && len(w.items) > 1:
			w.halve(result.reason)
		case result.verdict == refused:
			it := &w.items[0]
			it.result, it.status = result, resp.Status
			it.detail = "the cluster refuses a request of this event alone"
			if typ, reason := requestError(resp.Body); typ != "" {
				it.detail += ": " + readable(typ+": "+reason, 4<<10)
			}
			w.settle()
		case result.odd:
			w.doubted(resp, result)
		default:
			w.failed(result, w.statusWords(resp, result))
		}
	default:
		err := w.read(resp)
		if errors.Is(err, errOther) && w.mark == "" {
			w.again()
			return
		}
		if err != nil {
			w.failed(outcome{verdict: again, reason: reasonUnreadable},
				fmt.Sprintf("output.elasticsearch.hosts: %s answered a bulk request with status 200 and something that is no answer to it", resp.Host))
			return
		}
		w.settle()
	}
}

func (w *worker) statusWords(resp *Response, result outcome) string {
	switch result.reason {
	case reasonPrivilege:
		return fmt.Sprintf("%s answers %d: the credentials are wrong or may not write; mend output.elasticsearch.api_key, .username and .password or .bearer_token", resp.Host, resp.Status)
	case reasonRedirect:
		return fmt.Sprintf("output.elasticsearch.hosts: %s answers %d and wants to send the request elsewhere, which is never followed: name the right host", resp.Host, resp.Status)
	case reasonBlock:
		return fmt.Sprintf("%s answers %d: the whole cluster is blocked for writing; lift the block (cluster.blocks.*), or make room on its disks", resp.Host, resp.Status)
	case reasonExplicit:
		return fmt.Sprintf("%s answers 400: events may name no index there; set rest.action.multi.allow_explicit_index to true in its own settings", resp.Host)
	case reasonBusy:
		return fmt.Sprintf("%s answers 429: it has more to do than it can", resp.Host)
	case reasonServer:
		return fmt.Sprintf("%s answers %d: it has a fault of its own", resp.Host, resp.Status)
	}
	return fmt.Sprintf("output.elasticsearch.hosts: %s answers %d to a bulk request: is it Elasticsearch or OpenSearch?", resp.Host, resp.Status)
}

// unanswered is a request without an answer, as a label and in words.
func unanswered(err error) (reason, words string) {
	reason = reasonUnreached
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		reason = reasonTimeout
	}
	if errors.Is(err, ErrAnswerTooLong) {
		reason = reasonUnreadable
	}
	return reason, "output.elasticsearch.hosts: no answer: " + err.Error()
}

// again has a request sent at once with a mark, so that its answer is known by it.
// Requests have one only then: where each has its own, a cluster that warns of
// something deprecated does so each time.
func (w *worker) again() {
	o := w.o
	o.cfg.Metrics.OutputRetries.WithLabelValues(reasonRenamed).Inc()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.renamed = time.Now()
	o.putBack(w.took)
}

// read reads what is said of each item. An error: it is not believed.
func (w *worker) read(resp *Response) error {
	n, inOrder := 0, true
	err := readAnswers(resp.Body, func(i int, a *answer) error {
		if i >= len(w.items) {
			return errAnswer
		}
		n++
		if it := &w.items[i]; string(a.op) != it.route.Op || !sameText(a.id, w.body[it.from:it.to]) {
			inOrder = false
		} else if inOrder {
			return it.take(a)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case n != len(w.items):
		return errAnswer
	case inOrder:
		return nil
	}
	return w.match(resp)
}

// match reads an answer in which not every item stands in its place: OpenSearch
// mixes up those that failed in pipelines. Items are known by their _ids then, and
// by their order only where no _id is left that was sent.
func (w *worker) match(resp *Response) error {
	answers := make([]answer, len(w.items))
	err := readAnswers(resp.Body, func(i int, a *answer) error {
		answers[i] = *a
		return nil
	})
	if err != nil {
		return err
	}
	of := make([]int, len(w.items)) // the answer of each item, counted from 1
	sent := map[string][]int{}      // items by their _ids
	for i := range w.items {
		it := &w.items[i]
		if id := w.body[it.from:it.to]; sameText(answers[i].id, id) {
			of[i] = i + 1
		} else {
			sent[unquote(id)] = append(sent[unquote(id)], i)
		}
	}
	var others []int // answers about none of these
	for i := range answers {
		if of[i] == i+1 {
			continue
		}
		id := unquote(answers[i].id)
		if rest := sent[id]; len(rest) > 0 {
			of[rest[0]], sent[id] = i+1, rest[1:]
		} else {
			others = append(others, i)
		}
	}
	if len(others) > 0 {
		if w.mark == "" || resp.Header.Get(markHeader) != w.mark {
			return errOther
		}
		w.o.mu.Lock()
		w.o.renamed = time.Now()
		w.o.mu.Unlock()
	}
	for i := range w.items {
		at := of[i] - 1
		if at < 0 {
			at, others = others[0], others[1:]
		}
		if string(answers[at].op) != w.items[i].route.Op {
			return errAnswer
		}
		if err := w.items[i].take(&answers[at]); err != nil {
			return err
		}
	}
	return nil
}

// take notes what was answered about an item.
func (it *item) take(a *answer) error {
	if a.status < 300 && a.typ != "" {
		return errAnswer
	}
	it.result, it.status = it.route.item(a), a.status
	if it.result.verdict != stored {
		it.typ = readable(a.typ, 100)
		if it.result.verdict == refused {
			it.detail = readable(a.typ+": "+a.reason, 4<<10)
		}
	}
	return nil
}

// failed puts a whole request back.
func (w *worker) failed(result outcome, words string) {
	o := w.o
	o.cfg.Metrics.OutputRetries.WithLabelValues(result.reason).Inc()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.putBack(w.took)
	o.health.failed(w.begun, result, words)
}

// doubted is a request that was refused for no reason that is known. It may be
// every request, as by a proxy that is not set up, those to one host, or one event,
// as by a firewall that reads along. So when each host had its turn it is tried in
// parts; and an event that is refused by itself after others were taken is known to
// be the one: it waits for an operator, without the others. To bury it would be to
// lose it to something between, and nobody but its own window waits.
func (w *worker) doubted(resp *Response, result outcome) {
	o, now := w.o, time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	every := true // host was tried
	for i := range w.took {
		p := &w.took[i]
		if p.doubt.IsZero() {
			p.doubt = now
		}
		p.doubts++
		every = every && p.doubts >= o.cfg.Hosts
	}
	if it := &w.items[0]; len(w.items) == 1 && every && o.health.stored.After(w.took[it.piece].doubt) {
		it.result, it.status = result, resp.Status
		w.count()
		o.health.bar(fmt.Sprintf("output.elasticsearch.hosts: %s answers %d to a request of one event alone, and takes others: something before the cluster does not let it pass; mend that, its window waits", resp.Host, resp.Status))
		w.conclude(nil)
		return
	}
	o.cfg.Metrics.OutputRetries.WithLabelValues(result.reason).Inc()
	parts := w.took
	if every {
		parts = w.parts()
		for i := range parts {
			parts[i].doubts = 0
		}
	}
	o.queue = append(o.queue, parts...)
	o.health.failed(w.begun, result, w.statusWords(resp, result))
}

// parts are the pieces of a request, two at least where it has as many events,
// each for a request of its own.
func (w *worker) parts() []piece {
	parts := make([]piece, 0, len(w.took)+1)
	for _, p := range w.took {
		p.alone = true
		if len(w.took) == 1 && p.len() > 1 {
			parts = append(parts, p.cut(p.len()/2))
		}
		parts = append(parts, p)
	}
	return parts
}

// putBack puts pieces to the front of the queue. The caller holds mu.
func (o *Output) putBack(took []piece) {
	queue := make([]piece, 0, len(took)+len(o.queue))
	o.queue = append(append(queue, took...), o.queue...)
}

// halve puts a request back that was refused as a whole, to be sent in parts
// until it is known which event is to blame.
func (w *worker) halve(reason string) {
	o := w.o
	o.cfg.Metrics.OutputRetries.WithLabelValues(reason).Inc()
	o.mu.Lock()
	defer o.mu.Unlock()
	if reason == reasonTooLarge {
		// It was above the server's bound, so this is never below half of it.
		o.most, o.lowered = max(1, min(o.most, int64(len(w.body))/2)), time.Now()
	}
	o.putBack(w.parts())
	o.health.reached()
}

// settle tells the jobs what became of their lines.
func (w *worker) settle() {
	letters := map[*job][]event.DeadLetter{}
	for i := range w.items {
		if it := &w.items[i]; it.result.verdict == refused {
			if l, ok := w.letter(it); ok {
				j := w.took[it.piece].job
				letters[j] = append(letters[j], l)
			}
		}
	}
	w.count()

	o := w.o
	o.mu.Lock()
	defer o.mu.Unlock()
	o.health.reached()
	w.conclude(letters)
}

// conclude does the books of the jobs whose lines were answered for. The caller
// holds Output.mu.
func (w *worker) conclude(letters map[*job][]event.DeadLetter) {
	o, now := w.o, time.Now()
	for i := 0; i < len(w.items); { // by pieces, in whose order the items stand
		at := w.items[i].piece
		p, j := &w.took[at], w.took[at].job
		if !w.items[i].result.odd {
			if !p.doubt.IsZero() && p.tries > 0 {
				o.health.unbar()
			}
			p.doubt, p.doubts = time.Time{}, 0 // it was answered for
		}
		var retry, fixed []int32
		settled := 0
		for ; i < len(w.items) && w.items[i].piece == at; i++ {
			it := &w.items[i]
			switch it.result.verdict {
			case stored:
				o.health.took(it.route.Index, now)
				settled++
				continue
			case refused:
				settled++
				continue
			case outage:
				if !it.result.odd {
					o.health.fault(it, now)
				}
			}
			if it.result.fixed {
				fixed = append(fixed, it.line)
			} else {
				retry = append(retry, it.line)
			}
		}
		o.delay(p, retry, now.Add(backoff.After(p.tries+1)))
		o.delay(p, fixed, now.Add(retryAuth))
		if p.tries == 0 {
			j.retrying += len(retry) + len(fixed)
		} else {
			j.retrying -= settled
		}
		switch {
		case j.retrying == 0:
			j.troubled = time.Time{}
		case j.troubled.IsZero():
			j.troubled = now
		}
		if settled > 0 {
			j.moved = now
		}
		j.left -= settled
		j.letters = append(j.letters, letters[j]...)
		delete(letters, j)
		if j.left == 0 || len(j.letters) > 0 {
			j.tell()
		}
	}
}

// letter is an event that the cluster refuses. It aliases the lines, which stay
// as long as the Store; it is false where that has ended.
func (w *worker) letter(it *item) (event.DeadLetter, bool) {
	j := w.took[it.piece].job
	j.using.Lock()
	defer j.using.Unlock()
	if j.ended {
		return event.DeadLetter{}, false
	}
	begin, end := lineAt(j.lines, int(it.line))
	line := j.lines.Buf[begin : end-1]
	target := it.route.Target
	target.ID = unquote(w.body[it.from:it.to])
	return event.DeadLetter{
		Reason: it.result.reason, Detail: it.detail, Event: line, Length: int64(len(line)), Status: it.status, Target: &target,
	}, true
}

// delay puts lines of a piece into the heap. The caller holds mu.
func (o *Output) delay(p *piece, lines []int32, due time.Time) {
	if len(lines) > 0 && o.has(p.job) {
		heap.Push(&o.later, piece{job: p.job, picks: lines, tries: p.tries + 1, due: due, alone: !p.doubt.IsZero(), doubt: p.doubt, doubts: p.doubts})
	}
}

// count hands the figures of a request to the metrics.
func (w *worker) count() {
	m := w.o.cfg.Metrics
	words := [...]string{stored: "stored", again: "retried", outage: "retried", refused: "refused"}
	for i := 0; i < len(w.items); { // by runs, which are long
		result, r, from := w.items[i].result, w.items[i].route, i
		for i < len(w.items) && w.items[i].result == result && w.items[i].route == r {
			i++
		}
		n := float64(i - from)
		m.OutputItems.WithLabelValues(words[result.verdict], result.reason).Add(n)
		if result.verdict == again || result.verdict == outage {
			m.OutputRetries.WithLabelValues(result.reason).Add(n)
			continue
		}
		if result.verdict == stored {
			m.EventsStored.Add(n)
		}
		if r.fallback != "" {
			m.OutputFallback.WithLabelValues(r.fallback).Add(n)
		}
		if r.opIgnored {
			m.OutputOpIgnored.Add(n)
		}
	}
}

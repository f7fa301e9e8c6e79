package elasticsearch

import (
	"container/heap"
	"errors"
	"fmt"
	"net/http"
	"time"

	"vtsidecar/internal/backoff"
	"vtsidecar/internal/event"
	"vtsidecar/internal/jsonwalk"
)

// This file says what becomes of a request's events. Its rules:
//
//  1. A request that was not answered, or not in a way to be believed, is put back
//     whole.
//  2. Of one that was answered an item that was not taken goes to the heap alone.
//  3. A request that is refused for one of its lines, or for its size, is put back
//     in parts, before all others, down to the event at fault.
//  4. A request that is refused for no known reason is put back in parts, behind
//     all others: so an event that something between does not let pass comes to
//     wait by itself, and is not lost, and the others go on
//     (docs/decisions/0007-odd-refusals.md).

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
			w.failed(result, result.words(resp))
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
	n, nameless, inOrder := 0, 0, true
	err := readAnswers(resp.Body, func(i int, a *answer) error {
		if i >= len(w.items) {
			return errAnswer
		}
		n++
		if len(a.id) == 0 {
			nameless++
		}
		if it := &w.items[i]; string(a.op) != it.route.Op || len(a.id) > 0 && !sameText(a.id, w.body[it.from:it.to]) {
			inOrder = false
		} else if inOrder {
			return it.take(a)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case n != len(w.items), nameless > 0 && (nameless < n || !inOrder):
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
		raw := w.body[it.from:it.to]
		if sameText(answers[i].id, raw) {
			of[i] = i + 1
			continue
		}
		id := jsonwalk.Unquote(raw)
		sent[id] = append(sent[id], i)
	}
	var others []int // answers about none of these
	for i := range answers {
		if of[i] == i+1 {
			continue
		}
		id := jsonwalk.Unquote(answers[i].id)
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
	it.result, it.status, it.index = it.route.item(a), a.status, a.index
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
		if p.doubt.since.IsZero() {
			p.doubt.since = now
		}
		p.doubt.tries++
		every = every && p.doubt.tries >= o.cfg.Hosts
	}
	if it := &w.items[0]; len(w.items) == 1 && every && o.health.stored.After(w.took[it.piece].doubt.since) {
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
			parts[i].doubt.tries = 0
		}
	}
	o.queue = append(o.queue, parts...)
	o.health.failed(w.begun, result, result.words(resp))
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
	w.tellPlaces()
	w.count()

	o := w.o
	o.mu.Lock()
	defer o.mu.Unlock()
	o.health.reached()
	w.conclude(letters)
}

// tellPlaces tells the jobs that want to know which index holds each of their lines,
// before any of them is told that it is done.
func (w *worker) tellPlaces() {
	for from := 0; from < len(w.items); {
		at, to := w.items[from].piece, from
		for to < len(w.items) && w.items[to].piece == at {
			to++
		}
		w.took[at].job.tellPlaces(w.items[from:to])
		from = to
	}
}

func (j *job) tellPlaces(items []item) {
	j.using.Lock()
	defer j.using.Unlock()
	if j.ended || j.lines.Placed == nil {
		return
	}
	for i := range items {
		if it := &items[i]; it.result.verdict == stored {
			j.lines.Placed(int(it.line), jsonwalk.Unquote(it.index))
		}
	}
}

// conclude does the books of the jobs whose lines were answered for. The caller
// holds Output.mu.
func (w *worker) conclude(letters map[*job][]event.DeadLetter) {
	o, now := w.o, time.Now()
	for i := 0; i < len(w.items); { // by pieces, in whose order the items stand
		at := w.items[i].piece
		p, j := &w.took[at], w.took[at].job
		if !w.items[i].result.odd {
			if !p.doubt.since.IsZero() && p.tries > 0 {
				o.health.unbar()
			}
			p.doubt = doubt{} // it was answered for
		}
		var retry, fixed []int32
		settled, slow := 0, false
		for ; i < len(w.items) && w.items[i].piece == at; i++ {
			it := &w.items[i]
			switch it.result.verdict {
			case stored:
				o.health.took(it.route, now)
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
			slow = slow || it.typ == noShard
			if it.result.fixed {
				fixed = append(fixed, it.line)
			} else {
				retry = append(retry, it.line)
			}
		}
		p.slow = slow
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
	target.ID = jsonwalk.Unquote(w.body[it.from:it.to])
	return event.DeadLetter{
		Reason: it.result.reason, Detail: it.detail, Event: line, Length: int64(len(line)), Status: it.status, Target: &target,
	}, true
}

// delay puts lines of a piece into the heap. The caller holds mu.
func (o *Output) delay(p *piece, lines []int32, due time.Time) {
	if len(lines) > 0 {
		heap.Push(&o.later, piece{job: p.job, picks: lines, tries: p.tries + 1, due: due, alone: !p.doubt.since.IsZero(), slow: p.slow, doubt: p.doubt})
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

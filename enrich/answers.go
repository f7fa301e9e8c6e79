package enrich

import (
	"context"
	"errors"
	"time"
)

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

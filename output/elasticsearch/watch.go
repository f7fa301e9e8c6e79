package elasticsearch

import (
	"context"
	"net/http"
	"time"
)

// This file asks the cluster how it is while no event tells. Its rules:
//
//  1. It is asked when nothing was answered for a while, by a request that costs it
//     next to nothing and needs no privilege: a 403 is an answer too.
//  2. An answer says that the cluster is there, not that it takes events. So it ends
//     the pause of windows that wait for a cluster that was not there, and the outage
//     itself only where no window waits for a better proof.
//     Where a bulk is taken and questions are answered badly, as by a proxy that knows
//     only bulks, such answers say nothing until one is better.
//  3. Questions without an answer make an outage as requests do, and keep it; but
//     they do not make the pauses grow.

const (
	askMost  = 10 * time.Second // for an answer
	askAgain = time.Second      // as long as one failure is not yet an outage
)

// watch asks the cluster, until base ends.
func (o *Output) watch() {
	for {
		select {
		case <-time.After(o.untilAsk()):
		case <-o.base.Done():
			return
		}
		if o.untilAsk() <= 0 {
			o.ask()
		}
	}
}

// untilAsk is how long the cluster need not be asked; 0 or less: it is time.
func (o *Output) untilAsk() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sending > 0 {
		return o.cfg.Watch
	}
	return time.Until(o.due)
}

// ask asks the cluster how it is.
func (o *Output) ask() {
	o.mu.Lock()
	begun := o.health.round
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(o.base, askMost)
	defer cancel()
	resp, err := o.cfg.Doer.Do(ctx, &Request{Method: http.MethodGet, Path: "/"})
	if o.base.Err() != nil {
		return
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	h := &o.health
	switch {
	case err != nil:
		reason, words := unanswered(err)
		h.missed(begun, outcome{verdict: again, reason: reason}, words, false)
	case resp.Status == http.StatusUnauthorized || resp.Status == http.StatusProxyAuthRequired || resp.Status >= 500:
		result := request(resp.Status, resp.Body)
		h.missed(begun, result, result.words(resp), true)
	case h.answers(begun, len(o.jobs) > 0):
		o.wake()
	}
	wait := o.cfg.Watch
	if h.away && h.down == nil {
		wait = min(wait, askAgain)
	}
	o.due = time.Now().Add(wait)
}

package elasticsearch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vtsidecar/internal/backoff"
)

// This file knows how the cluster is, from what came of requests. Its rules:
//
//  1. Nothing counts as down before each host was tried, nor while the cluster is
//     only busy, or what it says may be about a single event, for a while.
//  2. What ends is noticed by the next event, or by a question (watch.go); what
//     nobody meets any more is forgotten. Who sends only where it is ready would
//     else never learn of it.
//  3. Readiness has the words; the log has the beginning and the end.

const (
	lastMost   = 10 * time.Second // that a cluster may be busy, or answer oddly, before it counts as down
	maxOutages = 100              // that are told apart: names come from events too

	// How long trouble counts that nobody has met again: longer than the longest
	// pause between two tries.
	lapseAll   = 2 * time.Minute // of the whole cluster, when no window waits
	lapseIndex = 5 * time.Minute // of an index or an event, since a try
)

// health is how the cluster is. Its methods are called with Output.mu held.
type health struct {
	cfg *Config // constant

	failures int       // of whole requests, in a row; those that fail side by side count once
	failing  time.Time // since the first of these
	round    int       // counts them, and the ends of such rows
	pause    time.Time // no request before
	away     bool      // nobody was there when something failed last
	guessed  bool      // the outage is known by answers to questions alone
	deaf     bool      // such answers say nothing: bulks were taken meanwhile
	stored   time.Time // when something was stored last
	down     *trouble  // why nothing can be stored; nil: something can
	outages  map[place]*trouble
	barred   *trouble // an event that something before the cluster does not let pass; nil: none
}

// place is where trouble is met and ends: what another pipeline of the index takes
// says nothing of this one.
type place struct{ index, pipeline string }

func (r *route) place() place { return place{r.Index, r.Pipeline} }

// trouble is an outage in words, for readiness and for one line in the log.
type trouble struct {
	words  string
	since  time.Time
	seen   time.Time // when it was met last
	logged bool      // of down and barred: it has lasted, or is no doubt
}

func (t *trouble) seconds() int { return int(time.Since(t.since).Seconds()) }

// failed draws the conclusions from a request that failed, begun in a round: a
// pause, and whether the cluster counts as down. Of what fails side by side the
// first one counts, since it may all be one host; and what may be about a single
// event is tried again soon at first, to find that out.
func (h *health) failed(begun int, result outcome, words string) {
	now := time.Now()
	if h.down != nil {
		h.down.seen = now
	}
	if begun != h.round {
		return
	}
	h.round++
	h.away = result.reason == reasonUnreached
	if h.failures++; h.failures == 1 {
		h.failing = now
	}
	tries := max(2, h.cfg.Hosts) // a single host gets a second chance, but not
	if result.fixed {
		tries = h.cfg.Hosts // where it has said what is wrong
	}
	lasts := now.Sub(h.failing) >= lastMost
	switch more := h.failures - tries; {
	case more < 0 && result.reason != reasonBusy:
		return // perhaps another host is well
	case result.fixed && (lasts || !result.odd):
		h.pause = now.Add(retryAuth)
	default:
		h.pause = now.Add(backoff.After(more + 1))
	}
	if h.failures < tries || !lasts && (result.reason == reasonBusy || result.odd && !result.fixed) {
		return
	}
	if h.down == nil {
		h.down = &trouble{since: now, seen: now}
		h.cfg.Metrics.OutputUp.Set(0)
	}
	if !h.down.logged && (lasts || !result.odd) {
		h.down.logged = true
		h.cfg.Log.Error("Elasticsearch takes nothing at present; windows wait for it", "reason", result.reason, "error", words)
	}
	h.down.words = words
}

// missed draws the conclusions from a question, begun in a round, that was not
// answered, or, where answered says so, not well.
func (h *health) missed(begun int, result outcome, words string, answered bool) {
	switch {
	case begun != h.round || answered && h.deaf:
		return
	case h.down == nil:
		h.failed(begun, result, words)
		h.guessed = answered && h.down != nil
	default:
		h.down.seen, h.down.words = time.Now(), words
	}
	h.away = true
}

// answers notes that a question, begun in a round, was answered, and reports
// whether the cluster was not there before. waiting: events wait for it.
func (h *health) answers(begun int, waiting bool) bool {
	h.deaf = false
	switch {
	case begun != h.round || h.failures == 0:
		return false
	case !h.away:
		if !waiting && h.down == nil {
			h.reached() // what failed was given up: the next failure begins a row of its own
		}
		return false
	}
	h.guessed = false
	h.pause = time.Time{}
	if !waiting {
		h.reached()
	}
	return true
}

// reached notes that the cluster takes what is sent.
func (h *health) reached() {
	if h.failures > 0 {
		h.round++
	}
	h.failures, h.pause, h.away = 0, time.Time{}, false
	h.deaf, h.guessed = h.deaf || h.guessed, false
	if h.down != nil {
		if h.down.logged {
			h.cfg.Log.Info("Elasticsearch takes events again", "seconds", h.down.seconds())
		}
		h.up()
	}
}

func (h *health) up() {
	h.cfg.Metrics.OutputUp.Set(1)
	h.down = nil
}

// fault notes an index that an operator must see to.
func (h *health) fault(it *item, now time.Time) {
	at := it.route.place()
	if t := h.outages[at]; t != nil {
		t.seen = now
		return
	}
	if len(h.outages) >= maxOutages {
		return
	}
	words := it.outage()
	h.outages[at] = &trouble{words: words, since: now, seen: now}
	h.cfg.Log.Error("Elasticsearch takes nothing for an index; its events wait", "index", at.index, "reason", it.result.reason, "error", words)
}

// took notes that something was stored.
func (h *health) took(r *route, now time.Time) {
	h.stored = now
	if len(h.outages) == 0 {
		return
	}
	at := r.place()
	if t := h.outages[at]; t != nil {
		delete(h.outages, at)
		h.cfg.Log.Info("Elasticsearch takes events for an index again", "index", at.index, "seconds", t.seconds())
	}
}

// bar notes that an event is not let through to the cluster.
func (h *health) bar(words string) {
	now := time.Now()
	if h.barred == nil {
		h.barred = &trouble{since: now}
	}
	h.barred.words, h.barred.seen = words, now
	if !h.barred.logged && now.Sub(h.barred.since) >= lastMost {
		h.barred.logged = true
		h.cfg.Log.Error("an event does not get through to Elasticsearch; its window waits", "error", words)
	}
}

// unbar notes that it has got through.
func (h *health) unbar() {
	if h.barred != nil && h.barred.logged {
		h.cfg.Log.Info("an event that did not get through to Elasticsearch is stored", "seconds", h.barred.seconds())
	}
	h.barred = nil
}

// lapse forgets trouble that no event meets any more; waiting: some event waits
// for something.
func (h *health) lapse(now time.Time, waiting bool) {
	if h.down != nil {
		if !waiting && now.Sub(h.down.seen) > lapseAll {
			h.cfg.Log.Info("no event waits for Elasticsearch any more; the next one will show whether it takes events")
			h.up()
		}
		return
	}
	if h.barred != nil && now.Sub(h.barred.seen) > lapseIndex {
		h.barred = nil
	}
	for at, t := range h.outages {
		if now.Sub(t.seen) > lapseIndex {
			h.cfg.Log.Info("no event waits for an index any more; the next one will show whether it takes events", "index", at.index)
			delete(h.outages, at)
		}
	}
}

// err is nil, or why nothing, or nothing of some index, can be stored.
func (h *health) err() error {
	if h.down != nil {
		return errors.New(h.down.words)
	}
	var words []string
	if h.barred != nil {
		words = append(words, h.barred.words)
	}
	for _, t := range h.outages {
		words = append(words, t.words)
	}
	if len(words) == 0 {
		return nil
	}
	slices.Sort(words)
	words = slices.Compact(words) // of one index, but several pipelines
	if more := len(words) - 3; more > 0 {
		words = append(words[:3], fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(words, "; "))
}

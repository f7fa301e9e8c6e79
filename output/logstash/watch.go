package logstash

import (
	"context"
	"fmt"
	"slices"
	"time"

	"vtsidecar/internal/backoff"
)

// askMost is how long a host that is asked may take to take a connection.
const askMost = 10 * time.Second

// watch asks a host to which nothing was sent for a while whether it takes
// connections, until base ends. Else the first event would find out, and an event
// that waits would wait for the end of a long rest. A connection is no proof that
// windows are taken: while one waits, only a window that is taken ends an outage.
func (o *Output) watch(h *host) {
	for {
		wait := o.untilAsk(h)
		if wait <= 0 {
			o.ask(h)
			continue
		}
		select {
		case <-time.After(wait):
		case <-o.base.Done():
			return
		}
	}
}

// untilAsk is how long a host need not be asked; 0 or less: it is time.
func (o *Output) untilAsk(h *host) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if h.busy > 0 || o.base.Err() != nil {
		return o.cfg.Watch
	}
	return time.Until(h.due)
}

// ask asks a host whether it takes connections.
func (o *Output) ask(h *host) {
	o.mu.Lock()
	failures, due := h.failures, h.due
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(o.base, askMost)
	defer cancel()
	p, err := o.dial(ctx, h.address)
	if err == nil {
		p.conn.Close()
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	told := h.busy > 0 || h.failures != failures || !h.due.Equal(due)
	h.due = now.Add(o.cfg.Watch)
	if told || o.base.Err() != nil {
		return // a window tells more
	}
	switch {
	case err != nil:
		h.away, h.words = true, fmt.Sprintf("%s: %v", h.address, err)
		if failures == 0 {
			h.failures = 1
			h.rest = now.Add(backoff.After(1))
		}
		// One that takes connections may take windows again too: nobody has tried.
		if !slices.ContainsFunc(o.hosts, func(h *host) bool { return !h.away }) {
			o.seen = now
			o.sick()
		}
	case h.away:
		h.rest = time.Time{}
		if o.storing == 0 {
			o.well(h)
		}
		o.wake()
	}
}

package lumber

// A window goes down in batches, each of which holds its memory until it is durable.

import (
	"time"

	"vtsidecar/internal/event"
)

// batch is a part of a window on its way down.
type batch struct {
	event.Batch
	window *window
	share  *share
	chunks [][]byte
}

// room hands the batch down first if n more bytes would make it too large.
func (c *conn) room(n int64) error {
	if n += eventSize; c.bytes > 0 && c.bytes+n > c.s.cfg.BatchBytes {
		if err := c.handOff(false); err != nil {
			return err
		}
	}
	c.bytes += n
	return nil
}

// add puts an event into the batch.
func (c *conn) add(e event.Event) error {
	if len(c.events) == cap(c.events) {
		old := c.events
		size := eventsCap(cap(old))
		if err := c.share.reserve(c.reading, int64(size)*eventSize); err != nil {
			return err
		}
		c.events = append(c.s.pool.eventSlice(size), old...)
		if old != nil {
			c.s.pool.freeEvents(old)
			c.share.release(int64(cap(old)) * eventSize)
		}
	}
	c.events = append(c.events, e)
	return nil
}

// handOff gives the batch to a Handle call of its own. last: the window has
// been read as a whole.
func (c *conn) handOff(last bool) error {
	now := time.Now()
	b := &batch{window: c.window, share: c.share}
	var next *share
	if !last {
		next = c.share.next(now)
	}
	chunks, err := c.in.detach(next)
	if err == nil {
		var more [][]byte
		more, err = c.out.detach(next)
		b.chunks = append(chunks, more...)
	}
	if err != nil {
		if next != nil {
			next.close()
		}
		return err
	}
	b.Batch = event.Batch{Events: c.events, Received: now, Remote: c.remote, Budget: b.share}
	c.events, c.bytes = nil, 0
	c.in.share, c.out.share, c.share = next, next, next
	if last {
		// Chunks without events are not the batch's.
		c.in.drop()
		c.out.drop()
	}
	if err := c.turn(); err != nil {
		c.recycle(b)
		return err
	}
	c.s.metrics.EventsReceived.Add(float64(len(b.Events)))
	c.mu.Lock()
	b.window.pending++
	if c.downstream++; c.downstream == 1 {
		c.progress = now
	}
	c.mu.Unlock()
	c.handlers.Add(1)
	go c.handle(b)
	if last {
		c.completed(b.window, b.window.last)
	}
	return nil
}

// recycle gives back all that a batch held. Nobody may use its bytes any more.
func (c *conn) recycle(b *batch) {
	for _, chunk := range b.chunks {
		c.s.pool.freeChunk(chunk)
	}
	c.s.pool.freeEvents(b.Events)
	b.chunks, b.Events = nil, nil
	b.share.close()
}

package lumber

// Acks, by these rules:
//
//  1. Acks go out in the order of the windows, one for each, with the sequence
//     number of its last event, when all its batches are durable.
//  2. A window that is not durable and will not be gets none, nor does any behind
//     it; those before it do.
//  3. While a v2 window that was read waits at the head, a keepalive (ack 0) goes
//     out every Config.Keepalive. v1 clients would take it for their ack.
//  4. When nothing of the connection was stored for Config.Stalled, keepalives
//     would only keep its client waiting: the connection is closed.
//  5. One goroutine writes, so nothing is ever written into another frame. It
//     lives as long as there are windows to look after.

import (
	"encoding/binary"
	"time"

	v2 "github.com/elastic/go-lumber/protocol/v2"
)

// completed queues a window that was read as a whole. Called by the reader.
func (c *conn) completed(w *window, last uint32) {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	w.last, w.read = last, time.Now()
	c.queue = append(c.queue, w)
	start := !c.acking
	c.acking = true
	c.mu.Unlock()
	c.s.windows.Add(1)
	if start {
		c.acks.Add(1)
		go c.writeAcks()
	} else {
		c.signal()
	}
}

// signal tells writeAcks that something has changed.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writeAcks looks after the queue until it is empty or the rest is hopeless.
func (c *conn) writeAcks() {
	defer c.acks.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var out []byte
	for {
		out = out[:0]
		done, failed, stuck, wait := 0, false, false, time.Hour
		now := time.Now()

		c.mu.Lock()
		for ; done < len(c.queue); done++ {
			w := c.queue[done]
			if w.failed || w.pending > 0 {
				break
			}
			out = appendAck(out, w.version, w.last)
		}
		c.queue = c.queue[:copy(c.queue, c.queue[done:])]
		if done == 0 {
			if len(c.queue) == 0 {
				c.queue = nil
				c.acking = false
				c.mu.Unlock()
				return
			}
			head := c.queue[0]
			failed = head.failed
			wait = c.s.cfg.Stalled - now.Sub(c.progress)
			stuck = wait <= 0
			if head.version == v2.CodeVersion && !c.silent {
				due := c.s.cfg.Keepalive - now.Sub(latest(c.lastWrite, head.read))
				if due <= 0 && !failed && !stuck {
					out = appendAck(out, head.version, 0)
				}
				wait = min(wait, due)
			}
		}
		c.stuck = stuck && !failed
		c.mu.Unlock()

		switch {
		case c.ctx.Err() != nil:
			c.abandon(done)
			return
		case failed, stuck:
			c.abandon(0)
			return
		case len(out) > 0:
			// Counted first, so that who has the ack finds it counted. That a write
			// succeeds would not tell that the ack arrived either.
			c.s.metrics.WindowsAcked.Add(float64(done))
			if !c.write(out) {
				c.cutOff()
				c.abandon(done)
				return
			}
			c.s.windows.Add(-int64(done))
			for range done {
				<-c.places
			}
		default:
			timer.Reset(wait)
			select {
			case <-c.wake:
			case <-timer.C:
			case <-c.ctx.Done():
			}
		}
	}
}

// abandon gives up on all windows in the queue, and on the acks of done others
// that were stored.
func (c *conn) abandon(done int) {
	c.stopReading()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	c.s.windows.Add(-int64(done + len(c.queue)))
	// A client that has gone by itself wants no ack: that is no failure of a drain.
	gone := c.ctx.Err() != nil && c.s.base.Err() == nil
	if gone || !c.s.closing.Load() {
		return
	}
	for _, w := range c.queue {
		if w.failed || w.pending > 0 {
			c.s.unsettled.Add(1)
		}
	}
}

func (c *conn) write(b []byte) bool {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.s.cfg.AckWrite)); err != nil {
		return false
	}
	_, err := c.nc.Write(b)
	c.mu.Lock()
	c.lastWrite = time.Now()
	c.mu.Unlock()
	return err == nil
}

func appendAck(b []byte, version byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, version, v2.CodeACK), n)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

package lumber

// Frames to windows, by these rules:
//
//  1. A window is its announced number of events, over however many frames. Its
//     version is that of its W; every frame in it has the same.
//  2. It is handed down in batches of Config.BatchBytes. Its last batch goes only
//     when the frame that brought the last event has ended as it should, so a
//     window with a broken frame is never acknowledged. (Earlier batches of a
//     large window may be stored by then: the sender repeats them, and their
//     identity makes that harmless.)
//  3. An event that cannot be kept is skipped in constant memory and the window
//     goes on: a sender would repeat a refused window for ever.
//  4. A v1 event becomes the JSON object of its pairs. Nothing is judged here:
//     bytes that are no UTF-8 go through as they are, and whoever parses the
//     event rejects it.

import (
	"crypto/sha256"
	"errors"
	"hash"
	"time"

	v1 "github.com/elastic/go-lumber/protocol/v1"
	v2 "github.com/elastic/go-lumber/protocol/v2"

	"vtsidecar/internal/event"
)

const (
	maxWireEvent = 128 << 20     // a longer event closes the connection
	keptHead     = event.MaxStub // of an oversized event
	maxPairs     = 10_000        // of a v1 event
	eventHeader  = 10            // of J: version, type, sequence, length
)

// window is one window from its W to its ack.
type window struct {
	version byte

	// the reader's
	count uint32 // announced
	got   uint32
	size  int64 // inflated bytes, frame headers included
	wire  int64 // bytes of compressed frames

	last uint32 // sequence number of the last event; the reader's until it is in conn.queue

	// under conn.mu
	read    time.Time // when its last byte had been read
	pending int       // batches downstream
	failed  bool      // some batch is not durable and will not be
}

// readWindow reads one window and hands it down.
func (c *conn) readWindow(h header) error {
	if max := c.s.cfg.MaxWindow; int64(h.n) > int64(max) {
		return violation(reasonWindowSize, "a window of %d events is over input.max_window (%d): lower bulk_max_size of the sender", h.n, max)
	}
	select {
	case c.places <- struct{}{}:
	case <-c.reading.Done():
		return errStopped
	}
	w := &window{version: h.version, count: h.n}
	if h.version == v1.CodeVersion {
		c.mu.Lock()
		c.silent = true
		c.mu.Unlock()
	}
	if h.n == 0 {
		c.completed(w, 0)
		return nil
	}
	if err := c.begin(w); err != nil {
		return err
	}
	defer c.rest()
	for w.got < w.count {
		h, err := c.header()
		if err != nil {
			return err
		}
		if err := c.inWindow(h); err != nil {
			return err
		}
		switch h.kind {
		case v2.CodeWindowSize:
			return violation(reasonWindowShort, "a new window begins after %d of %d events", w.got, w.count)
		case v2.CodeCompressed:
			err = c.compressed(h.n)
		default:
			c.in.from(c, true)
			err = c.event(h)
		}
		if err != nil {
			return err
		}
	}
	return c.handOff(true)
}

// stray reads a compressed frame that stands between windows. Only an empty one
// may.
func (c *conn) stray(h header) error {
	if h.n == 0 {
		return nil
	}
	if err := c.begin(&window{version: h.version}); err != nil {
		return err
	}
	defer c.rest()
	return c.compressed(h.n)
}

// begin takes what reading a window needs.
func (c *conn) begin(w *window) error {
	c.window = w
	c.behind = 0
	c.share = c.s.budget.window(time.Now())
	need := int64(rigCharge)
	if c.wire == nil {
		need += wireBuffer
	}
	if err := c.share.reserve(c.reading, need); err != nil {
		c.rest()
		return errStopped
	}
	c.share.move(nil, need)
	c.rig = c.s.pool.rig()
	if c.wire == nil {
		c.wire = c.s.pool.wire()
	}
	c.in = frames{pool: &c.s.pool, ctx: c.reading, share: c.share}
	c.out = c.in
	return nil
}

// rest gives back what was taken for the window that was read, as far as it was
// not handed down; the wire's buffer only if the next window has not begun to
// arrive.
func (c *conn) rest() {
	c.window = nil
	if c.share != nil {
		c.in.drop()
		c.out.drop()
		c.share.close()
		c.share = nil
	}
	if c.events != nil {
		c.s.pool.freeEvents(c.events)
		c.events = nil
	}
	c.bytes = 0
	if c.rig != nil {
		c.s.pool.freeRig(c.rig)
		c.rig = nil
		c.s.budget.release(rigCharge)
	}
	if c.wire != nil && c.w-c.r < headerSize && c.held == 0 {
		c.held = copy(c.head[:], c.wire[c.r:c.w])
		c.freeWire()
	}
}

func (c *conn) freeWire() {
	if c.wire == nil {
		return
	}
	c.r, c.w = 0, 0
	c.s.pool.freeWire(c.wire)
	c.wire = nil
	c.s.budget.release(wireBuffer)
}

// inWindow judges a frame's version and type.
func (c *conn) inWindow(h header) error {
	if h.version != c.window.version {
		return violation(reasonVersion, "%v in a window of version %q", h, c.window.version)
	}
	switch h.kind {
	case v2.CodeWindowSize, v2.CodeCompressed:
	case v2.CodeJSONDataFrame:
		if h.version != v2.CodeVersion {
			return violation(reasonWrongFrame, "%v: a JSON frame in a window of version 1", h)
		}
	case v1.CodeDataFrame:
		if h.version != v1.CodeVersion {
			return violation(reasonWrongFrame, "%v: a data frame in a window of version 2", h)
		}
	default:
		return violation(reasonFrameType, "%v: no frame that a client sends", h)
	}
	return nil
}

// compressed reads the events of one compressed frame of n bytes.
func (c *conn) compressed(n uint32) error {
	w := c.window
	w.wire += headerSize + int64(n)
	if max := c.s.cfg.MaxWindowBytes; w.wire > max {
		return violation(reasonWindowBytes, "a window is over input.max_window_bytes (%d) even compressed: lower bulk_max_size of the sender", max)
	}
	if n == 0 {
		return nil
	}
	if err := c.rig.inflate(c, n); err != nil {
		return err
	}
	c.in.from(&c.rig.stream, false)
	for {
		more, err := c.in.more()
		if err != nil {
			return c.cut(err)
		}
		if !more {
			return c.rig.inflated()
		}
		if w.got == w.count {
			return violation(reasonSurplus, "a compressed frame holds more than the %d events of its window", w.count)
		}
		if err := c.in.need(headerSize); err != nil {
			return c.cut(err)
		}
		h := parseHeader(c.in.buf[c.in.next:])
		c.in.next += headerSize
		if err := c.inWindow(h); err != nil {
			return err
		}
		if h.kind == v2.CodeWindowSize || h.kind == v2.CodeCompressed {
			return violation(reasonNested, "%v inside a compressed frame", h)
		}
		if err := c.event(h); err != nil {
			return c.cut(err)
		}
	}
}

// cut says in words what an error inside a compressed frame is.
func (c *conn) cut(err error) error {
	var v *protocolError
	switch {
	case errors.Is(err, errCut):
		return violation(reasonCutFrame, "a compressed frame ends inside one of its frames")
	case errors.As(err, &v), c.reading.Err() != nil:
		return err
	default:
		return c.rig.inflateError(err)
	}
}

// event reads the rest of one J or D.
func (c *conn) event(h header) error {
	var err error
	if h.kind == v2.CodeJSONDataFrame {
		err = c.jsonEvent()
	} else {
		err = c.pairsEvent()
	}
	if err != nil {
		return err
	}
	c.window.got++
	c.window.last = h.n
	return nil
}

// grown adds n bytes to the window's size.
func (c *conn) grown(n int64) error {
	c.window.size += n
	if max := c.s.cfg.MaxWindowBytes; c.window.size > max {
		return violation(reasonWindowBytes, "a window is over input.max_window_bytes (%d): lower bulk_max_size of the sender", max)
	}
	return nil
}

func (c *conn) jsonEvent() error {
	n, err := c.in.uint32()
	if err != nil {
		return err
	}
	length := int64(n)
	if length > maxWireEvent {
		return violation(reasonEventSize, "an event of %d bytes is over the limit of 128 MiB", length)
	}
	if err := c.grown(eventHeader + length); err != nil {
		return err
	}
	if length == 0 || length > c.s.cfg.MaxEvent {
		return c.oversizeEvent(length)
	}
	if err := c.room(length); err != nil {
		return err
	}
	if err := c.in.need(int(length)); err != nil {
		return err
	}
	return c.add(event.Event{Raw: c.in.take(int(length))})
}

// oversizeEvent skips an event and keeps its beginning, its length and digest.
func (c *conn) oversizeEvent(length int64) error {
	kept := min(length, keptHead)
	if err := c.room(kept); err != nil {
		return err
	}
	if err := c.share.reserve(c.reading, oversizeSize); err != nil {
		return err
	}
	if err := c.in.need(int(kept)); err != nil {
		return err
	}
	raw := c.in.take(int(kept))
	digest := sha256.New()
	digest.Write(raw)
	for left := length - kept; left > 0; {
		b, err := c.in.some(left)
		if err != nil {
			return err
		}
		digest.Write(b)
		left -= int64(len(b))
	}
	return c.add(oversize(raw, length, digest))
}

func oversize(raw []byte, length int64, digest hash.Hash) event.Event {
	o := &event.Oversize{Length: length}
	digest.Sum(o.SHA256[:0])
	return event.Event{Raw: raw, Oversize: o}
}

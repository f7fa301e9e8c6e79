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
	"bytes"
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

// batch is a part of a window on its way down.
type batch struct {
	event.Batch
	window *window
	share  *share
	chunks [][]byte
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

// pairsEvent reads the pairs of one D into a JSON object of strings.
func (c *conn) pairsEvent() error {
	pairs, err := c.in.uint32()
	if err != nil {
		return err
	}
	if pairs > maxPairs {
		return violation(reasonPairs, "an event of %d pairs is over the limit of %d", pairs, maxPairs)
	}
	if err := c.grown(eventHeader); err != nil {
		return err
	}
	o := &object{c: c}
	if err := o.write('{'); err != nil {
		return err
	}
	for i := range pairs {
		if i > 0 {
			err = o.write(',')
		}
		if err == nil {
			err = o.copyString()
		}
		if err == nil {
			err = o.write(':')
		}
		if err == nil {
			err = o.copyString()
		}
		if err != nil {
			return err
		}
	}
	if err := o.write('}'); err != nil {
		return err
	}
	length := int64(c.out.end - c.out.next)
	if err := c.room(length); err != nil {
		return err
	}
	if o.digest == nil {
		return c.add(event.Event{Raw: c.out.take(int(length))})
	}
	if err := c.share.reserve(c.reading, oversizeSize); err != nil {
		return err
	}
	return c.add(oversize(c.out.take(int(length)), o.length, o.digest))
}

// object writes the JSON of a v1 event to conn.out; once that is over
// Config.MaxEvent, it keeps the beginning and only counts and digests the rest.
type object struct {
	c      *conn
	wire   int64     // bytes of keys and values announced so far
	length int64     // of the JSON so far; kept up to date once digest is set
	digest hash.Hash // nil while the event is not oversized
	tmp    [6]byte
}

func (o *object) write(b byte) error {
	o.tmp[0] = b
	return o.append(o.tmp[:1])
}

func (o *object) append(b []byte) error {
	f := &o.c.out
	if o.digest == nil {
		n := f.end - f.next
		if int64(n+len(b)) <= o.c.s.cfg.MaxEvent {
			if f.end+len(b) > f.limit() {
				if err := f.grow(max(n+len(b), min(2*n, int(o.c.s.cfg.MaxEvent)))); err != nil {
					return err
				}
			}
			f.end += copy(f.buf[f.end:], b)
			return nil
		}
		o.digest = sha256.New()
		o.digest.Write(f.buf[f.next:f.end])
		o.length = int64(n)
		if n > keptHead {
			f.end = f.next + keptHead
			if len(f.buf) > bigChunk {
				if err := f.grow(keptHead); err != nil {
					return err
				}
			}
		}
	}
	o.digest.Write(b)
	o.length += int64(len(b))
	// The beginning is filled up to its full length.
	if n := min(keptHead-(f.end-f.next), len(b)); n > 0 {
		if f.end+n > f.limit() {
			if err := f.grow(keptHead); err != nil {
				return err
			}
		}
		f.end += copy(f.buf[f.end:], b[:n])
	}
	return nil
}

// copyString reads one length and that many bytes, and writes them as a string.
func (o *object) copyString() error {
	n, err := o.c.in.uint32()
	if err != nil {
		return err
	}
	o.wire += int64(n)
	if o.wire > maxWireEvent {
		return violation(reasonEventSize, "an event of more than 128 MiB")
	}
	if err := o.c.grown(4 + int64(n)); err != nil {
		return err
	}
	if err := o.write('"'); err != nil {
		return err
	}
	for left := int64(n); left > 0; {
		b, err := o.c.in.some(left)
		if err != nil {
			return err
		}
		left -= int64(len(b))
		if err := o.escape(b); err != nil {
			return err
		}
	}
	return o.write('"')
}

func (o *object) escape(b []byte) error {
	for len(b) > 0 {
		n := bytes.IndexFunc(b, needsEscape)
		if n < 0 {
			return o.append(b)
		}
		if err := o.append(b[:n]); err != nil {
			return err
		}
		if err := o.append(escaped(o.tmp[:0], b[n])); err != nil {
			return err
		}
		b = b[n+1:]
	}
	return nil
}

func needsEscape(r rune) bool { return r < ' ' || r == '"' || r == '\\' }

// escaped appends a byte that may not stand in a JSON string as it is.
func escaped(dst []byte, b byte) []byte {
	const hex = "0123456789abcdef"
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	default:
		return append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
	}
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

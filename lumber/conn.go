package lumber

// One connection, by these rules:
//
//  1. One goroutine reads; it alone touches the reader's fields. An idle connection
//     is that goroutine and no buffer. Each batch downstream has a goroutine, and
//     while windows wait for their acks there is one that writes them (ack.go).
//  2. Reading ends for one reason, kept as readAll's error: the client has ended,
//     it broke the protocol, a window could not be stored, the server stops, or the
//     connection is gone. In all but the last case the windows that were read
//     before still finish and are acknowledged; then the connection is closed.
//  3. When it is gone, nobody waits for its windows: their context ends at once.
//  4. Only time spent in a read counts against a client.
//  5. A panic ends this connection and nothing else.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	v1 "github.com/elastic/go-lumber/protocol/v1"
	v2 "github.com/elastic/go-lumber/protocol/v2"

	"vtsidecar/internal/event"
)

var (
	// errStopped: this side wants to read no more.
	errStopped = errors.New("stopped reading")
	// errStuck: nothing of the connection was stored for Config.Stalled.
	errStuck = errors.New("nothing was stored for too long")
	// errNoData: the connection ended before its first byte, as those of health
	// checks do all day. That is no mistake and worth no line.
	errNoData = errors.New("the connection ended before its first byte")
)

type conn struct {
	s      *Server
	raw    net.Conn // as accepted
	nc     net.Conn // raw, or TLS over it; set before the first read
	remote string
	addr   netip.Addr // what it counts for in Config.MaxPerAddress

	ctx     context.Context // ends when the connection is gone
	cancel  context.CancelFunc
	reading context.Context // ends when nothing more is to be read; child of ctx
	stop    context.CancelFunc

	// The reader's.
	began    bool // the first byte has come
	head     [headerSize]byte
	held     int    // bytes of head that have come
	rig      *rig   // nil between windows
	wire     []byte // what comes from the socket at once: frame headers, plain frames; nil while idle
	r, w     int    // wire[r:w] has come and was not read
	window   *window
	share    *share
	in, out  frames // out: where events of v1 are put together
	events   []event.Event
	bytes    int64         // charged to the batch's size
	behind   time.Duration // Config.MinRate, in this window
	deadline bool          // one is set for reading

	places chan struct{} // taken by windows from W to ack
	slots  chan struct{} // taken by batches downstream

	handlers sync.WaitGroup // goroutines of batches; added to by the reader
	acks     sync.WaitGroup // the goroutine that writes acks; added to by the reader

	wake chan struct{} // something below has changed

	mu         sync.Mutex // guards all below
	queue      []*window  // complete, in order
	acking     bool       // a goroutine looks after the queue
	silent     bool       // v1 was spoken: no keepalives
	downstream int        // batches
	progress   time.Time  // when something was stored last, or downstream left 0
	stuck      bool       // Config.Stalled has passed
	dead       bool       // the queue was abandoned
	lastWrite  time.Time
	closing    bool // read deadlines are the closer's now
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		s: s, raw: nc, nc: nc, remote: nc.RemoteAddr().String(), addr: addressOf(nc.RemoteAddr()),
		places: make(chan struct{}, s.cfg.ReadAhead),
		slots:  make(chan struct{}, s.cfg.ReadAhead),
		wake:   make(chan struct{}, 1),
	}
	c.ctx, c.cancel = context.WithCancel(s.base)
	c.reading, c.stop = context.WithCancel(c.ctx)
	return c
}

// stopReading may be called by anyone, any number of times.
func (c *conn) stopReading() {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// cutOff ends the connection at once.
func (c *conn) cutOff() {
	c.cancel()
	_ = c.raw.Close()
}

// serve is the whole life of the connection.
func (c *conn) serve() {
	c.finish(c.readAll())
}

func (c *conn) readAll() (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.panicked("connection", c.remote, p)
			c.s.metrics.ProtocolErrors.WithLabelValues(reasonPanic).Inc()
			// What was half read may be in any state: left to the collector.
			if c.share != nil {
				c.share.close()
				c.share = nil
			}
			if c.rig != nil {
				c.rig = nil
				c.s.budget.release(rigCharge)
			}
			if c.wire != nil {
				c.wire = nil
				c.s.budget.release(wireBuffer)
			}
			c.in, c.out, c.events = frames{}, frames{}, nil
			err = errStopped
		}
	}()
	if err := c.handshake(); err != nil {
		return err
	}
	for {
		h, err := c.header()
		if err != nil {
			return err
		}
		if err := c.between(h); err != nil {
			return err
		}
	}
}

// between reads what begins between windows.
func (c *conn) between(h header) error {
	if h.version != v1.CodeVersion && h.version != v2.CodeVersion {
		return stranger(c.head[:])
	}
	switch h.kind {
	case v2.CodeWindowSize:
		return c.readWindow(h)
	case v2.CodeCompressed:
		return c.stray(h)
	case v2.CodeJSONDataFrame, v1.CodeDataFrame:
		return violation(reasonSurplus, "%v outside any window", h)
	default:
		return violation(reasonFrameType, "%v: no frame that a client sends", h)
	}
}

// stranger says what a client that speaks no lumberjack seems to be.
func stranger(head []byte) error {
	switch string(head[:3]) {
	case "\x16\x03\x00", "\x16\x03\x01", "\x16\x03\x02", "\x16\x03\x03":
		return violation(reasonTLSUnexpected, "the client speaks TLS and this port does not: set input.ssl.certificate and input.ssl.key, or turn ssl off in the sender")
	case "GET", "HEA", "POS", "PUT", "OPT", "DEL", "PAT", "CON", "TRA", "PRI":
		return violation(reasonHTTP, "the client speaks HTTP: use the Logstash output of the sender, not the Elasticsearch one")
	}
	return violation(reasonVersion, "the client does not speak lumberjack version 1 or 2")
}

// header reads the first six bytes of a frame. io.EOF: the client has ended
// between windows.
func (c *conn) header() (header, error) {
	for c.held < headerSize {
		n, err := c.Read(c.head[c.held:])
		c.held += n
		if n > 0 {
			c.began = true
		} else if err != nil {
			return header{}, err
		}
	}
	c.held = 0
	return parseHeader(c.head[:]), nil
}

// Read reads what the client sent next, through the wire's buffer where there is
// one. Its errors are final.
func (c *conn) Read(p []byte) (int, error) {
	if c.wire == nil {
		return c.receive(p)
	}
	if c.r == c.w {
		if len(p) >= len(c.wire) {
			return c.receive(p)
		}
		n, err := c.receive(c.wire)
		if err != nil {
			return 0, err
		}
		c.r, c.w = 0, n
	}
	n := copy(p, c.wire[c.r:c.w])
	c.r += n
	return n, nil
}

// receive is one read of at least one byte from the connection, within the time
// that its state allows.
func (c *conn) receive(p []byte) (int, error) {
	var limit time.Duration
	inside := c.window != nil || c.held > 0
	switch {
	case inside:
		limit = c.s.cfg.NoProgress
	case !c.began:
		limit = c.s.cfg.FirstByte
	}
	for waited := time.Duration(0); ; {
		var step time.Duration
		if limit > 0 {
			// Woken now and then to see whether others wait for the window's memory.
			// And what a step takes longer than it may is no wait for the client: this
			// process was held up, or the whole machine, and what it sent meanwhile
			// has not been looked at yet.
			step = min(limit-waited, c.s.cfg.MaxBehind/4)
		}
		pressed := c.s.budget.pressed.Load()
		begin := time.Now()
		n, err := c.once(p, step)
		took := min(time.Since(begin), step)
		waited += took
		if c.window != nil && c.slow(pressed && c.s.budget.pressed.Load(), took, n) {
			return 0, violation(reasonSlow, "the client sends less than %d bytes a second while others wait for the memory that it holds", c.s.cfg.MinRate)
		}
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, c.ended(err, inside)
		case c.reading.Err() != nil:
			return 0, errStopped
		case waited < limit:
			continue
		case inside:
			return 0, violation(reasonStalled, "no byte for %v inside a window", limit)
		default:
			return 0, &protocolError{reason: reasonFirstByte, text: fmt.Sprintf("no byte within %v", limit), level: slog.LevelDebug}
		}
	}
}

// once is one read that takes so long at most; 0: as long as it takes.
func (c *conn) once(p []byte, most time.Duration) (int, error) {
	if most > 0 || c.deadline {
		var until time.Time
		if most > 0 {
			until = time.Now().Add(most)
		}
		if err := c.nc.SetReadDeadline(until); err != nil {
			return 0, err
		}
		c.deadline = most > 0
	}
	// In this order: whoever stops the reading sets its deadline after it has said
	// so, hence either that deadline stands or the word is seen here.
	if c.reading.Err() != nil {
		return 0, os.ErrDeadlineExceeded
	}
	return c.nc.Read(p)
}

// ended says what the end of the connection means where it happened.
func (c *conn) ended(err error, inside bool) error {
	eof := errors.Is(err, io.EOF)
	switch {
	case c.reading.Err() != nil:
		return errStopped
	case !c.began && c.held == 0:
		return errNoData
	case inside && eof:
		return &protocolError{reason: reasonTruncated, text: "the connection ended inside a window", level: slog.LevelInfo}
	case inside:
		return &goneError{cause: &protocolError{reason: reasonTruncated, text: fmt.Sprintf("the connection broke inside a window: %v", err), level: slog.LevelInfo}}
	case eof:
		return io.EOF
	default:
		return &goneError{cause: err}
	}
}

// goneError: no ack can be delivered any more.
type goneError struct{ cause error }

func (e *goneError) Error() string { return e.cause.Error() }

func (e *goneError) Unwrap() error { return e.cause }

// slow reports whether a read that took so long and brought n bytes leaves the
// client too far behind Config.MinRate. Only while others wait for memory does
// it fall behind.
func (c *conn) slow(pressed bool, took time.Duration, n int) bool {
	if !pressed {
		c.behind = 0
		return false
	}
	c.behind = max(0, c.behind+took-time.Duration(n)*time.Second/time.Duration(c.s.cfg.MinRate))
	return c.behind >= c.s.cfg.MaxBehind
}

// turn waits until one more batch of this connection may go down.
func (c *conn) turn() error {
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(c.s.cfg.Stalled)
	defer timer.Stop()
	for {
		select {
		case c.slots <- struct{}{}:
			return nil
		case <-c.reading.Done():
			return errStopped
		case <-timer.C:
			c.mu.Lock()
			left := c.s.cfg.Stalled - time.Since(c.progress)
			c.mu.Unlock()
			if left <= 0 {
				return errStuck
			}
			timer.Reset(left)
		}
	}
}

// handle sees one batch through to durability.
func (c *conn) handle(b *batch) {
	defer c.handlers.Done()
	err := c.runHandler(b)
	received := b.Received
	var p *panicError
	if errors.As(err, &p) {
		// Goroutines that the handler started may still use the bytes.
		b.share.close()
	} else {
		c.recycle(b)
	}
	now := time.Now()
	if err == nil {
		c.s.metrics.BatchDuration.Observe(now.Sub(received).Seconds())
	} else if c.ctx.Err() == nil {
		c.s.complaints.write(slog.LevelWarn, "window not stored: no ack, connection closed", reasonHandler, c, slog.Any("error", err))
	}
	c.mu.Lock()
	b.window.pending--
	c.downstream--
	if err != nil {
		b.window.failed = true
	} else {
		c.progress = now
	}
	c.mu.Unlock()
	<-c.slots
	if err != nil {
		c.stopReading()
	}
	c.signal()
}

func (c *conn) runHandler(b *batch) (err error) {
	if err := b.share.slot(c.ctx); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			c.s.panicked("handler", c.remote, p)
			err = &panicError{}
		}
	}()
	return c.s.handler.Handle(c.ctx, &b.Batch)
}

type panicError struct{}

func (*panicError) Error() string { return "the handler panicked" }

// panicked writes what happened without what it happened to: a panic's value
// may hold an event.
func (s *Server) panicked(where, remote string, p any) {
	what := fmt.Sprintf("%T", p)
	if err, ok := p.(runtime.Error); ok {
		what = err.Error()
	}
	s.cfg.Log.Error("panic: connection closed", "in", where, "remote", remote, "panic", what, "stack", string(debug.Stack()))
}

// finish sees the windows through that were read, and closes the connection.
func (c *conn) finish(err error) {
	c.rest()
	c.freeWire()
	stopped := c.reading.Err() != nil || errors.Is(err, errStopped)
	c.stop()
	c.complain(err)
	var gone *goneError
	if errors.As(err, &gone) {
		c.cutOff()
	}
	c.acks.Wait()
	c.mu.Lock()
	last, stuck := c.lastWrite, c.stuck
	c.mu.Unlock()
	if stuck || errors.Is(err, errStuck) {
		c.s.complaints.write(slog.LevelWarn, "nothing stored for too long: connection closed without ack", reasonStuck, c, slog.Duration("after", c.s.cfg.Stalled))
	}
	broken := c.ctx.Err() != nil && !stuck
	c.cancel()
	idle := stopped && time.Since(last) > c.s.cfg.Linger && !stuck
	c.close(!broken, !idle && !errors.Is(err, io.EOF))
	c.handlers.Wait()
}

func (c *conn) complain(err error) {
	if errors.Is(err, errNoData) {
		c.s.metrics.ConnectionsUnused.Inc()
		c.s.complaints.write(slog.LevelDebug, "connection closed: "+err.Error(), reasonNoData, c)
		return
	}
	var v *protocolError
	if errors.As(err, &v) {
		c.s.metrics.ProtocolErrors.WithLabelValues(v.reason).Inc()
		c.s.complaints.write(v.level, "connection closed: "+v.text, v.reason, c)
	}
}

// close closes the connection. politely: with a FIN behind the last ack. Bytes
// that lie unread would turn that into a reset, and a reset may take acks with
// it that the client has not read yet; so with linger they are thrown away for a
// while, until the client closes too.
func (c *conn) close(politely, linger bool) {
	defer c.raw.Close()
	if !politely {
		return
	}
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	until := time.Now().Add(c.s.cfg.Linger)
	_ = c.raw.SetDeadline(until)
	closeWrite(c.nc)
	if c.nc != c.raw {
		closeWrite(c.raw)
	}
	if linger {
		_, _ = io.Copy(io.Discard, c.raw)
	}
}

func closeWrite(nc net.Conn) {
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

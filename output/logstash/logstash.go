// Package logstash forwards events to a Logstash, or to any other server of the
// lumberjack protocol, as a Beat would.
//
// Promise: Store returns nil only when the peer has acknowledged every line. A
// peer that is away or slow is waited for; a line whose ack did not come is sent
// again, to whichever host is well, under the same @metadata._id.
package logstash

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	v2 "github.com/elastic/go-lumber/client/v2"

	"vtsidecar/internal/backoff"
	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
)

const (
	maxWindow      = 2048    // events, as Beats send by default
	maxWindowBytes = 8 << 20 // more only for a single event
	perHost        = 8       // connections: one has one window under way
	level          = 3       // of compression, as Beats have it
	longestWindow  = 10 * time.Minute
	lapse          = 2 * time.Minute // longer than any rest
	keptBuffer     = 2 << 20         // of a connection, compressed; what a giant took is not kept
)

// ErrClosed is returned by stores that were still waiting at Close.
var ErrClosed = errors.New("output.logstash: closed")

// Config says where events go. All but Hosts may be zero.
type Config struct {
	Hosts   []string                      // HOST:PORT
	TLS     func(host string) *tls.Config // nil, or what it returns is: plain TCP
	Timeout time.Duration                 // for a connection, for each write, and between two acks or keepalives; 0: 30 s
	Watch   time.Duration                 // without a window, before a host is asked whether it takes connections; 0: it never is
	Log     *slog.Logger
	Metrics *metrics.Set

	// Dial opens a connection; nil: over TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Memory is what an output to so many hosts may keep beside the lines that are
// under way, in bytes: what its connections have for the next window, and the
// compressors.
func Memory(hosts int) int64 {
	const compressor = 1 << 20
	return int64(hosts) * perHost * (keptBuffer + compressor)
}

// Output forwards events. Its methods are safe for concurrent use.
type Output struct {
	cfg  Config
	base context.Context // ends when Close gives up
	cut  context.CancelFunc

	watching sync.WaitGroup

	mu      sync.Mutex    // guards all below
	changed chan struct{} // closed and renewed when a host may have become free
	hosts   []*host
	storing int
	closing bool
	since   time.Time // of the outage; zero: there is none
	seen    time.Time // when something went wrong last
	next    int       // the host that is looked at first
}

// host is one peer, guarded by Output.mu.
type host struct {
	address  string
	idle     []*peer
	busy     int // windows under way there
	failures int // in a row
	rest     time.Time
	away     bool      // it took no connection when it failed last
	due      time.Time // when it is asked
	words    string    // what is wrong with it
}

// peer is a connection. It belongs to one goroutine at a time, or is idle.
type peer struct {
	conn *steadyConn
	cl   *v2.Client
	used bool // a window went through it
}

// turn is a host's turn to take a window.
type turn struct {
	h        *host
	p        *peer // nil: a connection must be made
	failures int   // the host's when it was chosen
}

// Open makes an output. A peer that is away is no error.
func Open(cfg Config) (*Output, error) {
	if len(cfg.Hosts) == 0 {
		return nil, errors.New("output.logstash.hosts: none is given")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New("", "", "")
	}
	for _, why := range retryReasons { // an alert on increase() does not see a series that begins at 1
		cfg.Metrics.OutputRetries.WithLabelValues(why)
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	o := &Output{cfg: cfg, changed: make(chan struct{})}
	o.base, o.cut = context.WithCancel(context.Background())
	for _, address := range cfg.Hosts {
		o.hosts = append(o.hosts, &host{address: address})
	}
	cfg.Metrics.OutputUp.Set(1)
	if cfg.Watch > 0 {
		for _, h := range o.hosts {
			o.watching.Go(func() { o.watch(h) })
		}
	}
	return o, nil
}

// Store returns nil when every line is acknowledged. While no peer takes them it
// waits, until ctx ends. An error means that the lines may or may not have been
// taken. The bytes are not used after it returns.
func (o *Output) Store(ctx context.Context, lines *event.Lines) error {
	o.mu.Lock()
	if o.closing {
		o.mu.Unlock()
		return ErrClosed
	}
	o.storing++
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.storing--
		o.wake()
		o.mu.Unlock()
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(o.base, func() { cancel(ErrClosed) })()

	var window []any
	for next := 0; next < len(lines.Index); {
		begin := 0
		if next > 0 {
			begin = lines.Index[next-1].End
		}
		window = window[:0]
		size := 0
		for ; next < len(lines.Index) && len(window) < maxWindow; next++ {
			line := lines.Buf[begin : lines.Index[next].End-1]
			if size += len(line); size > maxWindowBytes && len(window) > 0 {
				break
			}
			window = append(window, line)
			begin = lines.Index[next].End
		}
		if err := o.forward(ctx, window); err != nil {
			return err
		}
		o.cfg.Metrics.EventsStored.Add(float64(len(window)))
	}
	return nil
}

// forward sends a window until somebody acknowledges it.
func (o *Output) forward(ctx context.Context, window []any) error {
	for {
		t, err := o.acquire(ctx)
		if err != nil {
			return err
		}
		fresh := t.p == nil
		if fresh {
			t.p, err = o.dial(ctx, t.h.address)
		}
		if err == nil {
			err = o.send(ctx, t.p, window)
		}
		if ctx.Err() != nil {
			o.release(t, nil, false)
			return context.Cause(ctx)
		}
		// A connection that lay idle may have been closed meanwhile; that says
		// nothing about its host.
		o.release(t, err, err != nil && !fresh)
		if err == nil {
			return nil
		}
	}
}

// acquire chooses a host: of those that are well the one with the least to do,
// in turns; of those that are not, one whose rest is over, for a single try.
func (o *Output) acquire(ctx context.Context) (t turn, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return t, context.Cause(ctx)
		}
		now := time.Now()
		var over time.Time // when the first rest is
		var h *host
		for i := range o.hosts {
			switch x := o.hosts[(o.next+i)%len(o.hosts)]; {
			case x.failures == 0 && x.busy < perHost && (h == nil || x.busy < h.busy):
				h = x
			case x.failures > 0 && x.busy == 0 && (over.IsZero() || x.rest.Before(over)):
				over = x.rest
			}
		}
		for _, x := range o.hosts {
			if x.failures > 0 && x.busy == 0 && !x.rest.After(now) {
				h = x // or it would never be known that it is well again
				break
			}
		}
		if h != nil {
			o.next++
			h.busy++
			t = turn{h: h, failures: h.failures}
			if n := len(h.idle); n > 0 {
				t.p, h.idle = h.idle[n-1], h.idle[:n-1]
			}
			return t, nil
		}
		changed := o.changed
		o.mu.Unlock()
		var due <-chan time.Time
		if !over.IsZero() {
			due = time.After(time.Until(over))
		}
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
		}
		o.mu.Lock()
	}
}

// release ends a turn, with what came of it: err is nil where it went well or
// was given up.
func (o *Output) release(t turn, err error, stale bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.wake()
	h, p := t.h, t.p
	h.busy--
	h.due = time.Now().Add(o.cfg.Watch)
	if err != nil {
		drop(h)
		o.cfg.Metrics.OutputRetries.WithLabelValues(reason(err)).Inc()
	}
	switch {
	case p != nil && p.used && err == nil:
		o.well(h)
		// What came behind an ack, such as the same once more, would count for the
		// next window.
		if !o.closing && len(p.conn.came) == 0 {
			p.used = false
			h.idle = append(h.idle, p)
			return
		}
	case err != nil && !stale:
		h.away, h.words = p == nil, fmt.Sprintf("%s: %v", h.address, err)
		o.seen = time.Now()
		if h.failures == t.failures { // of windows that fail together the first one counts
			h.failures++
			h.rest = o.seen.Add(backoff.After(h.failures))
		}
		o.sick()
	}
	if p != nil {
		p.conn.Close()
	}
}

// drop closes what lies idle. The caller holds mu.
func drop(h *host) {
	for _, p := range h.idle {
		p.conn.Close()
	}
	h.idle = nil
}

// well notes that a host takes events. The caller holds mu.
func (o *Output) well(h *host) {
	h.failures, h.away, h.words = 0, false, ""
	if !o.since.IsZero() {
		o.cfg.Log.Info("Logstash takes events again", "host", h.address, "seconds", int(time.Since(o.since).Seconds()))
		o.cfg.Metrics.OutputUp.Set(1)
		o.since = time.Time{}
	}
}

// sick notes that a host takes none. The caller holds mu.
func (o *Output) sick() {
	if o.since.IsZero() && !slices.ContainsFunc(o.hosts, func(h *host) bool { return h.failures == 0 }) {
		o.since = time.Now()
		o.cfg.Metrics.OutputUp.Set(0)
		o.cfg.Log.Error("no Logstash takes events; windows wait for one", "error", o.words())
	}
}

func (o *Output) words() string {
	var words []string
	for _, h := range o.hosts {
		if h.words != "" {
			words = append(words, h.words)
		}
	}
	return "output.logstash.hosts: " + strings.Join(words, "; ")
}

func (o *Output) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// retryReasons are all labels of reason.
var retryReasons = []string{"unreadable", "timeout", "unreachable"}

// reason is a label of a metric for what went wrong.
func reason(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, v2.ErrProtocolError), errors.Is(err, errAck):
		return "unreadable"
	case errors.Is(err, errLong), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "unreachable"
}

// dial makes a connection, with TLS where that is wanted.
func (o *Output) dial(ctx context.Context, address string) (*peer, error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	conn, err := o.cfg.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if o.cfg.TLS != nil {
		name, _, _ := net.SplitHostPort(address)
		if conf := o.cfg.TLS(name); conf != nil {
			secure := tls.Client(conn, conf)
			if err := secure.HandshakeContext(ctx); err != nil {
				conn.Close()
				return nil, fmt.Errorf("TLS: %w", err)
			}
			conn = secure
		}
	}
	steady := &steadyConn{Conn: conn, timeout: o.cfg.Timeout}
	p := &peer{conn: steady}
	if err := p.renew(); err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

// renew gives p a client that holds no buffer yet.
func (p *peer) renew() (err error) {
	p.cl, err = v2.NewWithConn(p.conn, v2.Timeout(p.conn.timeout), v2.CompressionLevel(level), v2.JSONEncoder(asItIs))
	return err
}

// asItIs is the encoder of events that are JSON already.
func asItIs(v any) ([]byte, error) { return v.([]byte), nil }

var (
	errAck  = errors.New("it acknowledged more than was sent")
	errLong = fmt.Errorf("it did not acknowledge a window within %v", longestWindow)
)

// send sends a window and waits for its ack. Keepalives, acks of 0, extend the
// wait, though not for ever. A part of the window that was acknowledged counts
// for nothing: there are proxies that misdeliver such acks.
func (o *Output) send(ctx context.Context, p *peer, window []any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, longestWindow, errLong)
	defer cancel()
	defer context.AfterFunc(ctx, func() { p.conn.Close() })()
	if err := p.cl.Send(window); err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	for {
		seq, err := p.cl.ReceiveACK()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("no ack: %w", err)
		case int64(seq) > int64(len(window)):
			return errAck
		case int(seq) == len(window):
			p.used = true
			if p.conn.most > keptBuffer {
				p.conn.most = 0
				return p.renew()
			}
			return nil
		}
	}
}

// steadyConn writes in pieces, each under a deadline of its own: the client
// sets one for a whole window, which a slow but steady peer may not keep. And it
// reads more than is asked for, to know what has come.
type steadyConn struct {
	net.Conn
	timeout time.Duration
	most    int // bytes in a write
	buf     [64]byte
	came    []byte // of buf, and was not asked for
}

func (c *steadyConn) Read(b []byte) (n int, err error) {
	if len(c.came) == 0 {
		n, err = c.Conn.Read(c.buf[:])
		c.came = c.buf[:n]
	}
	n = copy(b, c.came)
	c.came = c.came[n:]
	return n, err
}

func (c *steadyConn) SetReadDeadline(t time.Time) error {
	if len(c.came) > 0 {
		return nil // also where the peer has closed since
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *steadyConn) SetWriteDeadline(time.Time) error { return nil }

func (c *steadyConn) Write(b []byte) (n int, err error) {
	const piece = 64 << 10
	c.most = max(c.most, len(b))
	for len(b) > 0 {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(b[:min(piece, len(b))])
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

// Ready returns nil, or in words why nothing can be forwarded at present.
func (o *Output) Ready() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	// Who sends only where it is ready would never learn that an outage is over.
	if !o.since.IsZero() && o.storing == 0 && time.Since(o.seen) > lapse {
		o.cfg.Log.Info("no event waits for a Logstash any more; the next one will show whether it is taken")
		o.cfg.Metrics.OutputUp.Set(1)
		o.since = time.Time{}
	}
	if o.since.IsZero() {
		return nil
	}
	return errors.New(o.words())
}

// Close waits for what is being forwarded until ctx ends, and ends the
// connections. Stores that are still waiting then return ErrClosed.
func (o *Output) Close(ctx context.Context) error {
	o.mu.Lock()
	o.closing = true
	for o.storing > 0 && ctx.Err() == nil {
		changed := o.changed
		o.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		o.mu.Lock()
	}
	left := o.storing
	for _, h := range o.hosts {
		drop(h)
	}
	o.mu.Unlock()
	o.cut()
	o.watching.Wait()
	if left > 0 {
		return fmt.Errorf("output.logstash: %d windows or parts of windows were given up", left)
	}
	return nil
}

// Package lumber receives events by the lumberjack protocol, versions 1 and 2 on
// one port, from senders that nobody vouches for.
//
// Promise: a window is acknowledged, once and in order, only after its Handler
// has returned nil for every event of it; and whatever clients send, in any
// number up to Config.MaxConnections, memory stays within Config.Memory and a
// small constant, and other clients' windows go on.
//
// Where to look: server.go accepts, conn.go is one connection and handshake.go its
// TLS, of certificates.go; frame.go makes frames of bytes (zlib.go and the package
// inflate those of compressed ones), window.go windows of frames, pairs.go events of
// version 1, batch.go what goes down to the Handler, ack.go what goes back;
// budget.go says who may use memory, pool.go is memory that goes round, reason.go why
// connections end and what the log says of it.
package lumber

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
)

// Handler makes batches durable.
type Handler interface {
	// Handle returns nil only when every event of the batch is durable. Any error:
	// the window gets no ack and its connection is closed, after the windows before
	// it got theirs. It is called concurrently. ctx ends when the connection is gone
	// or the drain deadline has passed. b and its bytes are not used after return.
	Handle(ctx context.Context, b *event.Batch) error
}

// Config says what a Server takes and how long it waits. Zero values have the
// meaning that is given beside each.
type Config struct {
	MaxConnections int           // open at once; 0: any number
	MaxPerAddress  int           // of those, from one address; 0: any number
	MaxEvent       int64         // longer events are skipped to a stub; 0: 16 MiB, at most 128 MiB
	MaxWindow      int           // events in a window; 0: 10,000
	MaxWindowBytes int64         // inflated bytes of a window; 0: 1 GiB
	Memory         int64         // budget of bytes in flight; 0: 256 MiB, at least 2 × MaxEvent
	Keepalive      time.Duration // pause between keepalives; 0: 5 s, at most 10 s

	TLS     *tls.Config  // nil: plain text
	Log     *slog.Logger // nil: none
	Metrics *metrics.Set // nil: a set that nobody reads

	// What follows has no settings; tests shorten it.

	Handshake  time.Duration // for TLS; 0: 10 s
	FirstByte  time.Duration // until a connection's first byte; 0: 10 s
	NoProgress time.Duration // without a byte inside a window; 0: 30 s
	Stalled    time.Duration // without anything of a connection stored; 0: 10 min
	AckWrite   time.Duration // for one write of acks to a client that does not read; 0: 2 min
	Linger     time.Duration // between FIN and close; 0: 1 s
	MinRate    int64         // bytes a second from clients that hold memory others wait for; 0: 64 KiB
	MaxBehind  time.Duration // that these may be behind that rate; 0: 5 s
	BatchBytes int64         // size of a batch; 0: 8 MiB
	ReadAhead  int           // windows of one connection between W and ack; 0: 4
	Handlers   int           // concurrent Handle calls of the server; 0: 128
}

func (c *Config) complete() error {
	c.MaxEvent = cmp.Or(c.MaxEvent, 16<<20)
	c.MaxWindow = cmp.Or(c.MaxWindow, 10_000)
	c.MaxWindowBytes = cmp.Or(c.MaxWindowBytes, 1<<30)
	c.Memory = cmp.Or(c.Memory, 256<<20)
	c.Keepalive = cmp.Or(c.Keepalive, 5*time.Second)
	c.Handshake = cmp.Or(c.Handshake, 10*time.Second)
	c.FirstByte = cmp.Or(c.FirstByte, 10*time.Second)
	c.NoProgress = cmp.Or(c.NoProgress, 30*time.Second)
	c.Stalled = cmp.Or(c.Stalled, 10*time.Minute)
	c.AckWrite = cmp.Or(c.AckWrite, 2*time.Minute)
	c.Linger = cmp.Or(c.Linger, time.Second)
	c.MinRate = cmp.Or(c.MinRate, 64<<10)
	c.MaxBehind = cmp.Or(c.MaxBehind, 5*time.Second)
	c.BatchBytes = cmp.Or(c.BatchBytes, 8<<20)
	c.ReadAhead = cmp.Or(c.ReadAhead, 4)
	c.Handlers = cmp.Or(c.Handlers, 128)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.New("", "", "")
	}

	var errs []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.MaxConnections < 0, "MaxConnections is %d: less than 0", c.MaxConnections)
	refuse(c.MaxPerAddress < 0, "MaxPerAddress is %d: less than 0", c.MaxPerAddress)
	refuse(c.MaxEvent < 0 || c.MaxEvent > maxWireEvent, "MaxEvent is %d: not within 1 and %d", c.MaxEvent, maxWireEvent)
	refuse(c.Memory < 2*c.MaxEvent, "Memory is %d: less than 2 × MaxEvent (%d)", c.Memory, c.MaxEvent)
	refuse(c.Keepalive > 10*time.Second, "Keepalive is %v: over 10s", c.Keepalive)
	for _, v := range []int64{
		int64(c.MaxWindow), c.MaxWindowBytes, int64(c.Keepalive), int64(c.Handshake), int64(c.FirstByte), int64(c.NoProgress),
		int64(c.Stalled), int64(c.AckWrite), int64(c.Linger), c.MinRate, int64(c.MaxBehind), c.BatchBytes, int64(c.ReadAhead), int64(c.Handlers),
	} {
		refuse(v < 0, "%d: less than 0", v)
	}
	return errors.Join(errs...)
}

// Server accepts connections and owns them. Its methods are safe for concurrent
// use.
type Server struct {
	cfg        Config
	handler    Handler
	metrics    *metrics.Set
	budget     *budget
	pool       pool
	complaints complaints

	base context.Context // ends at the drain deadline
	cut  context.CancelFunc

	windows   atomic.Int64 // read and not acknowledged yet
	unsettled atomic.Int64 // of those, given up after Shutdown began
	closing   atomic.Bool

	mu        sync.Mutex // guards all below
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	addresses map[netip.Addr]int // open connections of each

	serving sync.WaitGroup // connections
}

// NewServer makes a server that hands batches to h.
func NewServer(cfg Config, h Handler) (*Server, error) {
	if h == nil {
		return nil, errors.New("lumberjack server: no handler")
	}
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("lumberjack server: %w", err)
	}
	inflight := cfg.Metrics.InflightBytes
	s := &Server{
		cfg: cfg, handler: h, metrics: cfg.Metrics,
		budget:     newBudget(cfg.Memory, cfg.Handlers, func(n int64) { inflight.Set(float64(n)) }),
		complaints: complaints{log: cfg.Log, reasons: map[string]*complaint{}},
		listeners:  map[net.Listener]struct{}{},
		conns:      map[*conn]struct{}{},
		addresses:  map[netip.Addr]int{},
	}
	for _, reason := range protocolReasons {
		s.metrics.ProtocolErrors.WithLabelValues(reason)
	}
	s.base, s.cut = context.WithCancel(context.Background())
	return s, nil
}

// Serve accepts connections on l until Shutdown; then it returns nil. Any other
// end of l is an error; failures to accept one connection are not: it waits a
// little and goes on.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		_ = l.Close()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()

	const shortest, longest = 5 * time.Millisecond, time.Second
	var pause time.Duration
	var failing bool       // what the log says
	var failedAt time.Time // the last time
	for {
		nc, err := l.Accept()
		if err == nil {
			// Short of descriptors, accepting works now and then: that is one state
			// and not one for each connection.
			if failing && time.Since(failedAt) >= steadyAccepts {
				s.cfg.Log.Info("connections are accepted again")
				failing = false
			}
			pause = 0
			s.admit(nc)
			continue
		}
		if s.closing.Load() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accepting connections: %w", err)
		}
		// No file descriptors left, no memory, a client that has gone again: all of
		// them pass, and giving up would silence every sender.
		if failedAt = time.Now(); !failing && !errors.Is(err, syscall.ECONNABORTED) {
			failing = true
			s.cfg.Log.Error("connections cannot be accepted; senders wait: "+acceptMend(err), "error", err)
		}
		pause = min(max(2*pause, shortest), longest)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.base.Done():
			timer.Stop()
		}
	}
}

// steadyAccepts is how long accepting must not have failed to be called well.
const steadyAccepts = 10 * time.Second

// acceptMend says what helps against a failure to accept.
func acceptMend(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return "this process may open no more files; raise its limit (ulimit -n, LimitNOFILE= of systemd) or lower input.max_connections"
	case errors.Is(err, syscall.ENFILE):
		return "no process of this machine can open more files; raise fs.file-max"
	case errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		return "the system has no memory for more connections; give it more or lower input.max_connections"
	default:
		return "it is tried again every second"
	}
}

// admit starts serving a connection, or refuses it.
func (s *Server) admit(nc net.Conn) {
	c := newConn(s, nc)
	refused, says := s.enter(c)
	if refused == "" {
		go func() {
			defer s.leave(c)
			c.serve()
		}()
		return
	}
	if refused != reasonClosing {
		s.metrics.ProtocolErrors.WithLabelValues(refused).Inc() // first, so that who sees the end finds it counted
		s.complaints.write(slog.LevelWarn, "connection refused: "+says, refused, c)
	}
	c.cutOff()
}

// enter makes a connection one of those that are open, or says why it must not
// be.
func (s *Server) enter(c *conn) (refused, says string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, each := s.cfg.MaxConnections, s.cfg.MaxPerAddress
	switch {
	case s.closing.Load():
		return reasonClosing, ""
	case all > 0 && len(s.conns) >= all:
		return reasonMaxConns, fmt.Sprintf("input.max_connections (%d) is reached; raise it, or see which senders hold so many", all)
	case each > 0 && s.addresses[c.addr] >= each:
		return reasonMaxPerAddress, fmt.Sprintf("input.max_connections_per_address (%d) is reached; raise it, or see why the sender holds so many", each)
	}
	s.conns[c] = struct{}{}
	s.addresses[c.addr]++
	s.metrics.Connections.Set(float64(len(s.conns)))
	s.serving.Add(1) // under mu: Shutdown begins to wait once closing is set
	return "", ""
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.addresses[c.addr]--; s.addresses[c.addr] == 0 {
		delete(s.addresses, c.addr)
	}
	s.metrics.Connections.Set(float64(len(s.conns)))
	s.serving.Done()
}

// addressOf is the address that a connection counts for. One of IPv4 is the same
// however it is written; one of IPv6 is taken as it is: whole networks of senders
// stand behind one prefix, and who owns a prefix is bounded by MaxConnections.
func addressOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// Shutdown ends the server in this order: nothing is accepted and no window read
// any more; windows that were read finish, their acks go out and their
// connections are closed with FIN; when ctx is done, all that is still open is
// cut. The error says how many windows that had been read were not stored.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing.Store(true)
	var errs []error
	for l := range s.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("closing the listener: %w", err))
		}
	}
	clear(s.listeners)
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.stopReading()
	}

	done := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.cut()
		for _, c := range conns {
			c.cutOff()
		}
		// Handlers return when their context ends; one that does not must not hold
		// the whole program.
		timer := time.NewTimer(s.cfg.Linger)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			errs = append(errs, errors.New("handlers did not return after their context had ended"))
		}
	}
	s.cut()
	if n := s.unsettled.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("%d windows were not stored and got no ack", n))
	}
	if len(errs) > 0 {
		return fmt.Errorf("stopping the lumberjack server: %w", errors.Join(errs...))
	}
	return nil
}

// Stats is what readiness and an operator's page want to know.
type Stats struct {
	Connections int
	Windows     int       // read and not acknowledged yet
	Oldest      time.Time // when the oldest unfinished batch began to arrive; zero: there is none
}

// Stats returns the figures of this moment.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	return Stats{Connections: n, Windows: int(s.windows.Load()), Oldest: s.budget.oldest()}
}

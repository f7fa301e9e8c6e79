package lumber

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
)

// patience is how long a test waits for what must come. Nothing is asserted of
// how long it took.
const patience = 20 * time.Second

// Frames as clients send them.

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func windowFrame(version byte, n uint32) []byte { return join([]byte{version, 'W'}, u32(n)) }

func jsonHeader(seq, length uint32) []byte { return join([]byte("2J"), u32(seq), u32(length)) }

func jsonFrame(seq uint32, doc string) []byte {
	return join(jsonHeader(seq, uint32(len(doc))), []byte(doc))
}

func dataFrame(seq uint32, pairs ...string) []byte {
	b := join([]byte("1D"), u32(seq), u32(uint32(len(pairs)/2)))
	for _, s := range pairs {
		b = join(b, u32(uint32(len(s))), []byte(s))
	}
	return b
}

func deflated(level int, parts ...[]byte) []byte {
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, level)
	if err != nil {
		panic(err)
	}
	for _, p := range parts {
		_, _ = w.Write(p)
	}
	_ = w.Close()
	return b.Bytes()
}

func rawCompressed(version byte, stream []byte) []byte {
	return join([]byte{version, 'C'}, u32(uint32(len(stream))), stream)
}

func compressedFrame(version byte, parts ...[]byte) []byte {
	return rawCompressed(version, deflated(3, parts...))
}

func ackFrame(version byte, n uint32) []byte { return join([]byte{version, 'A'}, u32(n)) }

// received is an event as the handler saw it.
type received struct {
	Raw      string
	Oversize *event.Oversize
}

// store is a Handler that keeps what it is given and complains about what no
// batch may be.
type store struct {
	t testing.TB
	// before, if set, is called for each batch before it is kept; its error is
	// Handle's.
	before func(ctx context.Context, b *event.Batch) error

	mu      sync.Mutex
	events  []received
	batches int
}

func (s *store) Handle(ctx context.Context, b *event.Batch) error {
	assert.NotEmpty(s.t, b.Events, "a batch without events")
	assert.NotNil(s.t, b.Budget)
	assert.NotEmpty(s.t, b.Remote)
	assert.False(s.t, b.Received.IsZero())
	if s.before != nil {
		if err := s.before(ctx, b); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches++
	for _, e := range b.Events {
		if !assert.GreaterOrEqual(s.t, cap(e.Raw), len(e.Raw)+event.Sentinel, "no sentinel behind an event") {
			continue
		}
		_ = bytes.Count(e.Raw[:len(e.Raw)+event.Sentinel], []byte{0}) // as a scanner does: read it all
		s.events = append(s.events, received{string(e.Raw), e.Oversize})
	}
	return nil
}

func (s *store) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.events...)
}

func (s *store) raws() []string {
	var out []string
	for _, e := range s.all() {
		out = append(out, e.Raw)
	}
	return out
}

// logs is a place for log lines that a test can ask.
type logs struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is a server on a loopback port.
type running struct {
	*Server
	t       testing.TB
	addr    string
	metrics *metrics.Set
	logs    *logs
	served  chan error
	once    sync.Once
}

func start(t testing.TB, cfg Config, h Handler) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return startOn(t, l, cfg, h)
}

func startOn(t testing.TB, l net.Listener, cfg Config, h Handler) *running {
	t.Helper()
	r := &running{t: t, addr: l.Addr().String(), metrics: metrics.New("", "", ""), logs: &logs{}, served: make(chan error, 1)}
	cfg.Metrics = r.metrics
	cfg.Log = slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.Linger == 0 {
		cfg.Linger = 200 * time.Millisecond
	}
	var err error
	r.Server, err = NewServer(cfg, h)
	require.NoError(t, err)
	go func() { r.served <- r.Serve(l) }()
	t.Cleanup(func() { r.stop() })
	return r
}

// stop shuts the server down and checks that it holds nothing any more.
func (r *running) stop() {
	r.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		assert.NoError(r.t, r.Shutdown(ctx))
		assert.NoError(r.t, <-r.served)
		r.empty()
	})
}

// empty checks that no budget is left behind.
func (r *running) empty() {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	assert.Zero(r.t, r.budget.inUse, "budget left behind")
	assert.Zero(r.t, r.budget.running, "places for handlers left behind")
	assert.Empty(r.t, r.budget.open, "shares left open")
	assert.Zero(r.t, r.windows.Load(), "windows left behind")
}

// held is how much of the budget is in use.
func (s *Server) held() int64 {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	return s.budget.inUse
}

func (r *running) errors(reason string) float64 {
	return value(r.t, r.metrics.ProtocolErrors.WithLabelValues(reason))
}

// value reads a counter, a gauge, or how often a histogram observed.
func value(t testing.TB, c prometheus.Collector) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(c))
	families, err := r.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	m := families[0].GetMetric()[0]
	if h := m.GetHistogram(); h != nil {
		return float64(h.GetSampleCount())
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

// pipe is a server with one connection that has no kernel in between: what is
// written stays with its writer until it is read, and time may be a bubble's.
func pipe(t *testing.T, cfg Config, h Handler) (*Server, *peer) {
	t.Helper()
	s, err := NewServer(cfg, h)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.Shutdown(context.Background()))
		assert.Zero(t, s.held(), "budget left behind")
	})
	return s, s.join(t)
}

// join adds a connection to a server of pipes.
func (s *Server) join(t *testing.T) *peer {
	client, server := net.Pipe()
	t.Cleanup(func() { _ = client.Close() })
	s.admit(server)
	return &peer{t, client}
}

// peer is a client that sends what it is told to.
type peer struct {
	t    testing.TB
	conn net.Conn
}

func (r *running) dial() *peer {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	require.NoError(r.t, err)
	p := &peer{r.t, conn}
	_ = conn.SetDeadline(time.Now().Add(patience))
	r.t.Cleanup(func() { _ = conn.Close() })
	return p
}

func (p *peer) send(parts ...[]byte) {
	p.t.Helper()
	_, err := p.conn.Write(join(parts...))
	require.NoError(p.t, err)
}

// offer sends and does not mind when the server has closed meanwhile.
func (p *peer) offer(parts ...[]byte) { _, _ = p.conn.Write(join(parts...)) }

// acks reads frames and wants exactly these.
func (p *peer) acks(version byte, seqs ...uint32) {
	p.t.Helper()
	for _, seq := range seqs {
		var got [6]byte
		_, err := io.ReadFull(p.conn, got[:])
		require.NoError(p.t, err)
		require.Equal(p.t, ackFrame(version, seq), got[:])
	}
}

// acksAfterKeepalives reads frames until one is no keepalive and wants that to
// be the ack. It returns the number of keepalives.
func (p *peer) ackAfterKeepalives(seq uint32) int {
	p.t.Helper()
	for n := 0; ; n++ {
		var got [6]byte
		_, err := io.ReadFull(p.conn, got[:])
		require.NoError(p.t, err)
		if !bytes.Equal(got[:], ackFrame('2', 0)) {
			require.Equal(p.t, ackFrame('2', seq), got[:])
			return n
		}
	}
}

// closed reads to the end of the connection and wants nothing but its end; a
// reset is an end too.
func (p *peer) closed() {
	p.t.Helper()
	defer p.conn.Close()
	b, err := io.ReadAll(p.conn)
	require.Empty(p.t, b)
	if err != nil {
		var timeout net.Error
		if ok := asNetError(err, &timeout); ok {
			require.False(p.t, timeout.Timeout(), "the connection was not closed")
		}
	}
}

// closedByFIN wants an orderly end.
func (p *peer) closedByFIN() {
	p.t.Helper()
	defer p.conn.Close()
	b, err := io.ReadAll(p.conn)
	require.Empty(p.t, b)
	require.NoError(p.t, err)
}

func asNetError(err error, target *net.Error) bool { return errors.As(err, target) }

// net0 dials and closes.
func net0(addr string) (bool, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false, err
	}
	return true, conn.Close()
}

// watchBudget returns the highest use of the budget from now on.
func (r *running) watchBudget() *atomic.Int64 {
	highest := &atomic.Int64{}
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	used := r.budget.used
	r.budget.used = func(n int64) {
		highest.Store(max(n, highest.Load()))
		used(n)
	}
	return highest
}

package lumber

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
)

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// inUse is what is live on heap and stacks.
func inUse() uint64 {
	runtime.GC()
	runtime.GC() // stacks shrink in one, are counted as free in the next
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// Nothing is allocated for what is only announced.
func TestAnnouncedIsNotAllocated(t *testing.T) {
	for name, announce := range map[string][]byte{
		"events of 2^31-1":        join(windowFrame('2', 1), jsonHeader(1, 1<<31-1)),
		"events of 128 MiB":       join(windowFrame('2', 1), jsonHeader(1, 128<<20)),
		"events of max_event":     join(windowFrame('2', 10_000), jsonHeader(1, 16<<20)),
		"compressed 1 GiB":        join(windowFrame('2', 10_000), []byte("2C"), u32(1<<30-headerSize)),
		"max_event in compressed": join(windowFrame('2', 10_000), []byte("2C"), u32(1<<20), deflated(3, jsonHeader(1, 16<<20))),
		"window of 2^32-1":        windowFrame('2', 1<<32-1),
		"pairs of 2^32-1":         join(windowFrame('1', 1), []byte("1D"), u32(1), u32(1<<32-1)),
		"values of 100 MiB":       join(windowFrame('1', 10_000), []byte("1D"), u32(1), u32(10_000), u32(100<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Config{NoProgress: 100 * time.Millisecond}, &store{t: t})
			highest := s.watchBudget()
			before := allocated()
			for range 4 {
				p := s.dial()
				p.offer(announce)
				p.closed()
			}
			assert.Less(t, allocated()-before, uint64(4<<20))
			assert.LessOrEqual(t, highest.Load(), int64(4*(wireBuffer+rigCharge+smallChunk+2*bigChunk)))
		})
	}
}

// A frame that inflates a thousandfold stays within the budget, and so do
// events of 2 bytes.
func TestBombs(t *testing.T) {
	const memory = 4 << 20
	for _, tt := range []struct {
		name string
		send []byte
		ack  uint32
	}{
		{"events of zeros", join(windowFrame('2', 16), compressedFrame('2', bytes.Repeat(join(jsonHeader(9, 1<<20), make([]byte, 1<<20)), 16))), 9},
		{"oversized events of zeros", join(windowFrame('2', 2), compressedFrame('2', bytes.Repeat(join(jsonHeader(9, 8<<20), make([]byte, 8<<20)), 2))), 9},
		{"events of 2 bytes", join(windowFrame('2', 200_000), compressedFrame('2', bytes.Repeat(jsonFrame(7, "{}"), 200_000))), 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, Config{Memory: memory, MaxEvent: 2 << 20, MaxWindow: 1 << 20, BatchBytes: 1 << 20}, discard{})
			highest := s.watchBudget()
			p := s.dial()
			p.send(tt.send)
			p.acks('2', tt.ack)
			// One batch of overdraft, and an event that grows is there twice for a moment.
			assert.LessOrEqual(t, highest.Load(), int64(memory+(4<<20)))
		})
	}
}

// The figures of the budget are what the heap really holds.
func TestBudgetIsHonest(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{}, 64)
	h := &store{t: t, before: func(context.Context, *event.Batch) error {
		entered <- struct{}{}
		<-gate
		return nil
	}}
	for name, window := range map[string][]byte{
		"small": join(windowFrame('2', 10_000), compressedFrame('2', bytes.Repeat(jsonFrame(7, "{}"), 10_000))),
		"usual": join(windowFrame('2', 2000), compressedFrame('2', bytes.Repeat(jsonFrame(7, strings.Repeat("x", 1000)), 2000))),
		"large": join(windowFrame('2', 2), compressedFrame('2', bytes.Repeat(jsonFrame(7, strings.Repeat("x", 1_000_000)), 2))),
	} {
		t.Run(name, func(t *testing.T) {
			gate = make(chan struct{})
			s := start(t, Config{}, h)
			p := s.dial()
			before := inUse()
			p.send(window, window, window, window)
			for range 4 {
				<-entered
			}
			grown := int64(inUse()) - int64(before)
			assert.LessOrEqual(t, grown, s.held()+1<<20, "more is held than charged")
			close(gate)
			p.acks('2', 7, 7, 7, 7)
			h.events = nil
		})
	}
}

// With the budget full, windows complete one after the other, and reserves of
// the handler do too.
func TestFullBudgetStillFlows(t *testing.T) {
	h := &store{t: t, before: func(ctx context.Context, b *event.Batch) error {
		for range 3 {
			if err := b.Budget.Reserve(ctx, 300<<10); err != nil {
				return err
			}
		}
		b.Budget.Release(100 << 10) // the rest is given back for it
		return nil
	}}
	s := start(t, Config{Memory: 1 << 20, MaxEvent: 512 << 10, BatchBytes: 256 << 10, Handlers: 2}, h)
	highest := s.watchBudget()
	window := join(windowFrame('2', 500), compressedFrame('2', bytes.Repeat(jsonFrame(5, strings.Repeat("x", 2000)), 500)))
	var all sync.WaitGroup
	for range 8 {
		p := s.dial()
		all.Go(func() {
			for range 3 {
				p.offer(window)
			}
			p.acks('2', 5, 5, 5)
		})
	}
	all.Wait()
	assert.Len(t, h.all(), 8*3*500)
	// One batch over the budget, the rig that reads it and the chunk it grows from.
	assert.LessOrEqual(t, highest.Load(), int64(1<<20+512<<10+900<<10+wireBuffer+rigCharge+bigChunk))
}

// Who holds memory that others wait for must send; others never notice more
// than that wait.
func TestSlowClientUnderPressure(t *testing.T) {
	h := &store{t: t}
	// Room for one window at a time.
	s := start(t, Config{Memory: 128 << 10, MaxEvent: 64 << 10, MaxBehind: 100 * time.Millisecond}, h)
	slow := s.dial()
	slow.send(three[:20])
	require.Eventually(t, func() bool { return !s.Stats().Oldest.IsZero() }, patience, time.Millisecond)
	await(t, 200*time.Millisecond)
	assert.Zero(t, s.errors(reasonSlow), "nobody waits")
	other := s.dial()
	other.send(three)
	other.acks('2', 3)
	slow.closed()
	assert.Equal(t, 1.0, s.errors(reasonSlow))
}

// While the server does not read, because the budget is full, no time counts.
func TestWaitingForBudgetIsNoFault(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{}, 1)
	var once sync.Once
	h := &store{t: t, before: func(ctx context.Context, b *event.Batch) error {
		once.Do(func() {
			assert.NoError(t, b.Budget.Reserve(ctx, 1<<20))
			entered <- struct{}{}
			<-gate
		})
		return nil
	}}
	s := start(t, Config{Memory: 1 << 20, MaxEvent: 64 << 10, NoProgress: 50 * time.Millisecond, MaxBehind: 20 * time.Millisecond}, h)
	first, second := s.dial(), s.dial()
	first.send(three)
	<-entered
	second.send(three)
	s.budget.waiting(t, 1)
	await(t, 200*time.Millisecond)
	close(gate)
	first.acks('2', 3)
	second.acks('2', 3)
}

// The path of an event allocates nothing.
func TestAllocations(t *testing.T) {
	s := start(t, Config{}, discard{})
	p := s.dial()
	window := join(windowFrame('2', 2000), compressedFrame('2', bytes.Repeat(jsonFrame(5, strings.Repeat("x", 1000)), 2000)))
	per := testing.AllocsPerRun(20, func() {
		p.send(window)
		p.acks('2', 5)
	})
	assert.Less(t, per, 100.0, "for a window of 2,000 events")
}

// pressure fills the budget, so that all but the oldest share wait.
func (s *Server) pressure() (end func()) {
	share := s.budget.window(time.Now())
	s.budget.mu.Lock()
	s.budget.grant(share, s.budget.total, false)
	s.budget.mu.Unlock()
	return share.close
}

// Who holds memory that others wait for has to send; by a bubble's clock.
func TestDeliveryRate(t *testing.T) {
	begin := join(windowFrame('2', 1), jsonHeader(1, 12<<20))
	for _, tt := range []struct {
		name    string
		piece   int           // bytes
		every   time.Duration // piece
		pieces  int
		waiting bool // others
		closed  bool
	}{
		{"a byte now and then, and nobody waits", 1, 20 * time.Second, 100, false, false},
		{"64 KiB a second", 64 << 10, time.Second, 60, true, false},
		{"in bursts of more than that", 330 << 10, 4 * time.Second, 30, true, false},
		{"a little less", 62 << 10, time.Second, 200, true, true},
		{"half of it", 32 << 10, time.Second, 200, true, true},
		{"a byte a second", 1, time.Second, 60, true, true},
		{"nothing", 0, time.Second, 10, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := pipe(t, Config{}, discard{})
				p.send(begin)
				synctest.Wait()
				if tt.waiting {
					defer s.pressure()()
					s.join(t).send(three[:6])
				}
				synctest.Wait()
				require.Equal(t, tt.waiting, s.budget.pressed.Load())
				open := s.Stats().Connections
				for range tt.pieces {
					if _, err := p.conn.Write(make([]byte, tt.piece)); err != nil {
						break
					}
					faketime.Pass(t, tt.every)
				}
				synctest.Wait() // a connection is counted until its goroutines have ended
				slow := value(t, s.metrics.ProtocolErrors.WithLabelValues(reasonSlow))
				if !tt.closed {
					assert.Zero(t, slow)
					assert.Equal(t, open, s.Stats().Connections)
					return
				}
				assert.Equal(t, 1.0, slow)
				assert.Equal(t, 1, s.Stats().Connections, "who waits is not slow")
			})
		})
	}
}

// What a client sent while the server did not read is its own affair: however
// long that took, and though others waited for memory all the time.
func TestTimeOfTheServerIsNoFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		h := &store{t: t, before: func(context.Context, *event.Batch) error { <-gate; return nil }}
		s, p := pipe(t, Config{BatchBytes: 8 << 10, ReadAhead: 1}, h)
		var frames [][]byte
		for i := range 100 {
			frames = append(frames, jsonFrame(uint32(i+1), strings.Repeat("x", 1000)))
		}
		go p.offer(windowFrame('2', 100), join(frames...))
		synctest.Wait() // its first batch is downstream, its second waits for the first
		defer s.pressure()()
		other := s.join(t)
		other.send(three[:6])
		faketime.Pass(t, 9*time.Minute)
		require.True(t, s.budget.pressed.Load())
		close(gate)
		p.acks('2', 100)
		assert.Zero(t, value(t, s.metrics.ProtocolErrors.WithLabelValues(reasonSlow)))
	})
}

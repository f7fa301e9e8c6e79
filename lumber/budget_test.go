package lumber

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// waiting waits until n requests are blocked in the budget.
func (b *budget) waiting(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.memory.len()+b.slots.len() == n
	}, patience, time.Millisecond)
}

func TestBudgetServesByAgeAndTheOldestOverdraws(t *testing.T) {
	var used atomic.Int64
	b := newBudget(100, 1, func(n int64) { used.Store(n) })
	now := time.Now()
	first, second, third := b.window(now), b.window(now), b.window(now)
	ctx := t.Context()
	require.NoError(t, third.Reserve(ctx, 50))
	require.NoError(t, second.reserve(ctx, 25))
	assert.False(t, b.pressed.Load())
	require.NoError(t, first.Reserve(ctx, 1000), "the oldest never waits")
	assert.Equal(t, int64(1075), used.Load())

	granted := make(chan string)
	go func() { granted <- errText(third.Reserve(ctx, 30)) + "third" }()
	b.waiting(t, 1)
	go func() { granted <- errText(second.Reserve(ctx, 50)) + "second" }()
	b.waiting(t, 2)
	assert.True(t, b.pressed.Load())
	first.Release(995)
	b.waiting(t, 2) // 80 of 100 are in use
	first.close()   // now second is the oldest: it overdraws, third goes on waiting
	assert.Equal(t, "second", <-granted)
	b.waiting(t, 1)
	second.Release(1 << 40) // no more than it reserved
	assert.Equal(t, int64(25+50), used.Load())
	assert.ErrorIs(t, first.Reserve(ctx, 1), errShareClosed)
	second.close()
	assert.Equal(t, "third", <-granted)
	assert.Equal(t, int64(50+30), used.Load())
	third.close()
	third.close()
	assert.Zero(t, used.Load())
	assert.Equal(t, time.Time{}, b.oldest())
}

func errText(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// The batches of one window have an age too: only its first may overdraw.
func TestBudgetWithinAWindow(t *testing.T) {
	b := newBudget(100, 4, func(int64) {})
	first := b.window(time.Now())
	younger := b.window(time.Now())
	next := first.next(time.Now())
	require.NoError(t, first.reserve(t.Context(), 200))
	ctx, cancel := context.WithCancel(t.Context())
	granted := make(chan string)
	go func() { granted <- errText(younger.Reserve(t.Context(), 1)) + "younger" }()
	b.waiting(t, 1)
	go func() { granted <- errText(next.Reserve(t.Context(), 150)) + "next" }()
	b.waiting(t, 2)
	cancel()
	require.ErrorIs(t, younger.Reserve(ctx, 1), context.Canceled)
	first.close()
	assert.Equal(t, "next", <-granted)
	next.close()
	assert.Equal(t, "younger", <-granted)
	younger.close()
}

// Who handles comes before who receives, and small windows do not stand behind large ones: else a few that inflate to a
// gigabyte each would hold up everybody. The oldest share goes before any rank.
func TestBudgetRanks(t *testing.T) {
	b := newBudget(640, 1, func(int64) {})
	ctx := t.Context()
	oldest, large := b.window(time.Now()), b.window(time.Now())
	require.NoError(t, large.reserve(ctx, 240))
	require.NoError(t, oldest.reserve(ctx, 400))
	require.NoError(t, large.slot(ctx))
	later, first, small := large.next(time.Now()), b.window(time.Now()), b.window(time.Now())

	granted := make(chan string)
	ask := func(who string, get func() error) {
		waiting := b.memory.len() + b.slots.len()
		go func() { granted <- errText(get()) + who }()
		b.waiting(t, waiting+1)
	}
	ask("memory of later", func() error { return later.reserve(ctx, 400) })
	ask("memory of first", func() error { return first.reserve(ctx, 300) })
	ask("memory of small", func() error { return small.reserve(ctx, 10) })
	ask("place of later", func() error { return later.slot(ctx) })
	ask("place of small", func() error { return small.slot(ctx) })
	large.close() // 410 come to be in use; first would make 710, and may make 480
	assert.ElementsMatch(t, []string{"memory of small", "place of small"}, []string{<-granted, <-granted})
	b.waiting(t, 3)

	oldest.close() // now later is the oldest: it waits for nobody
	assert.ElementsMatch(t, []string{"memory of later", "place of later"}, []string{<-granted, <-granted})
	b.waiting(t, 1)
	later.close()
	assert.Equal(t, "memory of first", <-granted)

	// 310 are in use: each rank goes as far as its limit.
	last, young := first.next(time.Now()), b.window(time.Now())
	require.NoError(t, last.reserve(ctx, 90))
	ask("memory of last", func() error { return last.reserve(ctx, 1) })
	require.NoError(t, young.reserve(ctx, 10))
	require.NoError(t, young.reserve(ctx, 70), "up to six eighths")
	ask("memory of young", func() error { return young.reserve(ctx, 1) })
	for range 8 {
		require.NoError(t, b.window(time.Now()).reserve(ctx, 10), "up to seven eighths")
	}
	handled := b.window(time.Now())
	ask("memory of a new window", func() error { return b.window(time.Now()).reserve(ctx, 10) })
	require.NoError(t, handled.Reserve(ctx, 80), "all of it")
	ask("memory of a Handle", func() error { return handled.Reserve(ctx, 80) })
	b.waiting(t, 4)
	first.close()
	assert.ElementsMatch(t, []string{"memory of last", "memory of young", "memory of a Handle", "memory of a new window"},
		[]string{<-granted, <-granted, <-granted, <-granted})
}

// A waiter whose share is closed leaves, and hides nobody.
func TestBudgetClosedWaiters(t *testing.T) {
	b := newBudget(64, 1, func(int64) {})
	oldest := b.window(time.Now())
	closed, small := oldest.next(time.Now()), b.window(time.Now())
	require.NoError(t, oldest.reserve(t.Context(), 64))
	granted := make(chan error)
	go func() { granted <- closed.reserve(t.Context(), 1) }()
	b.waiting(t, 1)
	other := make(chan error)
	go func() { other <- small.reserve(t.Context(), 1) }()
	b.waiting(t, 2)
	closed.close()
	assert.ErrorIs(t, <-granted, errShareClosed)
	b.waiting(t, 1)
	oldest.close()
	require.NoError(t, <-other)
	small.close()
	assert.Zero(t, b.inUse)
}

// Whoever waits for a place among the handlers while younger ones occupy all of
// them gets an extra one when it is the oldest.
func TestBudgetHandlerPlaces(t *testing.T) {
	b := newBudget(100, 1, func(int64) {})
	first, second, third := b.window(time.Now()), b.window(time.Now()), b.window(time.Now())
	require.NoError(t, third.slot(t.Context()))
	granted := make(chan struct{})
	go func() {
		assert.NoError(t, second.slot(t.Context()))
		close(granted)
	}()
	b.waiting(t, 1)
	require.NoError(t, first.slot(t.Context()))
	first.close()
	<-granted
	second.close()
	third.close()
	assert.Zero(t, b.running)
}

// Any number of windows that all want more than there is complete, and nothing
// is left behind.
func TestBudgetUnderLoad(t *testing.T) {
	const total = 1000
	var highest atomic.Int64
	b := newBudget(total, 3, func(n int64) { highest.Store(max(highest.Load(), n)) })
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 200 {
				s := b.window(time.Now())
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(4) == 0 {
					time.AfterFunc(time.Duration(r.IntN(200))*time.Microsecond, cancel)
				}
				err := s.reserve(ctx, int64(r.IntN(300)))
				for range r.IntN(3) {
					if err == nil {
						next := s.next(time.Now())
						if err = s.slot(ctx); err == nil {
							err = s.Reserve(ctx, int64(r.IntN(300)))
						}
						s.close()
						s = next
					}
				}
				s.close()
				cancel()
			}
		})
	}
	all.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Zero(t, b.inUse)
	assert.Zero(t, b.running)
	assert.Empty(t, b.open)
	assert.Zero(t, b.memory.len())
	assert.Zero(t, b.slots.len())
	assert.LessOrEqual(t, highest.Load(), int64(total+600), "more than the oldest has overdrawn")
}

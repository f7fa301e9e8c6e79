package lumber

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// Windows in flight finish, their acks go out, connections end with FIN, though
// their clients still send.
func TestShutdownDrains(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{}, 2)
	h := &store{t: t, before: func(context.Context, *event.Batch) error {
		entered <- struct{}{}
		<-gate
		return nil
	}}
	s := start(t, Config{}, h)
	idle := s.dial()
	busy := s.dial()
	busy.send(three, three)
	<-entered
	<-entered
	busy.send(three[:30]) // the beginning of one more, never finished
	require.Eventually(t, func() bool { return s.Stats().Connections == 2 }, patience, time.Millisecond)

	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	idle.closedByFIN()
	require.NoError(t, <-s.served)
	s.served <- nil
	busy.offer(three[30:], three) // arrives unread and must not swallow the acks
	close(gate)
	busy.acks('2', 3, 3)
	// Shutdown goes from connection to connection, and a read that is under way
	// may still bring its bytes. A window that came so is one like the others.
	more, err := io.ReadAll(busy.conn)
	require.NoError(t, err, "an orderly end")
	for late := more; len(late) > 0; late = late[6:] {
		require.Equal(t, ackFrame('2', 3), late[:min(6, len(late))])
	}
	require.NoError(t, busy.conn.Close())
	require.NoError(t, <-done)
	assert.Len(t, h.all(), 6+len(more)/2, "what is acked is stored, and nothing else")
	_, err = net0(s.addr)
	require.Error(t, err, "still accepting")
}

// What does not finish before the deadline is cut, and said.
func TestShutdownCuts(t *testing.T) {
	entered := make(chan struct{}, 2)
	h := &store{t: t, before: func(ctx context.Context, _ *event.Batch) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	s := start(t, Config{}, h)
	p := s.dial()
	p.send(three, three)
	<-entered
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.Shutdown(ctx)
	require.ErrorContains(t, err, "2 windows were not stored")
	p.closed()
	assert.Empty(t, h.all())
	s.empty()
	s.once.Do(func() { require.NoError(t, <-s.served) })
}

func TestShutdownWithAHandlerThatHangs(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{})
	h := &store{t: t, before: func(context.Context, *event.Batch) error {
		close(entered)
		<-gate
		return errors.New("late")
	}}
	s := start(t, Config{}, h)
	p := s.dial()
	p.send(three)
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, s.Shutdown(ctx), "did not return")
	close(gate)
	s.serving.Wait()
	s.empty()
	s.once.Do(func() { require.NoError(t, <-s.served) })
}

func TestShutdownFirst(t *testing.T) {
	s := start(t, Config{}, discard{})
	require.NoError(t, s.Shutdown(t.Context()))
	require.NoError(t, s.Shutdown(t.Context()))
}

// A window that cannot be stored during the drain is an error too.
func TestShutdownCountsWindowsThatFail(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{})
	h := &store{t: t, before: func(context.Context, *event.Batch) error {
		close(entered)
		<-gate
		return errors.New("the disk is full")
	}}
	s := start(t, Config{}, h)
	p := s.dial()
	p.send(three)
	<-entered
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	require.NoError(t, <-s.served)
	close(gate)
	p.closed()
	require.ErrorContains(t, <-done, "1 windows were not stored")
	s.once.Do(s.empty)
}

package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/elastic/go-lumber/client/v2"
)

// beatsTimeout is what Beats wait for any answer before they connect anew.
const beatsTimeout = 30 * time.Second

// sender is a healthy client: go-lumber's, which sends windows as a Beat does,
// and sends a window again, as a Beat does, until it is acknowledged.
type sender struct {
	name   string
	ledger *ledger
	dial   func() (net.Conn, error)
	size   int           // events of a window
	every  time.Duration // one window each
	fresh  bool          // a new connection for every window
	// disturb, if set, may spoil a connection before a window is sent over it.
	disturb func(conn net.Conn, window [][]byte) (spoiled bool)

	next    uint64 // number of the first event that was never sent; run's alone
	windows atomic.Int64
	resends atomic.Int64
	slowest atomic.Int64 // nanoseconds from a window's first sending to its ack
	since   atomic.Int64 // UnixNano of the first sending of the window under way; 0: none
}

// waited is the longest that a window took, or is taking.
func (s *sender) waited() time.Duration {
	longest := time.Duration(s.slowest.Load())
	if since := s.since.Load(); since > 0 {
		longest = max(longest, time.Since(time.Unix(0, since)))
	}
	return longest
}

// run sends until ctx ends; the window under way then is given up unless it is
// acknowledged within grace.
func (s *sender) run(ctx context.Context, grace time.Duration) {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	defer stop()

	var conn net.Conn
	var beat *client.SyncClient
	hangUp := func() {
		if conn != nil {
			_ = conn.Close()
			conn = nil
		}
	}
	defer hangUp()
	ticker := time.NewTicker(s.every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		from := s.next
		s.next += uint64(s.size)
		window, raw := make([]any, s.size), make([][]byte, s.size)
		for i := range window {
			raw[i] = s.ledger.maker.event(nil, s.name, from+uint64(i))
			window[i] = raw[i]
		}
		s.since.Store(time.Now().UnixNano())
		for tries := 0; ; tries++ {
			if tries > 0 {
				s.resends.Add(1)
				hangUp()
				if !pause(hard, min(time.Second, time.Duration(tries)*50*time.Millisecond)) {
					return
				}
			}
			if conn == nil {
				var err error
				if conn, err = s.dial(); err != nil {
					conn = nil
					continue
				}
				beat, err = client.NewSyncClientWithConn(conn, client.Timeout(beatsTimeout), client.CompressionLevel(3),
					client.JSONEncoder(func(e any) ([]byte, error) { return e.([]byte), nil }))
				if err != nil {
					continue
				}
			}
			if s.disturb != nil && s.disturb(conn, raw) {
				continue
			}
			cut := context.AfterFunc(hard, func(c net.Conn) func() { return func() { _ = c.Close() } }(conn))
			_, err := beat.Send(window)
			cut()
			if err == nil {
				break
			}
			if hard.Err() != nil {
				return
			}
		}
		took := time.Since(time.Unix(0, s.since.Swap(0)))
		s.slowest.Store(max(s.slowest.Load(), int64(took)))
		s.windows.Add(1)
		s.ledger.acked(s.name, from, s.next)
		if s.fresh {
			hangUp()
		}
	}
}

// pause waits and is false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// crowd is several senders.
type crowd struct {
	senders []*sender
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// send starts the senders.
func send(ctx context.Context, grace time.Duration, senders ...*sender) *crowd {
	c := &crowd{senders: senders}
	ctx, c.stop = context.WithCancel(ctx)
	for _, s := range senders {
		s.next = max(s.next, 1)
		c.done.Go(func() { s.run(ctx, grace) })
	}
	return c
}

// end stops them and waits until each has its last ack, or has given up.
func (c *crowd) end() {
	c.stop()
	c.done.Wait()
}

func (c *crowd) slowest() (d time.Duration) {
	for _, s := range c.senders {
		d = max(d, s.waited())
	}
	return d
}

func (c *crowd) windows() (n, resends int64) {
	for _, s := range c.senders {
		n += s.windows.Load()
		resends += s.resends.Load()
	}
	return n, resends
}

package logstash_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/faketime"
	"vtsidecar/output/logstash"
)

// watchEvery is Config.Watch of these tests.
const watchEvery = 10 * time.Second

func watched(c *logstash.Config) { c.Watch = watchEvery }

// refuse sets whether hosts refuse connections from now on.
func (f *fake) refuse(refuse bool, hosts ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range hosts {
		f.does[h] = nil
		if refuse {
			f.does[h] = []string{"refuse for ever"}
		}
	}
}

func (f *fake) dialed(host string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials[host]
}

// Without any event it is known at once that no host is there, and soon that one is
// again. The log says both once, however long it lasts.
func TestIdleOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1", "b:2"}, watched)
		b.refuse(true, "a:1")
		faketime.Pass(t, 2*watchEvery)
		require.NoError(t, b.out.Ready(), "the other is there")
		b.refuse(true, "b:2")
		for range 100 {
			faketime.Pass(t, watchEvery)
			synctest.Wait()
			require.ErrorContains(t, b.out.Ready(), "output.logstash.hosts: a:1: connection refused; b:2: connection refused")
		}
		assert.InDelta(t, 100, b.dialed("a:1"), 10)
		b.refuse(false, "b:2")
		faketime.Pass(t, watchEvery)
		synctest.Wait()
		require.NoError(t, b.out.Ready())
		assert.Equal(t, 2, strings.Count(b.log.String(), "\n"), "%s", b.log)
		require.NoError(t, b.store(0, 10))
		assert.Equal(t, 1, b.took["b:2"], "that is where one is")
		b.close()
	})
}

// A window that has waited for an hour goes out soon when a host is back: the
// rests, which have grown, are cut short.
func TestAskingEndsRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"}, watched)
		for i := range 20 { // wherever in a rest it is
			b.refuse(true, "a:1")
			done := make(chan error, 1)
			go func() { done <- b.store(10*i, 10*i+10) }()
			faketime.Pass(t, time.Hour+time.Duration(i)*7*time.Second)
			b.refuse(false, "a:1")
			began := time.Now()
			require.NoError(t, <-done)
			assert.LessOrEqual(t, time.Since(began), watchEvery)
			require.NoError(t, b.out.Ready())
		}
		b.close()
	})
}

// A host that takes connections and no window is sick until it takes one, and is
// not tried more often for the connections.
func TestConnectionsProveNothing(t *testing.T) {
	windows := func(watch time.Duration) (n int) {
		synctest.Test(t, func(t *testing.T) {
			b := open(t, []string{"a:1"}, func(c *logstash.Config) { c.Watch = watch })
			drops := make([]string, 1000)
			for i := range drops {
				drops[i] = "drop"
			}
			b.refuse(true, "a:1")
			done := make(chan error, 1)
			go func() { done <- b.store(0, 10) }()
			faketime.Pass(t, time.Hour) // then the next try is far
			b.mu.Lock()
			b.took["a:1"], b.does["a:1"] = 0, drops
			b.mu.Unlock()
			for range 100 {
				faketime.Pass(t, 7*time.Second)
				require.Error(t, b.out.Ready())
			}
			b.refuse(false, "a:1")
			require.NoError(t, <-done)
			require.NoError(t, b.out.Ready())
			assert.Equal(t, 2, strings.Count(b.log.String(), "\n"), "%s", b.log)
			n = b.took["a:1"]
			b.close()
		})
		return n
	}
	assert.InDelta(t, windows(0), windows(watchEvery), 5, "rests have a part by chance")
}

// Hosts that windows go to are not asked.
func TestAskingIsRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"}, watched)
		synctest.Wait()
		require.Equal(t, 1, b.dialed("a:1"), "at the start")
		for i := range 50 {
			require.NoError(t, b.store(10*i, 10*i+10))
			faketime.Pass(t, watchEvery-time.Second)
		}
		assert.Equal(t, 2, b.dialed("a:1"), "the windows' own")
		require.NoError(t, b.out.Ready())
		assert.Empty(t, b.log.String())
		b.close()
	})
}

// A host that hangs does not hold up the end.
func TestCloseWhileAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1"}, watched, func(c *logstash.Config) {
			c.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		synctest.Wait()
		began := time.Now()
		b.close()
		assert.Equal(t, began, time.Now())
	})
}

// A host that came back while a window was under way elsewhere, and got none since,
// is well where the other one goes.
func TestHostThatCameBackMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1", "b:2"}, watched)
		b.refuse(true, "a:1")
		faketime.Pass(t, 2*watchEvery)
		b.mu.Lock()
		b.does["b:2"] = []string{"keepalives"}
		b.mu.Unlock()
		done := make(chan error, 1)
		go func() { done <- b.store(0, 10) }()
		synctest.Wait()
		b.refuse(false, "a:1")
		require.NoError(t, <-done)
		b.refuse(true, "b:2")
		for range 100 {
			faketime.Pass(t, 7*time.Second)
			require.NoError(t, b.out.Ready(), "a:1 takes connections")
		}
		require.NoError(t, b.store(10, 20))
		b.close()
	})
}

// A host that failed once and was given no window since takes connections: it may
// take windows too, so the loss of the other one is no outage.
func TestHostThatMayBeWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, []string{"a:1", "b:2"}, watched)
		b.mu.Lock()
		b.does["a:1"] = []string{"drop"}
		b.mu.Unlock()
		require.NoError(t, b.store(0, 10))
		faketime.Pass(t, 2*watchEvery)
		b.refuse(true, "b:2")
		for range 100 {
			faketime.Pass(t, 7*time.Second)
			require.NoError(t, b.out.Ready())
		}
		require.NoError(t, b.store(10, 20))
		require.NoError(t, b.out.Ready())
		b.close()
	})
}

// Windows that were taken while a question was under way tell more than that it
// came to nothing.
func TestWindowsOverruleAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		b := open(t, []string{"a:1"}, watched, func(c *logstash.Config) {
			dial := c.Dial
			c.Dial = func(ctx context.Context, host string) (net.Conn, error) {
				if !slow.Load() {
					return dial(ctx, host)
				}
				select {
				case <-time.After(9 * time.Second):
					return nil, errors.New("reset")
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		})
		require.NoError(t, b.store(0, 10))
		slow.Store(true)
		faketime.Pass(t, watchEvery+time.Second) // a question has begun
		require.NoError(t, b.store(10, 20))
		faketime.Pass(t, 9*time.Second)
		synctest.Wait()
		require.NoError(t, b.out.Ready())
		assert.Empty(t, b.log.String())
		b.close()
	})
}

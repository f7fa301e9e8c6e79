package cache_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/cache"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeClock goes where the test wants it.
type fakeClock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func newClock() *fakeClock { return &fakeClock{t: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)} }

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newCache(entries int) (*cache.Cache[string], *fakeClock) {
	clock := newClock()
	return cache.New[string](cache.Config{MaxEntries: entries, Now: clock.now}), clock
}

func has[V any](c *cache.Cache[V], key string) bool {
	_, _, ok := c.Get([]byte(key), time.Time{})
	return ok
}

func TestFreshThenStale(t *testing.T) {
	c, clock := newCache(10)
	_, fresh, ok := c.Get([]byte("a"), clock.now())
	assert.False(t, fresh)
	assert.False(t, ok)

	c.Set("a", "1", time.Minute)
	v, fresh, ok := c.Get([]byte("a"), clock.now())
	assert.Equal(t, "1", v)
	assert.True(t, fresh)
	assert.True(t, ok)

	clock.add(time.Minute - 1)
	_, fresh, _ = c.Get([]byte("a"), clock.now())
	assert.True(t, fresh, "its lifetime is not over")
	clock.add(1)
	v, fresh, ok = c.Get([]byte("a"), clock.now())
	assert.Equal(t, "1", v)
	assert.False(t, fresh)
	assert.True(t, ok, "stale ones are still there")

	c.Set("a", "2", time.Minute)
	v, fresh, _ = c.Get([]byte("a"), clock.now())
	assert.Equal(t, "2", v)
	assert.True(t, fresh)
	assert.Equal(t, 1, c.Len())
}

func TestOddLifetimesAndKeys(t *testing.T) {
	c, clock := newCache(10)
	c.Set("", "empty key", time.Hour)
	c.Set("zero", "", 0)
	c.Set("negative", "", -time.Hour)
	c.Set("forever", "", 1<<63-1)
	v, fresh, ok := c.Get(nil, clock.now())
	assert.True(t, ok && fresh && v == "empty key")
	for _, key := range []string{"zero", "negative"} {
		_, fresh, ok = c.Get([]byte(key), clock.now())
		assert.True(t, ok, key)
		assert.False(t, fresh, key)
	}
	clock.add(99 * 365 * 24 * time.Hour)
	_, fresh, _ = c.Get([]byte("forever"), clock.now())
	assert.True(t, fresh)
}

func TestGetDoesNotKeepKey(t *testing.T) {
	c, clock := newCache(10)
	c.Set("a", "1", time.Hour)
	key := []byte("a")
	require.True(t, has(c, "a"))
	_, _, ok := c.Get(key, clock.now())
	require.True(t, ok)
	key[0] = 'b'
	_, _, ok = c.Get(key, clock.now())
	assert.False(t, ok)
	assert.True(t, has(c, "a"))
}

func TestGetDoesNotAllocate(t *testing.T) {
	c, clock := newCache(10)
	c.Set("ip:203.0.113.7", "1", time.Hour)
	key, absent := []byte("ip:203.0.113.7"), []byte("ip:203.0.113.8")
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		c.Get(key, clock.now())
		c.Get(absent, clock.now())
	}))
}

func TestNeverMoreThanMaxEntries(t *testing.T) {
	for _, most := range []int{-1, 0, 1, 2, 10, 1000, 1024, 5000} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			c, clock := newCache(most)
			most := max(most, 1)
			r := rand.New(rand.NewPCG(1, uint64(most)))
			for i := range 4*most + 50 {
				key := fmt.Sprint(r.IntN(3 * most))
				c.Set(key, key, time.Duration(r.IntN(100))*time.Second)
				v, _, ok := c.Get([]byte(key), clock.now())
				require.True(t, ok, "what was just set is there")
				require.Equal(t, key, v)
				require.LessOrEqual(t, c.Len(), most)
				if i%7 == 0 {
					clock.add(time.Second)
				}
			}
			assert.Equal(t, most, c.Len(), "no place stays empty while entries are evicted")
		})
	}
}

func TestAllPlacesAreUsedBeforeAnythingGoes(t *testing.T) {
	const most = 10_000
	c, _ := newCache(most)
	for i := range most {
		c.Set(fmt.Sprint(i), "", time.Hour)
	}
	for i := range most {
		require.True(t, has(c, fmt.Sprint(i)))
	}
	assert.Equal(t, most, c.Len())
}

func TestOrderOfEviction(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(c *cache.Cache[string], clock *fakeClock)
		gone []string // of a, b, c, when two more come
	}{
		{"the oldest first", func(*cache.Cache[string], *fakeClock) {}, []string{"a", "b"}},
		{"asked for stays", func(c *cache.Cache[string], _ *fakeClock) { has(c, "a") }, []string{"b", "c"}},
		{"all asked for: the oldest", func(c *cache.Cache[string], _ *fakeClock) { has(c, "a"); has(c, "b"); has(c, "c") }, []string{"a", "b"}},
		{"set again counts as new", func(c *cache.Cache[string], _ *fakeClock) { c.Set("a", "", 5*time.Hour) }, []string{"b", "c"}},
		{"set again is still asked for", func(c *cache.Cache[string], _ *fakeClock) {
			has(c, "a")
			has(c, "b")
			has(c, "c")
			c.Set("a", "", time.Hour)
		}, []string{"b", "c"}},
		{"expired first", func(c *cache.Cache[string], clock *fakeClock) {
			c.Set("b", "", time.Minute)
			c.Set("c", "", time.Minute)
			clock.add(time.Minute)
		}, []string{"b", "c"}},
		{"expired but asked for stays", func(c *cache.Cache[string], clock *fakeClock) {
			c.Set("c", "", time.Minute)
			clock.add(time.Minute)
			has(c, "c")
		}, []string{"a", "b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, clock := newCache(3)
			for _, key := range []string{"a", "b", "c"} {
				c.Set(key, "", time.Hour)
			}
			tc.do(c, clock)
			c.Set("x", "", time.Hour)
			c.Set("y", "", time.Hour)
			var gone []string
			for _, key := range []string{"a", "b", "c"} {
				if !has(c, key) {
					gone = append(gone, key)
				}
			}
			assert.Equal(t, tc.gone, gone)
			assert.True(t, has(c, "x") && has(c, "y"))
		})
	}
}

func TestAFloodDoesNotPushOutWhatKeepsComing(t *testing.T) {
	c, _ := newCache(100)
	for i := range 50 {
		c.Set(fmt.Sprint("hot", i), "", time.Hour)
	}
	for i := range 5000 {
		c.Set(fmt.Sprint("flood", i), "", time.Hour)
		if i%10 == 0 {
			for j := range 50 {
				require.True(t, has(c, fmt.Sprint("hot", j)), "flood %d, hot %d", i, j)
			}
		}
	}
}

func TestOneLoadPerKey(t *testing.T) {
	c, _ := newCache(10)
	f, leader := c.Join("a")
	require.True(t, leader)
	g, second := c.Join("a")
	assert.False(t, second)
	assert.Same(t, f, g)
	_, other := c.Join("b")
	assert.True(t, other, "other keys have loads of their own")
	select {
	case <-g.Done():
		t.Fatal("done before Finish")
	default:
	}

	failed := errors.New("failed")
	f.Finish("1", failed)
	<-g.Done()
	v, err := g.Result()
	assert.Equal(t, "1", v)
	assert.Same(t, failed, err)
	assert.Zero(t, c.Len(), "Finish stores nothing")
	assert.Panics(t, func() { f.Finish("2", nil) })

	next, leader := c.Join("a")
	assert.True(t, leader, "the next load is a new one")
	assert.Panics(t, func() { f.Finish("2", nil) }, "nor does the old one end it")
	next.Finish("3", nil)
	v, err = next.Result()
	assert.Equal(t, "3", v)
	assert.NoError(t, err)
}

func TestOneLeaderAmongMany(t *testing.T) {
	c, _ := newCache(10)
	const n = 50
	for round := range 20 {
		key := fmt.Sprint(round)
		leaders := make(chan *cache.Flight[string], n)
		var joined, ended sync.WaitGroup
		joined.Add(n)
		for range n {
			ended.Go(func() {
				f, leader := c.Join(key)
				if leader {
					leaders <- f
				}
				joined.Done()
				<-f.Done()
				v, err := f.Result()
				assert.NoError(t, err)
				assert.Equal(t, "v", v)
			})
		}
		joined.Wait()
		close(leaders)
		require.Len(t, leaders, 1)
		(<-leaders).Finish("v", nil)
		ended.Wait()
	}
}

func TestRefersToOneEntryOnly(t *testing.T) {
	c, clock := newCache(2)
	_, ok := c.Ref([]byte("a"))
	assert.False(t, ok)
	_, _, ok = cache.Ref[string]{}.Get(clock.now())
	assert.False(t, ok, "the zero value refers to nothing")

	c.Set("a", "1", time.Minute)
	r, ok := c.Ref([]byte("a"))
	require.True(t, ok)
	v, fresh, ok := r.Get(clock.now())
	assert.Equal(t, "1", v)
	assert.True(t, fresh)
	assert.True(t, ok)
	clock.add(time.Minute)
	v, fresh, ok = r.Get(clock.now())
	assert.Equal(t, "1", v)
	assert.False(t, fresh, "its lifetime is over")
	assert.True(t, ok)

	c.Set("a", "2", time.Minute)
	_, _, ok = r.Get(clock.now())
	assert.False(t, ok, "another stands in its place")
	r, _ = c.Ref([]byte("a"))
	_, _, ok = r.Get(clock.now())
	assert.True(t, ok)
	c.Set("b", "1", time.Minute)
	c.Set("c", "1", time.Minute)
	assert.True(t, has(c, "a"), "asked for by its reference, it stays")
	c.Set("d", "1", time.Minute)
	c.Set("e", "1", time.Minute)
	c.Set("f", "1", time.Minute)
	require.False(t, has(c, "a"))
	_, _, ok = r.Get(clock.now())
	assert.False(t, ok, "evicted")
}

package cache

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// check holds the invariants that tie map, order and count together.
func check[V any](t *testing.T, c *Cache[V]) {
	t.Helper()
	total := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		items := s.items.Items()
		n, hand, expiring := 0, s.hand == nil, 0
		var older *entry[V]
		for e := s.oldest; e != nil; older, e = e, e.newer {
			n++
			require.Same(t, e, items[e.key].Object, "in the order, so in the map")
			require.True(t, e.older == older, "the list goes both ways")
			hand = hand || s.hand == e
			if e.index >= 0 {
				expiring++
				require.Same(t, e, s.expiring[e.index])
				if e.index > 0 {
					require.GreaterOrEqual(t, e.expires, s.expiring[(e.index-1)/2].expires, "a heap")
				}
			}
		}
		require.True(t, s.newest == older)
		require.True(t, hand, "the hand points into the list")
		require.Len(t, s.expiring, expiring)
		require.Len(t, items, n)
		s.mu.Unlock()
		total += n
	}
	require.EqualValues(t, c.used.Load(), total)
	require.LessOrEqual(t, int64(total), c.max)
}

func TestInvariantsUnderLoad(t *testing.T) {
	for _, most := range []int{1, 7, 3000} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			var offset atomic.Int64
			start := time.Now()
			c := New[int](Config{MaxEntries: most, Now: func() time.Time { return start.Add(time.Duration(offset.Load())) }})
			path := filepath.Join(t.TempDir(), "snapshot")
			encode := func(dst []byte, v int) []byte { return fmt.Append(dst, v) }
			stop := make(chan struct{})
			var observer, workers sync.WaitGroup
			observer.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if n := c.Len(); n > most {
							t.Errorf("%d keys", n)
							return
						}
					}
				}
			})
			for w := range 4 {
				workers.Go(func() {
					r := rand.New(rand.NewPCG(7, uint64(w)))
					for i := range 6000 {
						k := r.IntN(2*most + 2)
						key := fmt.Sprint(k)
						switch r.IntN(6) {
						case 0, 1, 2:
							c.Set(key, k, time.Duration(r.IntN(1000)))
						case 3, 4:
							if v, _, ok := c.Get([]byte(key)); ok && v != k {
								t.Errorf("%s has the value %d", key, v)
							}
						default:
							if f, leader := c.Join(key); leader {
								c.Set(key, k, time.Hour)
								f.Finish(k, nil)
							} else {
								<-f.Done()
								if v, _ := f.Result(); v != k {
									t.Errorf("%s was loaded as %d", key, v)
								}
							}
						}
						offset.Add(int64(r.IntN(3)))
						if i%2000 == 0 {
							if err := c.Save(path, encode); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			workers.Wait()
			close(stop)
			observer.Wait()
			check(t, c)
			for i := range c.flights {
				require.Empty(t, c.flights[i].m)
			}
		})
	}
}

func TestRoomIsMadeInOtherShards(t *testing.T) {
	c := New[int](Config{MaxEntries: 1024})
	require.Greater(t, len(c.shards), 1)
	// Every key of one shard first, until the cache is full of them.
	for i := 0; c.Len() < 1024; i++ {
		if key := fmt.Sprint(i); c.shardOf(key) == 0 {
			c.Set(key, i, time.Hour)
		}
	}
	for i := 0; ; i++ {
		if key := fmt.Sprint("x", i); c.shardOf(key) == 1 {
			c.Set(key, i, time.Hour)
			_, _, ok := c.Get([]byte(key))
			require.True(t, ok)
			break
		}
	}
	check(t, c)
	require.Equal(t, 1024, c.Len())
}

// Setting the wall clock back must not lengthen a lifetime, and time that the
// monotonic clock missed, as in a suspended machine, must count.
func TestBothClocksEndALifetime(t *testing.T) {
	c := New[int](Config{MaxEntries: 4})
	var wall, mono int64 = 1e18, 1e9
	c.clock = func() (int64, int64) { return wall, mono }
	fresh := func() bool {
		_, fresh, ok := c.Get([]byte("a"))
		require.True(t, ok)
		return fresh
	}
	c.Set("a", 1, time.Hour)
	require.True(t, fresh())
	wall -= int64(24 * time.Hour)
	require.True(t, fresh())
	mono += int64(time.Hour)
	require.False(t, fresh(), "an hour has passed, whatever the wall clock says")

	c.Set("a", 1, time.Hour)
	require.True(t, fresh())
	wall += int64(time.Hour)
	require.False(t, fresh(), "an hour on the wall clock alone")

	// What this process knows to be over, the next one does not take for fresh.
	c.Set("a", 1, time.Hour)
	wall -= int64(time.Minute)
	mono += int64(2 * time.Hour)
	path := filepath.Join(t.TempDir(), "snapshot")
	require.NoError(t, c.Save(path, func(dst []byte, _ int) []byte { return dst }))
	next := New[int](Config{MaxEntries: 4})
	next.clock = c.clock
	n, err := next.Load(path, func([]byte) (int, error) { return 1, nil })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	c = next
	require.False(t, fresh())
}

func TestWorkOfOneEvictionIsBounded(t *testing.T) {
	const most = 400 // one shard
	c := New[int](Config{MaxEntries: most})
	for i := range most {
		c.Set(fmt.Sprint(i), i, time.Hour)
		c.Get(fmt.Append(nil, i))
	}
	asked := func() (n int) {
		for e := c.shards[0].oldest; e != nil; e = e.newer {
			if e.asked.Load() {
				n++
			}
		}
		return n
	}
	require.Equal(t, most, asked())
	c.Set("new", 0, time.Hour)
	require.Equal(t, most-maxSteps-1, asked())
	check(t, c)
}

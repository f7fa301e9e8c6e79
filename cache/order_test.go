package cache

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocache "github.com/patrickmn/go-cache"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// check holds the invariants that tie map, order and count together.
func check[V any](t *testing.T, c *Cache[V]) {
	t.Helper()
	total := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		items := make(map[string]gocache.Item)
		for j := i; j < len(c.maps); j += len(c.shards) {
			for key, item := range c.maps[j].Items() {
				require.Equal(t, j, c.mapOf(key))
				items[key] = item
			}
		}
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
	for _, most := range []int{1, 7, 3000, oneShardBelow} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			var offset atomic.Int64
			start := time.Now()
			c := New[int](Config{MaxEntries: most, Now: func() time.Time { return start.Add(time.Duration(offset.Load())) }})
			for k := range most {
				c.Set(fmt.Sprint(k), k, time.Microsecond)
			}
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
							if v, _, ok := c.Get([]byte(key), c.now()); ok && v != k {
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
						if i%2500 == 0 {
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
	const most = oneShardBelow
	c := New[int](Config{MaxEntries: most})
	require.Greater(t, len(c.shards), 1)
	shardOf := func(key string) int { return c.mapOf(key) % len(c.shards) }
	// Every key of one shard first, until the cache is full of them.
	for i := 0; c.Len() < most; i++ {
		if key := fmt.Sprint(i); shardOf(key) == 0 {
			c.Set(key, i, time.Hour)
		}
	}
	for i := 0; ; i++ {
		if key := fmt.Sprint("x", i); shardOf(key) == 1 {
			c.Set(key, i, time.Hour)
			_, _, ok := c.Get([]byte(key), c.now())
			require.True(t, ok)
			break
		}
	}
	check(t, c)
	require.Equal(t, most, c.Len())
}

func TestParts(t *testing.T) {
	for _, tc := range []struct {
		entries      int64
		maps, shards int
	}{
		{1, 1, 1}, {1023, 1, 1}, {1024, 2, 1}, {10_000, 16, 1}, {64<<10 - 1, 64, 1},
		{64 << 10, 128, 4}, {1_000_000, 256, 32}, {1 << 30, 256, 256},
	} {
		maps, shards := parts(tc.entries)
		assert.Equal(t, [2]int{tc.maps, tc.shards}, [2]int{maps, shards}, "%d entries", tc.entries)
	}
}

// Below 64 k entries the order is exact, however many maps there are.
func TestTheOldestGoesFirstOverAllMaps(t *testing.T) {
	const most = 5000
	c := New[int](Config{MaxEntries: most})
	require.Greater(t, len(c.maps), 1)
	for i := range 2 * most {
		c.Set(fmt.Sprint(i), i, time.Hour)
	}
	require.Equal(t, most, c.Len())
	for i := range most {
		_, _, ok := c.Get(fmt.Append(nil, i+most), c.now())
		require.True(t, ok, i)
	}
	check(t, c)
}

// Setting the wall clock back must not lengthen a lifetime, and time that the
// monotonic clock missed, as in a suspended machine, must count.
func TestBothClocksEndALifetime(t *testing.T) {
	wall := testTime
	now := func() time.Time { return wall }
	c := New[int](Config{MaxEntries: 4, Now: now})
	// testTime has no monotonic reading, so that clock's zero is moved instead.
	moveWall := func(d time.Duration) { wall, c.start = wall.Add(d), c.start.Add(d) }
	moveMono := func(d time.Duration) { c.start = c.start.Add(-d) }
	fresh := func() bool {
		_, fresh, ok := c.Get([]byte("a"), c.now())
		require.True(t, ok)
		return fresh
	}
	c.Set("a", 1, time.Hour)
	require.True(t, fresh())
	moveWall(-24 * time.Hour)
	require.True(t, fresh())
	moveMono(time.Hour)
	require.False(t, fresh(), "an hour has passed, whatever the wall clock says")

	c.Set("a", 1, time.Hour)
	require.True(t, fresh())
	moveWall(time.Hour)
	require.False(t, fresh(), "an hour on the wall clock alone")

	// What this process knows to be over, the next one does not take for fresh.
	c.Set("a", 1, time.Hour)
	moveWall(-time.Minute)
	moveMono(2 * time.Hour)
	path := filepath.Join(t.TempDir(), "snapshot")
	require.NoError(t, c.Save(path, func(dst []byte, _ int) []byte { return dst }))
	next := New[int](Config{MaxEntries: 4, Now: now})
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
		c.Get(fmt.Append(nil, i), c.now())
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

// Package cache keeps what has been learned, bounded in number and in time.
//
// Promise: never more than MaxEntries keys, none served as fresh beyond its
// lifetime, one load per key at a time, and a restart forgets nothing that a
// snapshot kept.
//
// Order of eviction: what has expired and was not asked for goes first, then
// the oldest that nobody asked for since the hand last passed it (SIEVE), so an
// indicator that keeps coming is never pushed out by a flood of new ones that
// are seen once.
//
// The maps are go-cache's, with its janitor off and its own expiry unused: its
// janitor walks a whole map under the write lock, and it deletes what could
// still be served as stale. A reader takes only the lock of one map, which is
// then never held for longer than one operation on it; order and expiry are kept
// beside the maps, in shards, under locks that only writers take. Maps are many,
// so that readers seldom meet at a lock; shards are few, since the order of
// eviction is exact only within one.
package cache

import (
	"container/heap"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	gocache "github.com/patrickmn/go-cache"
)

const (
	// entriesPerMap is how many entries are worth a map of their own.
	entriesPerMap = 512
	maxMaps       = 256
	// oneShardBelow is the size from which writers would keep each other waiting
	// for longer than an exact order is worth. From there each shard has about
	// entriesPerShard.
	oneShardBelow   = 64 << 10
	entriesPerShard = 16 << 10

	// maxSteps bounds the work of one eviction. Where this many in a row were
	// asked for, the next goes although it was asked for too: an accepted
	// blemish, since no writer may walk a shard of thousands under its lock.
	maxSteps = 64

	// maxLifetime keeps times far from overflow.
	maxLifetime = 100 * 365 * 24 * time.Hour
)

// Config bounds a cache.
type Config struct {
	MaxEntries int              // at least 1; less counts as 1
	Now        func() time.Time // nil: time.Now
}

// Cache maps keys to values. It is safe for concurrent use.
type Cache[V any] struct {
	max    int64            // constant
	seed   maphash.Seed     // constant
	now    func() time.Time // constant
	start  time.Time        // constant; the monotonic clock's zero
	disk   disk             // constant
	maps   []*gocache.Cache // key to *entry[V]; their number is a constant power of two. Each has its own lock
	shards []shard[V]       // the same, and at most as many

	used    atomic.Int64  // keys that exist or are about to be inserted; never more than max
	stored  atomic.Uint64 // values that were ever stored
	saving  sync.Mutex    // held by Save: one at a time
	saved   kept          // the last that Save wrote; guarded by saving
	flights []flights[V]  // as many as maps
}

// shard is the order of the entries of some of the maps, which are written only
// under its lock.
type shard[V any] struct {
	mu             sync.Mutex  // for writers
	oldest, newest *entry[V]   // list in order of insertion; guarded by mu
	hand           *entry[V]   // next to be looked at by evict, nil: oldest; guarded by mu
	expiring       byExpiry[V] // what evict has not yet seen expired; guarded by mu
}

// entry is one key and its value. A new value is a new entry, so that readers
// need no lock for what does not change.
type entry[V any] struct {
	// What Get reads stands together, to be in one cache line more often than not.
	value   V           // constant
	expires int64       // constant; wall time in nanoseconds
	until   int64       // constant; the end of the lifetime on the monotonic clock
	asked   atomic.Bool // asked for since the hand last passed; set by readers, cleared by writers

	gone atomic.Bool // replaced or evicted; set by writers

	key     string // constant
	created int64  // constant; wall time in nanoseconds

	older, newer *entry[V] // guarded by shard.mu
	index        int       // in shard.expiring, -1: not there; guarded by shard.mu
}

// New makes an empty cache.
func New[V any](cfg Config) *Cache[V] {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Cache[V]{
		max:   int64(max(cfg.MaxEntries, 1)),
		seed:  maphash.MakeSeed(),
		now:   cfg.Now,
		start: cfg.Now(),
		disk:  osDisk{},
	}
	maps, shards := parts(c.max)
	c.maps = make([]*gocache.Cache, maps)
	c.shards = make([]shard[V], shards)
	c.flights = make([]flights[V], maps)
	for i := range c.maps {
		c.maps[i] = gocache.New(gocache.NoExpiration, 0)
		c.flights[i].m = make(map[string]*Flight[V])
	}
	return c
}

// parts is how many maps and shards a cache of so many entries has.
func parts(entries int64) (maps, shards int) {
	maps, shards = 1, 1
	for maps < maxMaps && int64(2*maps)*entriesPerMap <= entries {
		maps *= 2
	}
	for entries >= oneShardBelow && shards < maps && int64(2*shards)*entriesPerShard <= entries {
		shards *= 2
	}
	return maps, shards
}

// clock tells the time twice. The wall clock ends lifetimes over a suspend and a
// restart, the monotonic one when somebody sets the wall clock back: a value is
// fresh only as long as both say so.
func (c *Cache[V]) clock() (wall, mono int64) { return c.times(c.now()) }

// times is a reading of Config.Now by both clocks.
func (c *Cache[V]) times(t time.Time) (wall, mono int64) {
	return t.UnixNano(), int64(t.Sub(c.start))
}

// Get returns the value of key. ok: there is one; fresh: its lifetime is not
// over yet. An expired value stays until it is evicted or replaced, so that it
// can be served as stale. now is what Config.Now said: one reading does for many
// keys, as long as the caller may be late by its age. Get does not allocate and
// does not keep key.
func (c *Cache[V]) Get(key []byte, now time.Time) (v V, fresh, ok bool) {
	// The string shares key's bytes: it is looked up with and then forgotten, so
	// nobody sees it change.
	k := unsafe.String(unsafe.SliceData(key), len(key))
	x, ok := c.maps[c.mapOf(k)].Get(k)
	if !ok {
		return v, false, false
	}
	e := x.(*entry[V])
	if !e.asked.Load() { // a write only where it changes something: hot entries are shared by all cores
		e.asked.Store(true)
	}
	return e.value, e.fresh(c.times(now)), true
}

// Ref is an entry that was found once: who uses a value often need not look for
// it each time. The zero value refers to nothing.
type Ref[V any] struct {
	c *Cache[V]
	e *entry[V]
}

// Ref returns one to the entry of key. It does not count as asking for it.
func (c *Cache[V]) Ref(key []byte) (r Ref[V], ok bool) {
	k := unsafe.String(unsafe.SliceData(key), len(key)) // as in Get
	x, ok := c.maps[c.mapOf(k)].Get(k)
	if !ok {
		return r, false
	}
	return Ref[V]{c, x.(*entry[V])}, true
}

// Get is Cache.Get for the entry's key, but that it is not ok once the entry was
// replaced or evicted, even if another stands in its place.
func (r Ref[V]) Get(now time.Time) (v V, fresh, ok bool) {
	e := r.e
	if e == nil || e.gone.Load() {
		return v, false, false
	}
	if !e.asked.Load() {
		e.asked.Store(true)
	}
	return e.value, e.fresh(r.c.times(now)), true
}

// Set stores a value for the given lifetime. With none (0 or less) it is stale
// at once.
func (c *Cache[V]) Set(key string, v V, lifetime time.Duration) {
	wall, mono := c.clock()
	life := int64(min(max(lifetime, 0), maxLifetime))
	e := &entry[V]{key: key, value: v, created: wall, expires: wall + life, until: mono + life}
	in := c.mapOf(key)
	home := in % len(c.shards)
	for {
		if c.put(&c.shards[home], c.maps[in], e, wall, mono) {
			return
		}
		// The cache is full and none of it lies in this shard: the room is made in
		// another one. Someone else may take it first; then so again.
		for i := range c.shards {
			if c.makeRoom(&c.shards[(home+1+i)%len(c.shards)], wall, mono) {
				break
			}
		}
	}
}

// put stores e in its shard and map. It is false where that would be one key too many
// and the shard has none to give.
func (c *Cache[V]) put(s *shard[V], m *gocache.Cache, e *entry[V], wall, mono int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := m.Get(e.key); ok {
		old := x.(*entry[V])
		e.asked.Store(old.asked.Load())
		s.unlink(old)
	} else if !c.reserve() {
		if s.oldest == nil {
			return false
		}
		c.evict(s, wall, mono) // its place is ours
	}
	c.stored.Add(1)
	s.linkNewest(e)
	m.Set(e.key, e, gocache.NoExpiration)
	return true
}

// makeRoom gives up an entry of s, if there is one.
func (c *Cache[V]) makeRoom(s *shard[V], wall, mono int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.oldest == nil {
		return false
	}
	c.evict(s, wall, mono)
	c.used.Add(-1)
	return true
}

// reserve takes one of the places.
func (c *Cache[V]) reserve() bool {
	for {
		n := c.used.Load()
		if n >= c.max {
			return false
		}
		if c.used.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Len is the number of keys, stale ones included.
func (c *Cache[V]) Len() int { return int(c.used.Load()) }

// mapOf is the number of key's map, and modulo their number that of its shard.
func (c *Cache[V]) mapOf(key string) int {
	return int(maphash.String(c.seed, key) & uint64(len(c.maps)-1))
}

// fresh: the lifetime is not over by either clock.
func (e *entry[V]) fresh(wall, mono int64) bool { return wall < e.expires && mono < e.until }

// evict takes one entry out of a shard that has one. The caller holds s.mu.
func (c *Cache[V]) evict(s *shard[V], wall, mono int64) {
	e := s.victim(wall, mono)
	s.unlink(e)
	c.maps[c.mapOf(e.key)].Delete(e.key)
}

// victim is the entry that goes next. The caller holds s.mu and takes it out.
func (s *shard[V]) victim(wall, mono int64) *entry[V] {
	for range maxSteps {
		if len(s.expiring) == 0 || s.expiring[0].fresh(wall, mono) {
			break
		}
		e := heap.Pop(&s.expiring).(*entry[V])
		if !e.asked.Load() {
			return e
		}
		// Expired, but asked for: it may be all there is to serve while the source
		// is away. From here on it takes its chance with the rest.
	}
	e := s.hand
	for range maxSteps {
		if e == nil {
			e = s.oldest
		}
		if !e.asked.Load() {
			break
		}
		e.asked.Store(false)
		e = e.newer
	}
	if e == nil {
		e = s.oldest
	}
	s.hand = e
	return e
}

// unlink takes e out of the order: it is the cache's own no more. The caller holds s.mu.
func (s *shard[V]) unlink(e *entry[V]) {
	e.gone.Store(true)
	if s.hand == e {
		s.hand = e.newer
	}
	if e.older == nil {
		s.oldest = e.newer
	} else {
		e.older.newer = e.newer
	}
	if e.newer == nil {
		s.newest = e.older
	} else {
		e.newer.older = e.older
	}
	e.older, e.newer = nil, nil
	if e.index >= 0 {
		heap.Remove(&s.expiring, e.index)
	}
}

// linkNewest puts e into the order, as the last to go. The caller holds s.mu.
func (s *shard[V]) linkNewest(e *entry[V]) {
	e.older = s.newest
	if s.newest == nil {
		s.oldest = e
	} else {
		s.newest.newer = e
	}
	s.newest = e
	heap.Push(&s.expiring, e)
}

// linkOldest puts e into the order, before all that is there. The caller holds s.mu.
func (s *shard[V]) linkOldest(e *entry[V]) {
	e.newer = s.oldest
	if s.oldest == nil {
		s.newest = e
	} else {
		s.oldest.older = e
	}
	s.oldest = e
	heap.Push(&s.expiring, e)
}

// byExpiry is a heap: the first to expire stands first.
type byExpiry[V any] []*entry[V]

func (h byExpiry[V]) Len() int           { return len(h) }
func (h byExpiry[V]) Less(i, j int) bool { return h[i].expires < h[j].expires }

func (h byExpiry[V]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *byExpiry[V]) Push(x any) {
	e := x.(*entry[V])
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *byExpiry[V]) Pop() any {
	old := *h
	n := len(old) - 1
	e := old[n]
	old[n] = nil
	*h = old[:n]
	e.index = -1
	return e
}

// Package cache keeps what has been learned, bounded in number and in time.
//
// Promise: never more than MaxEntries keys, none served as fresh beyond its
// lifetime, one load per key at a time, and a restart forgets nothing that a
// snapshot kept.
package cache

import "time"

// Config bounds a cache.
type Config struct {
	MaxEntries int              // at least 1
	Now        func() time.Time // nil: time.Now
}

// Cache maps keys to values. It is safe for concurrent use.
type Cache[V any] struct{}

// New makes an empty cache.
func New[V any](cfg Config) *Cache[V] { panic("not written yet") }

// Get returns the value of key. ok: there is one; fresh: its lifetime is not
// over yet. An expired value stays until it is evicted or replaced, so that it
// can be served as stale. Get does not allocate and does not keep key.
func (c *Cache[V]) Get(key []byte) (v V, fresh, ok bool) { panic("not written yet") }

// Set stores a value for the given lifetime.
func (c *Cache[V]) Set(key string, v V, lifetime time.Duration) { panic("not written yet") }

// Len is the number of keys, stale ones included.
func (c *Cache[V]) Len() int { panic("not written yet") }

// Flight is the one load of a key that is under way. The leader ends it with
// Finish exactly once; others wait on Done.
type Flight[V any] struct{}

// Join returns the load of key that is under way, or starts one: then leader is
// true and the caller must Finish it.
func (c *Cache[V]) Join(key string) (f *Flight[V], leader bool) { panic("not written yet") }

// Done is closed when the load has ended.
func (f *Flight[V]) Done() <-chan struct{} { panic("not written yet") }

// Result is the load's outcome; valid once Done is closed.
func (f *Flight[V]) Result() (V, error) { panic("not written yet") }

// Finish ends the load and wakes all that wait. It stores nothing: what an
// answer is stored under (Set) is the caller's decision, made before.
func (f *Flight[V]) Finish(v V, err error) { panic("not written yet") }

// Save writes a snapshot: atomic (temporary file, fsync, rename, fsync of the
// folder), 0600, with a version and checksums.
func (c *Cache[V]) Save(path string, encode func(dst []byte, v V) []byte) error {
	panic("not written yet")
}

// Load reads a snapshot into the cache and returns the number of entries. No
// file is no error. A damaged one is set aside (renamed to path.damaged-<UTC
// time>) and reported as a *DamagedError; what could not be trusted is not loaded.
func (c *Cache[V]) Load(path string, decode func([]byte) (V, error)) (int, error) {
	panic("not written yet")
}

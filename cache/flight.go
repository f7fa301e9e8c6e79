package cache

import "sync"

// flights are the loads under way of one map's keys.
type flights[V any] struct {
	mu sync.Mutex
	m  map[string]*Flight[V] // guarded by mu
}

// Flight is the one load of a key that is under way. The leader ends it with
// Finish exactly once, whatever happens to the load; others wait on Done. A
// leader that never does leaves them waiting: give the wait a bound.
type Flight[V any] struct {
	home *flights[V] // constant
	key  string      // constant
	done chan struct{}

	// Written by Finish before done is closed, constant from then on.
	value V
	err   error
}

// Join returns the load of key that is under way, or starts one: then leader is
// true and the caller must Finish it. Between a look into the cache and Join a
// load may have ended: a leader looks once more.
func (c *Cache[V]) Join(key string) (f *Flight[V], leader bool) {
	home := &c.flights[c.mapOf(key)]
	home.mu.Lock()
	defer home.mu.Unlock()
	if f, ok := home.m[key]; ok {
		return f, false
	}
	f = &Flight[V]{home: home, key: key, done: make(chan struct{})}
	home.m[key] = f
	return f, true
}

// Done is closed when the load has ended.
func (f *Flight[V]) Done() <-chan struct{} { return f.done }

// Result is the load's outcome; valid once Done is closed.
func (f *Flight[V]) Result() (V, error) { return f.value, f.err }

// Finish ends the load and wakes all that wait. It stores nothing: what an
// answer is stored under (Set) is the caller's decision, made before. A second
// Finish is a mistake in the program and panics.
func (f *Flight[V]) Finish(v V, err error) {
	f.home.mu.Lock()
	if f.home.m[f.key] != f {
		f.home.mu.Unlock()
		panic("cache: a flight was finished twice")
	}
	delete(f.home.m, f.key)
	f.home.mu.Unlock()
	f.value, f.err = v, err
	close(f.done)
}

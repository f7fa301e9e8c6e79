package main

import (
	"runtime/debug"
	"time"

	"vtsidecar/configs"
)

const (
	// gcPercent makes the collector run at half again of what lives, not at
	// double: nearly all memory is pooled, so collections are rare either way.
	gcPercent = 50

	answerBytes = 4 << 10 // an entry of the cache with its engines; most take half of that
	limitEvery  = 5 * time.Second
)

// memoryLimit is what the garbage collector works against: the contract's bound,
// with as many entries as the cache has, less a share for what the collector
// does not count (stacks, the runtime itself, the kernel's part of sockets).
// Above it all that is not alive is collected at once; with 1,000 busy clients about
// 60 MiB lie between the two.
func memoryLimit(cfg *configs.Config, entries int) int64 {
	return cfg.Input.Memory + int64(entries)*answerBytes + outputMemory(cfg) + 80<<20
}

// keepMemoryLimit sets the limit, and again when the cache has grown, until stop
// is called; then it is what it was before.
func keepMemoryLimit(cfg *configs.Config, entries func() int) (stop func()) {
	before := debug.SetMemoryLimit(memoryLimit(cfg, entries()))
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(limitEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				debug.SetMemoryLimit(memoryLimit(cfg, entries()))
			case <-end:
				return
			}
		}
	}()
	return func() {
		close(end)
		<-done
		debug.SetMemoryLimit(before)
	}
}

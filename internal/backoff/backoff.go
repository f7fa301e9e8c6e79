// Package backoff says how long to leave alone what has failed.
//
// Promise: the pauses grow, never beyond a minute, and differ by chance, so that
// a fleet does not come back all at once.
package backoff

import (
	"math/rand/v2"
	"time"
)

// The shortest and the longest pause.
const (
	First = time.Second
	Most  = time.Minute
)

// After is the pause after so many failures in a row, one or more: 1 s, doubled
// each time up to 60 s, less up to a third of it by chance, though never under 1 s.
func After(failures int) time.Duration {
	d := Most
	if failures < 7 {
		d = min(First<<max(failures-1, 0), Most)
	}
	return max(d-rand.N(d/3+1), First)
}

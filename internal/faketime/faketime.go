// Package faketime is for tests that run in a bubble of testing/synctest.
//
// Promise: no test sleeps by it; outside of a bubble it fails the test instead.
package faketime

import (
	"testing"
	"time"
)

// began is when the clock of every bubble stands at first, or soon after; the
// world's is past it for good.
const began = 2000

// Pass lets time pass on the bubble's clock: nobody waits for it. Outside of a
// bubble, where it would be a sleep, the test fails at once.
func Pass(t testing.TB, d time.Duration) {
	t.Helper()
	if now := time.Now(); now.Year() > began+20 {
		t.Errorf("time passes by itself in a bubble only, and it is %v here: wait for the thing itself", now)
		return
	}
	<-time.After(d)
}

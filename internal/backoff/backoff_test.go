package backoff_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"vtsidecar/internal/backoff"
)

func TestAfter(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 5: 16 * time.Second,
		6: 32 * time.Second, 7: time.Minute, 8: time.Minute, 64: time.Minute, 1 << 40: time.Minute,
	} {
		seen := map[time.Duration]bool{}
		for range 100 {
			d := backoff.After(failures)
			assert.LessOrEqual(t, d, want, failures)
			assert.GreaterOrEqual(t, d, max(want*2/3, time.Second), failures)
			seen[d] = true
		}
		assert.Equal(t, want == time.Second, len(seen) == 1, "by chance, after %d", failures)
	}
}

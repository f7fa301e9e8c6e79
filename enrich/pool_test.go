package enrich

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// A burst of batches that need much leaves nothing behind that lasts: neither do all
// later ones reserve as much, nor is the pool full of what nobody takes.
func TestPoolForgetsABurst(t *testing.T) {
	const giant, usual = 6 << 20, 3 << 19
	var p pool
	// side is so many works side by side, and how many found memory in the pool.
	side := func(n int, size int64) (found int) {
		var works []kept
		for range n {
			k := p.take(1<<20, p.need(1<<20))
			if k.size > 0 {
				found++
			}
			works = append(works, kept{k.s, max(k.size, size)})
		}
		for _, k := range works {
			p.give(k.s, k.size, 1<<20)
		}
		return found
	}
	side(16, giant)
	for range 3000 {
		side(2, usual)
	}
	assert.LessOrEqual(t, p.need(1<<20), int64(2*usual))
	side(24, usual)
	assert.Equal(t, 24, side(24, usual), "there is no room for what is used")
	for class := range p.kept {
		var sum int64
		for _, k := range p.kept[class] {
			sum += k.size
		}
		assert.Equal(t, sum, p.bytes[class])
	}
}

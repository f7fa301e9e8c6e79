package enrich

import (
	"slices"
	"sync"
)

// pool keeps the working memory of a few batches: small ones apart, so that a
// window of fifty events does not hold the memory of one of two thousand.
type pool struct {
	mu      sync.Mutex // guards all below
	kept    [2][]kept
	bytes   [2]int64 // of kept
	typical [2]int64 // bytes of the largest that was given lately
}

// kept is memory that nobody uses, and how many bytes that is.
type kept struct {
	s    *scratch
	size int64
}

const (
	smallScratch = 512 << 10
	smallKept    = 8 << 20  // bytes of small ones
	largeScratch = 5 << 20  // beside a portion; what is larger is not kept
	largeKept    = 48 << 20 // bytes of large ones
	smallBatch   = 128 << 10
	mostUses     = 256 // of one: it never shrinks
)

func class(batchBytes int) int {
	if batchBytes > smallBatch {
		return 1
	}
	return 0
}

// need is how many bytes a batch should reserve before it takes. Who has to wait
// for them must not hold what is kept for others meanwhile, nor be half done:
// hundreds may wait.
func (p *pool) need(batchBytes int) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := p.typical[class(batchBytes)]
	return most + most/8 // while it waits, larger ones may be given; see give
}

// take returns memory of at most so many bytes, new memory where it has none.
func (p *pool) take(batchBytes int, most int64) kept {
	p.mu.Lock()
	defer p.mu.Unlock()
	class := class(batchBytes)
	list := &p.kept[class]
	for i := len(*list) - 1; i >= 0; i-- {
		if k := (*list)[i]; k.size <= most {
			*list = slices.Delete(*list, i, i+1)
			p.bytes[class] -= k.size
			return k
		}
	}
	return kept{s: new(scratch)}
}

// give takes memory back. A few large batches must not leave the pool full of
// what is too large to be taken ever after, nor everybody with more than is needed.
func (p *pool) give(s *scratch, size, portion int64) {
	class, most := 0, int64(smallKept)
	s.uses++
	switch {
	case size > largeScratch+portion || s.uses == mostUses:
		return
	case size > smallScratch:
		class, most = 1, largeKept
	}
	s.forget()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.typical[class] = max(size, p.typical[class]-p.typical[class]/64)
	largest := p.typical[class] + p.typical[class]/8
	p.kept[class] = slices.DeleteFunc(p.kept[class], func(k kept) bool {
		if k.size > largest {
			p.bytes[class] -= k.size
			return true
		}
		return false
	})
	if p.bytes[class]+size <= most {
		p.kept[class] = append(p.kept[class], kept{s, size})
		p.bytes[class] += size
	}
}

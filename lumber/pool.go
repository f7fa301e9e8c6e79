package lumber

// Memory that goes round. What is in use is charged to the budget by who uses
// it; what lies here is not, so every list is bounded and all of them together
// stay under about 20 MiB, whatever the load was.

import (
	"bufio"
	"sync"
	"unsafe"

	"vtsidecar/internal/event"
)

const (
	smallChunk = 16 << 10 // the first chunk of a batch: small windows are common
	bigChunk   = 64 << 10 // all others
	wireBuffer = 32 << 10 // what is read from a socket at once

	keptSmall  = 128
	keptBig    = 160
	keptRigs   = 32
	keptWires  = 32
	keptEvents = 512 << 10 // bytes, per size

	eventSize = int64(unsafe.Sizeof(event.Event{}))
	// oversizeSize is charged for each event.Oversize, its hash state included.
	oversizeSize = 256
	// rigCharge is a rig: a buffer, the inflater's history (32 KiB) and tables.
	rigCharge = wireBuffer + 48<<10
)

// rig is what inflates the compressed frames of a window.
type rig struct {
	frame  *bufio.Reader
	limit  limited    // the compressed frame under frame
	stream zlibReader // over frame
}

type pool struct {
	mu     sync.Mutex
	small  [][]byte
	big    [][]byte
	rigs   []*rig
	wires  [][]byte
	events [9][][]event.Event // capacities 64 << i
}

// chunkSize is the capacity of a chunk for n bytes and the sentinel.
func chunkSize(n int) int {
	switch n += event.Sentinel; {
	case n <= smallChunk:
		return smallChunk
	case n <= bigChunk:
		return bigChunk
	default:
		return n
	}
}

// chunk returns a chunk of a size that chunkSize gave. Its bytes are undefined.
func (p *pool) chunk(size int) []byte {
	var list *[][]byte
	switch size {
	case smallChunk:
		list = &p.small
	case bigChunk:
		list = &p.big
	default:
		return make([]byte, size)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if b, ok := pop(list); ok {
		return b
	}
	return make([]byte, size)
}

func (p *pool) freeChunk(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(b) == smallChunk && len(p.small) < keptSmall:
		p.small = append(p.small, b)
	case len(b) == bigChunk && len(p.big) < keptBig:
		p.big = append(p.big, b)
	}
}

func (p *pool) rig() *rig {
	p.mu.Lock()
	r, ok := pop(&p.rigs)
	p.mu.Unlock()
	if !ok {
		r = &rig{frame: bufio.NewReaderSize(nil, wireBuffer)}
	}
	return r
}

func (p *pool) freeRig(r *rig) {
	r.limit = limited{}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rigs) < keptRigs {
		p.rigs = append(p.rigs, r)
	}
}

// wire returns a buffer for what comes from a socket.
func (p *pool) wire() []byte {
	p.mu.Lock()
	b, ok := pop(&p.wires)
	p.mu.Unlock()
	if !ok {
		b = make([]byte, wireBuffer)
	}
	return b
}

func (p *pool) freeWire(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wires) < keptWires {
		p.wires = append(p.wires, b)
	}
}

// eventsCap is the next capacity above n events.
func eventsCap(n int) int {
	c := 64
	for c <= n {
		c *= 2
	}
	return c
}

func eventsClass(c int) int {
	for i := range len(pool{}.events) {
		if c == 64<<i {
			return i
		}
	}
	return -1
}

func (p *pool) eventSlice(c int) []event.Event {
	if i := eventsClass(c); i >= 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s, ok := pop(&p.events[i]); ok {
			return s
		}
	}
	return make([]event.Event, 0, c)
}

func (p *pool) freeEvents(s []event.Event) {
	i := eventsClass(cap(s))
	if i < 0 {
		return
	}
	clear(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	if int64(len(p.events[i])+1)*int64(cap(s))*eventSize <= keptEvents {
		p.events[i] = append(p.events[i], s[:0])
	}
}

func pop[T any](list *[]T) (T, bool) {
	var t, zero T
	n := len(*list) - 1
	if n < 0 {
		return t, false
	}
	t, (*list)[n] = (*list)[n], zero
	*list = (*list)[:n]
	return t, true
}

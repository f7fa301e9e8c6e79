//go:build unix

package scan

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// Loads are not checked, so this holds them to their rule: right behind the
// event's sentinel begins memory that nobody may read.
func TestReadsNoFurtherThanTheSentinel(t *testing.T) {
	page := os.Getpagesize()
	room := 8 * page
	mem, err := syscall.Mmap(-1, 0, room+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	require.NoError(t, err)
	defer func() { require.NoError(t, syscall.Munmap(mem)) }()
	require.NoError(t, syscall.Mprotect(mem[room:], syscall.PROT_NONE))
	s, err := New(Config{Fields: fuzzFields})
	require.NoError(t, err)
	var r Result
	for _, fill := range []byte("\"\\{[:,0 ta\xff") {
		for i := room - event.Sentinel; i < room; i++ {
			mem[i] = fill
		}
		for _, doc := range fuzzSeeds {
			for n := range len(doc) + 1 {
				if n > 300 && n < len(doc)-2 {
					continue
				}
				raw := mem[room-event.Sentinel-n : room-event.Sentinel : room]
				copy(raw, doc)
				_, refErr := refParse(raw)
				require.Equal(t, refErr == nil, s.Scan(raw, &r) == nil, "%q", doc[:n])
			}
		}
	}
}

package output_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
	"vtsidecar/output"
)

// BenchmarkStore stores portions of 2 MiB, alone and from several windows at
// once, and tells how many syncs each took.
func BenchmarkStore(b *testing.B) {
	line := append(bytes.Repeat([]byte("x"), 1023), '\n')
	lines := &event.Lines{}
	for len(lines.Buf) < 2<<20 {
		lines.Buf = append(lines.Buf, line...)
		lines.Index = append(lines.Index, event.Line{End: len(lines.Buf)})
	}
	for _, writers := range []int{1, 8} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			real := &countingFS{}
			f, err := output.OpenFile(output.FileConfig{Path: filepath.Join(b.TempDir(), "events.ndjson"), RotateBytes: 100 << 20, FS: real})
			require.NoError(b, err)
			defer f.Close(background)
			b.SetBytes(int64(len(lines.Buf)))
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if err := f.Store(background, lines); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(real.syncs.Load())/float64(b.N), "syncs/op")
			b.ReportMetric(float64(real.writes.Load())/float64(b.N), "writes/op")
		})
	}
}

// countingFS is the real file system, counted.
type countingFS struct {
	output.RealFS
	writes, syncs atomic.Int64
}

func (c *countingFS) Create(name string, perm fs.FileMode) (output.Handle, error) {
	h, err := c.RealFS.Create(name, perm)
	return countingHandle{h, c}, err
}

type countingHandle struct {
	output.Handle
	c *countingFS
}

func (h countingHandle) Append(bufs [][]byte) error {
	h.c.writes.Add(1)
	return h.Handle.Append(bufs)
}

func (h countingHandle) Sync() error {
	h.c.syncs.Add(1)
	return h.Handle.Sync()
}

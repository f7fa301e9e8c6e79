package output_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
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

// BenchmarkCompress tells what a closed file costs, in the background and off
// every event's way.
func BenchmarkCompress(b *testing.B) {
	var lines bytes.Buffer
	for n := 0; lines.Len() < 32<<20; n++ {
		fmt.Fprintf(&lines, `{"@timestamp":"2026-01-02T03:04:%02d.%03dZ","log":{"offset":%d,"file":{"path":"/var/log/app.log"}},"agent":{"type":"filebeat","version":"9.0.0"},`+
			`"source":{"ip":"203.0.113.%d"},"message":"request %x of user %d served in %d ms","arcanna":{"ioc":{"event_id":"%016x%016x","schema":1,`+
			`"global":{"result":"harmless","status":"complete","checked_count":1},"source":{"ip":{"value":"203.0.113.%d","type":"ip","result":"harmless","status":"found"}}}}}`+"\n",
			n/1000%60, n%1000, n*183, n%256, n*2654435761, n%5000, n%97, uint64(n)*0x9E3779B97F4A7C15, uint64(n)*0xC2B2AE3D27D4EB4F, n%256)
	}
	name := filepath.Join(b.TempDir(), "events-20260102T030405-1.ndjson")
	b.SetBytes(int64(lines.Len()))
	for range b.N {
		b.StopTimer()
		require.NoError(b, os.WriteFile(name, lines.Bytes(), 0o600))
		removed := make(chan string, 3)
		b.StartTimer()
		f, err := output.OpenFile(output.FileConfig{Path: filepath.Join(filepath.Dir(name), "events.ndjson"), Compress: true, FS: removalFS{removed: removed}})
		require.NoError(b, err)
		for <-removed != name {
		}
		b.StopTimer()
		info, err := os.Stat(name + ".gz")
		require.NoError(b, err)
		b.ReportMetric(float64(lines.Len())/float64(info.Size()), "ratio")
		require.NoError(b, f.Close(background))
		require.NoError(b, os.Remove(name+".gz"))
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

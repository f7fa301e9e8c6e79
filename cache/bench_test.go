package cache_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	gocache "github.com/patrickmn/go-cache"

	"vtsidecar/cache"
)

func benchKeys(n int) [][]byte {
	keys := make([][]byte, n)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "ip:10.%d.%d.%d", i>>16, i>>8&255, i&255)
	}
	return keys
}

func filled(entries int, keys [][]byte) *cache.Cache[string] {
	c := cache.New[string](cache.Config{MaxEntries: entries})
	for _, key := range keys {
		c.Set(string(key), "v", 7*24*time.Hour)
	}
	return c
}

// Get of keys that are there; go-cache's own, which cannot serve bytes, beside it.
func BenchmarkGet(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		keys := benchKeys(n)
		b.Run(fmt.Sprintf("entries=%d/of=cache", n), func(b *testing.B) {
			c := filled(n, keys)
			now := time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, fresh, ok := c.Get(keys[i*7919%n], now); !fresh || !ok {
					b.Fatal("not there")
				}
			}
		})
		b.Run(fmt.Sprintf("entries=%d/of=cache/parallel", n), func(b *testing.B) {
			c := filled(n, keys)
			now := time.Now()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(n); pb.Next(); i += 7919 {
					if _, fresh, ok := c.Get(keys[i%n], now); !fresh || !ok {
						b.Fatal("not there")
					}
				}
			})
		})
		b.Run(fmt.Sprintf("entries=%d/of=go-cache", n), func(b *testing.B) {
			c := gocache.New(time.Hour, 0)
			for _, key := range keys {
				c.SetDefault(string(key), "v")
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, ok := c.Get(string(keys[i*7919%n])); !ok {
					b.Fatal("not there")
				}
			}
		})
	}
}

func BenchmarkSet(b *testing.B) {
	const n = 1_000_000
	keys := benchKeys(2 * n)
	c := filled(n, keys[:n])
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Set(string(keys[i%len(keys)]), "v", time.Hour)
	}
}

// Get in a full cache of a million entries, while another goroutine inserts
// without a pause and most entries expire as they go. The figures in
// percentiles hold what the scheduler adds where there are few cores.
func BenchmarkGetWhileInserting(b *testing.B) {
	const n = 1_000_000
	keys := benchKeys(2 * n)
	c := filled(n, keys[:n])
	stop := make(chan struct{})
	var inserting sync.WaitGroup
	inserts := 0
	inserting.Go(func() {
		for i := n; ; i++ {
			select {
			case <-stop:
				return
			default:
				c.Set(string(keys[i%len(keys)]), "v", time.Millisecond)
				inserts++
			}
		}
	})
	took := make([]time.Duration, 0, 1<<20)
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		c.Get(keys[i*7919%len(keys)], start)
		if d := time.Since(start); len(took) < cap(took) {
			took = append(took, d)
		} else {
			took[i%len(took)] = d
		}
	}
	close(stop)
	inserting.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100]), "ns-p99")
	b.ReportMetric(float64(took[len(took)*999/1000]), "ns-p99.9")
	b.ReportMetric(float64(inserts)/b.Elapsed().Seconds(), "inserts/s")
}

func BenchmarkLoad(b *testing.B) {
	const n = 10_000
	value := make([]byte, 1000)
	path := filepath.Join(b.TempDir(), "s")
	c := cache.New[[]byte](cache.Config{MaxEntries: n})
	for _, key := range benchKeys(n) {
		c.Set(string(key), value, time.Hour)
	}
	if err := c.Save(path, func(dst, v []byte) []byte { return append(dst, v...) }); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c := cache.New[[]byte](cache.Config{MaxEntries: n})
		if got, err := c.Load(path, func(v []byte) ([]byte, error) { return append([]byte(nil), v...), nil }); got != n || err != nil {
			b.Fatal(got, err)
		}
	}
}

// Save of a cache in which one value has changed since the last time.
func BenchmarkSave(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			value := make([]byte, 300)
			c := cache.New[[]byte](cache.Config{MaxEntries: n})
			keys := benchKeys(n)
			for _, key := range keys {
				c.Set(string(key), value, time.Hour)
			}
			path := filepath.Join(b.TempDir(), "s")
			b.ReportAllocs()
			for b.Loop() {
				c.Set(string(keys[0]), value, time.Hour)
				if err := c.Save(path, func(dst, v []byte) []byte { return append(dst, v...) }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

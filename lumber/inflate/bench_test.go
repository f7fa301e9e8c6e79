package inflate

import (
	"bufio"
	"bytes"
	stdflate "compress/flate"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/require"
)

// BenchmarkWindows inflates windows of 2048 events, as Filebeat sends them, with
// the standard library, klauspost's and this package in turn, and reports the
// medians of the ratios in one run.
func BenchmarkWindows(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var windows [][]byte
	size := 0
	for i := range 8 {
		w := window(rnd, i*2048, 2048)
		size += len(w)
		windows = append(windows, deflated(b, w, 3))
	}
	in := bufio.NewReaderSize(nil, 32<<10)
	chunk := make([]byte, 64<<10)
	drain := func(z io.Reader, again func()) time.Duration {
		t := time.Now()
		n := 0
		for _, w := range windows {
			in.Reset(bytes.NewReader(w))
			again()
			for {
				m, err := z.Read(chunk)
				n += m
				if err == io.EOF {
					break
				}
				require.NoError(b, err)
			}
		}
		require.Equal(b, size, n)
		return time.Since(t)
	}
	std, klaus, ours := stdflate.NewReader(in), flate.NewReader(in), newReader(in)
	var klausToStd, oursToStd, oursToKlaus []float64
	var total time.Duration
	for b.Loop() {
		s := drain(std, func() { _ = std.(stdflate.Resetter).Reset(in, nil) })
		k := drain(klaus, func() { _ = klaus.(flate.Resetter).Reset(in, nil) })
		o := drain(ours, func() { ours.Reset(in) })
		klausToStd = append(klausToStd, float64(k)/float64(s))
		oursToStd = append(oursToStd, float64(o)/float64(s))
		oursToKlaus = append(oursToKlaus, float64(o)/float64(k))
		total += o
	}
	median := func(r []float64) float64 { slices.Sort(r); return r[len(r)/2] }
	b.ReportMetric(median(klausToStd), "klauspost/std")
	b.ReportMetric(median(oursToStd), "ours/std")
	b.ReportMetric(median(oursToKlaus), "ours/klauspost")
	b.ReportMetric(float64(total.Nanoseconds())/float64(b.N*8*2048), "ns/event")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRead is this package alone, for profiles.
func BenchmarkRead(b *testing.B) {
	w := window(rand.New(rand.NewPCG(1, 2)), 0, 2048)
	z := deflated(b, w, 3)
	in := bufio.NewReaderSize(nil, 32<<10)
	src := bytes.NewReader(nil)
	r := newReader(in)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(w)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(z)
		in.Reset(src)
		r.Reset(in)
		for {
			if _, err := r.Read(chunk); err != nil {
				break
			}
		}
	}
}

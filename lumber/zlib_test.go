package lumber

import (
	"bytes"
	"hash/adler32"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// The library's sum is the reference: of every length up to a few blocks, of the
// largest bytes, of bytes that differ by place, in one piece and in several.
func TestAdler32(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	full := bytes.Repeat([]byte{0xff}, 3<<20)
	for _, p := range [][]byte{noise, full} {
		for n := range 700 {
			require.Equal(t, adler32.Checksum(p[:n]), addAdler32(1, p[:n]), n)
		}
		for _, n := range []int{1 << 20, 1<<20 + 1, 1<<20 + 129, len(p)} {
			require.Equal(t, adler32.Checksum(p[:n]), addAdler32(1, p[:n]), n)
		}
		sum := uint32(1)
		for rest := p; len(rest) > 0; {
			n := min(len(rest), rnd.IntN(100_000))
			sum = addAdler32(sum, rest[:n])
			rest = rest[n:]
		}
		require.Equal(t, adler32.Checksum(p), sum)
	}
}

func BenchmarkAdler32(b *testing.B) {
	p := bytes.Repeat([]byte(`{"message":"x"}`), 4096)
	b.Run("here", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			addAdler32(1, p)
		}
	})
	b.Run("library", func(b *testing.B) {
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			adler32.Checksum(p)
		}
	})
}

package inflate

import (
	"bufio"
	"bytes"
	stdflate "compress/flate"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unsafe"

	"github.com/klauspost/compress/flate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// readAll reads to the end with pieces of sizes in turn, for ever the last one.
// It complains about what an io.Reader must not do.
func readAll(t testing.TB, r io.Reader, sizes ...int) ([]byte, error) {
	t.Helper()
	var all []byte
	p := make([]byte, slices.Max(sizes))
	for i := 0; ; i++ {
		size := sizes[min(i, len(sizes)-1)]
		n, err := r.Read(p[:size])
		if n < 0 || n > size || n == 0 && err == nil {
			t.Fatalf("%d bytes into %d, %v", n, size, err)
		}
		all = append(all, p[:n]...)
		if err != nil {
			again, same := r.Read(p[:size])
			require.Zero(t, again, "after an error")
			require.Equal(t, err, same, "errors are final")
			return all, err
		}
	}
}

const tail = "what stands behind"

// datas are of all kinds that a compressor treats differently.
func datas() map[string][]byte {
	rnd := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, windowSize+1)
	skewed := make([]byte, len(noise))
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
		skewed[i] = byte(rnd.ExpFloat64() * 12)
	}
	patterns := []byte("begin")
	for d := range 40 {
		patterns = append(patterns, bytes.Repeat(noise[d*50:d*50+d+1], 1+600/(d+1))...)
	}
	return map[string][]byte{
		"nothing":  nil,
		"one":      {'x'},
		"events":   window(rnd, 0, 70),
		"zeros":    make([]byte, 100_000),
		"noise":    noise[:20_000],
		"skewed":   skewed[:20_000],
		"hex":      []byte(strings.Repeat("0123456789abcdef", 10) + hexOf(noise[:5000])),
		"patterns": patterns,
		"far":      bytes.Repeat(noise[:windowSize], 2),
		"too far":  bytes.Repeat(noise[:windowSize+1], 2),
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// What compressors make comes out as it went in, however it arrives and in
// whatever pieces it is taken, and nothing behind it is touched.
func TestRoundTrips(t *testing.T) {
	type compressor struct {
		name string
		w    interface {
			io.WriteCloser
			Flush() error
			Reset(io.Writer)
		}
	}
	var compressors []compressor
	for level := stdflate.HuffmanOnly; level <= stdflate.BestCompression; level++ {
		std, err := stdflate.NewWriter(nil, level)
		require.NoError(t, err)
		other, err := flate.NewWriter(nil, level)
		require.NoError(t, err)
		compressors = append(compressors, compressor{"standard", std}, compressor{"klauspost", other})
	}
	r := newReader(nil)
	for name, data := range datas() {
		t.Run(name, func(t *testing.T) {
			for i, c := range compressors {
				var z bytes.Buffer
				w := c.w
				w.Reset(&z)
				// A flush in the middle makes an empty stored block.
				_, err := w.Write(data[:len(data)/3])
				require.NoError(t, err)
				require.NoError(t, w.Flush())
				_, err = w.Write(data[len(data)/3:])
				require.NoError(t, err)
				require.NoError(t, w.Close())
				z.WriteString(tail)

				ways := []struct {
					arrives func(io.Reader) io.Reader
					buffer  int
					sizes   []int
				}{
					{func(r io.Reader) io.Reader { return r }, 32 << 10, []int{64 << 10}},
					{func(r io.Reader) io.Reader { return r }, 16, []int{5000, 1, 2, 700, 330, 329, 328, 327, 4096}},
					{iotest.HalfReader, 4096, []int{3, 10_000}},
					{iotest.OneByteReader, 4096, []int{1000}},
					{iotest.DataErrReader, 4096, []int{1, 1, 1, 32767, 1, 64 << 10}},
				}
				if i >= 8 {
					ways = ways[:2] // the odd ones on a few levels are enough
				}
				for _, way := range ways {
					in := bufio.NewReaderSize(way.arrives(bytes.NewReader(z.Bytes())), way.buffer)
					r.Reset(in)
					got, err := readAll(t, r, way.sizes...)
					require.Equal(t, io.EOF, err, "%s %v", c.name, way.sizes)
					require.True(t, bytes.Equal(data, got), "%s %v", c.name, way.sizes)
					rest, err := io.ReadAll(in)
					require.NoError(t, err)
					require.Equal(t, tail, string(rest), "%s %v", c.name, way.sizes)
				}
			}
		})
	}
}

// small is a stream with blocks of all types, matches that overlap, and
// codes longer than the first tables' indices; and what it holds.
func small(t testing.TB) (stream, data []byte) {
	long := map[int]int{endOfBlock: 15, 'z': 15, 257 + 7: 14, 'y': 13, 'x': 12, 'w': 11, 'v': 10, 'u': 9, 't': 8, 's': 7, 'r': 6, 'q': 5, 'p': 4, 'o': 3, 'n': 2, 'm': 1}
	// Codes in the order of lengths, then of symbols.
	code := func(symbol int) (int, int) {
		next := 0
		for l := 1; l <= 15; l++ {
			for s := range maxLitlen {
				if long[s] == l {
					if s == symbol {
						return next, l
					}
					next++
				}
			}
			next *= 2
		}
		panic("no such code")
	}
	w := &bitWriter{}
	w.bits(0, 1).bits(1, 2).text("fixed,").fixed(265).bits(1, 1).code(2, 5).text("!").fixed(endOfBlock) // 12 bytes, 3 behind
	w.bits(0, 3).align().bits(6, 16).bits(^6, 16).bytes("stored")
	w.bits(0, 3).align().bits(0, 16).bits(^0, 16)
	distances := map[int]int{0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 10}
	w.dynamic(1, long, distances)
	for _, c := range "mnopqrstuvwxyz" {
		w.code(code(int(c)))
	}
	w.code(code(264)).code(0x3ff, 10).bits(0, 4) // 10 bytes, 33 behind
	w.code(code(264)).code(0x1fe, 9).bits(7, 3)  // 10 bytes, 24 behind
	w.code(code(264)).code(0, 1)                 // the last byte ten times
	w.code(code(endOfBlock)).align()
	data = []byte("fixed,ed,ed,ed,ed,!storedmnopqrstuvwxyz")
	for _, m := range [][2]int{{10, 33}, {10, 24}, {10, 1}} {
		for range m[0] {
			data = append(data, data[len(data)-m[1]])
		}
	}
	return w.b, data
}

// The stream of every kind of symbol, cut at every byte of input and of output.
func TestEverySplit(t *testing.T) {
	stream, data := small(t)
	theirs, err := io.ReadAll(stdflate.NewReader(bytes.NewReader(stream)))
	require.NoError(t, err)
	require.Equal(t, string(theirs), string(data), "the test's own stream")
	r := newReader(nil)
	for i := range stream {
		for j := 1; j <= len(data); j++ {
			in := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(stream[:i]), bytes.NewReader(stream[i:]), strings.NewReader(tail)), 512)
			r.Reset(in)
			got, err := readAll(t, r, j, 1+(i+j)%7, 1000)
			require.Equal(t, io.EOF, err)
			require.Equal(t, string(data), string(got), "%d %d", i, j)
			rest, err := io.ReadAll(in)
			require.NoError(t, err)
			require.Equal(t, tail, string(rest), "%d %d", i, j)
		}
	}
	got, err := readAll(t, newReader(bufio.NewReader(iotest.OneByteReader(bytes.NewReader(stream)))), 1)
	require.Equal(t, io.EOF, err)
	require.Equal(t, string(data), string(got))
}

// A stream that ends early gives what the standard library gets out of it, and
// up to fourteen bits more: that one waits for as many bits as the block's end has.
func TestTruncated(t *testing.T) {
	whole, _ := small(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	for _, stream := range [][]byte{whole, deflated(t, window(rnd, 0, 2), 6), deflated(t, window(rnd, 0, 1), 0)} {
		for n := range stream {
			want, theirs := io.ReadAll(stdflate.NewReader(bytes.NewReader(stream[:n])))
			require.Equal(t, io.ErrUnexpectedEOF, theirs)
			got, err := readAll(t, newReader(bufio.NewReader(bytes.NewReader(stream[:n]))), 1+n%400)
			require.Equal(t, io.ErrUnexpectedEOF, err)
			require.True(t, bytes.HasPrefix(got, want), n)
			require.Less(t, len(got)-len(want), 15, n)
		}
	}
}

// An error of the input comes out as it is, behind all that could be decoded.
func TestInputFails(t *testing.T) {
	stream, data := small(t)
	broken := errors.New("broken")
	r := newReader(bufio.NewReader(io.MultiReader(bytes.NewReader(stream[:len(stream)-1]), iotest.ErrReader(broken))))
	got, err := readAll(t, r, 1000)
	require.Equal(t, broken, err)
	require.True(t, bytes.HasPrefix(data, got) && len(got) > len(data)-12, "%q", got)
}

// Read gives what there is, and does not wait for more.
func TestReadDoesNotWait(t *testing.T) {
	in, out := io.Pipe()
	defer in.Close()
	go func() {
		w := &bitWriter{}
		_, _ = out.Write(w.bits(0, 1).bits(1, 2).text("ready").bits(0, 7).b) // and then never again
	}()
	p := make([]byte, 100)
	n, err := newReader(bufio.NewReader(in)).Read(p)
	require.NoError(t, err)
	require.Equal(t, "ready", string(p[:n]))
}

func TestRefused(t *testing.T) {
	with := func(m map[int]int, more map[int]int) map[int]int {
		all := maps.Clone(m)
		maps.Copy(all, more)
		return all
	}
	full := map[int]int{'a': 2, 'b': 2, endOfBlock: 2, 257: 2} // a: 00, b: 01, the end: 10, a match of 3: 11
	fixedBlock := func() *bitWriter { return (&bitWriter{}).bits(1, 1).bits(1, 2) }
	dynamic := func(litlen, dist map[int]int) *bitWriter { return (&bitWriter{}).dynamic(1, litlen, dist) }
	precode := func(lengths ...int) *bitWriter {
		w := (&bitWriter{}).bits(1, 1).bits(2, 2).bits(0, 5).bits(0, 5).bits(len(lengths)-4, 4)
		for _, l := range lengths {
			w.bits(l, 3)
		}
		return w.bits(0, 32)
	}
	for _, tt := range []struct {
		name   string
		stream *bitWriter
		output string
		want   error
	}{
		{"reserved block type", fixedBlock().text("ab").fixed(endOfBlock), "ab", nil}, // the control
		{"reserved block type", (&bitWriter{}).bits(1, 1).bits(3, 2), "", errBlockType},
		{"stored length", (&bitWriter{}).bits(1, 3).align().bits(5, 16).bits(5, 16).bytes("hello"), "", errStoredLength},
		{"one bit of the complement", (&bitWriter{}).bits(1, 3).align().bits(5, 16).bits(^5^0x8000, 16).bytes("hello"), "", errStoredLength},
		{"287 lengths", (&bitWriter{}).header(1, 287, 1), "", errTooManyCodes},
		{"31 distances", (&bitWriter{}).header(1, 257, 31), "", errTooManyCodes},
		{"over-subscribed precode", precode(1, 1, 1, 0), "", errCodes},
		{"incomplete precode", precode(2, 2, 2, 0), "", errCodes},
		{"precode of one long code", precode(2, 0, 0, 0), "", errCodes},
		{"no precode", precode(0, 0, 0, 0), "", errSymbol},
		{"only zeros", precode(0, 0, 0, 1).bits(0, 300), "", errNoEnd},
		{"a precode's free bit", precode(0, 0, 0, 1).bits(1, 1), "", errSymbol},
		{"nothing to repeat", precode(1, 1, 0, 0), "", errNoCode},
		{"repeats beyond the end", (&bitWriter{}).bits(1, 1).bits(2, 2).bits(0, 5).bits(0, 5).bits(0, 4).bits(0, 3).bits(0, 3).bits(1, 3).bits(1, 3).
			code(1, 1).bits(127, 7).code(1, 1).bits(127, 7), "", errManyLengths},
		{"no end of block", dynamic(map[int]int{'a': 1, 'b': 1}, nil).code(0, 2), "", errNoEnd},
		{"over-subscribed lengths", dynamic(with(full, map[int]int{'c': 2}), nil), "", errCodes},
		{"over-subscribed, long", dynamic(with(full, map[int]int{'c': 15}), nil), "", errCodes},
		{"incomplete lengths", dynamic(with(full, map[int]int{'b': 3}), nil), "", errCodes},
		{"one long code", dynamic(map[int]int{endOfBlock: 2}, nil), "", errCodes},
		{"over-subscribed distances", dynamic(full, map[int]int{0: 1, 1: 1, 2: 1}), "", errCodes},
		{"incomplete distances", dynamic(full, map[int]int{0: 1, 1: 2}), "", errCodes},
		{"one long distance", dynamic(full, map[int]int{0: 2}), "", errCodes},
		{"single code, the other bit", dynamic(map[int]int{endOfBlock: 1}, nil).code(1, 1), "", errSymbol},
		{"single distance, the other bit", dynamic(full, map[int]int{0: 1}).code(0, 2).code(3, 2).code(1, 1), "a", errSymbol},
		{"a match without distances", dynamic(full, nil).code(0, 2).code(1, 2).code(3, 2), "ab", errSymbol},
		{"length 286", fixedBlock().text("abc").fixed(286).code(0, 5), "abc", errSymbol},
		{"length 287", fixedBlock().text("abc").fixed(287).code(0, 5), "abc", errSymbol},
		{"distance 30", fixedBlock().text("abc").fixed(257).code(30, 5), "abc", errSymbol},
		{"distance 31", fixedBlock().text("abc").fixed(257).code(31, 5), "abc", errSymbol},
		{"before the beginning", fixedBlock().text("abc").fixed(257).code(3, 5), "abc", errDistance},
		{"at the very beginning", fixedBlock().fixed(257).code(0, 5), "", errDistance},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want == nil {
				tt.want = io.EOF
			}
			_, theirs := io.ReadAll(stdflate.NewReader(bytes.NewReader(append(tt.stream.b, make([]byte, 400)...))))
			assert.Equal(t, tt.want == io.EOF, theirs == nil, "the standard library says %v", theirs)
			for _, behind := range []int{0, 1, 400} { // with 400 the fast loop sees it first
				stream := append(tt.stream.b[:len(tt.stream.b):len(tt.stream.b)], make([]byte, behind)...)
				for _, size := range []int{1, 4096} {
					got, err := readAll(t, newReader(bufio.NewReader(bytes.NewReader(stream))), size)
					assert.Equal(t, tt.want, err)
					assert.Equal(t, tt.output, string(got))
				}
			}
		})
	}
}

// What looks odd but is allowed.
func TestAccepted(t *testing.T) {
	lengths := map[int]int{'a': 2, 'b': 2, endOfBlock: 2, 285: 2} // a: 00, b: 01, the end: 10, 258 bytes: 11
	for _, tt := range []struct {
		name   string
		stream *bitWriter
		want   string
	}{
		{"only an end", (&bitWriter{}).dynamic(1, map[int]int{endOfBlock: 1}, nil).code(0, 1), ""},
		{"no distances", (&bitWriter{}).dynamic(1, map[int]int{'a': 1, endOfBlock: 1}, nil).code(0, 3).code(1, 1), "aaa"},
		{"one distance", (&bitWriter{}).dynamic(1, lengths, map[int]int{0: 1}).code(0, 2).code(1, 2).code(3, 2).code(0, 1).code(2, 2), "a" + strings.Repeat("b", 259)},
		{"the longest match", (&bitWriter{}).bits(3, 3).text("ab").fixed(285).code(1, 5).fixed(endOfBlock), strings.Repeat("ab", 130)},
		{"258 as 227 and 31", (&bitWriter{}).bits(3, 3).text("a").fixed(284).bits(31, 5).code(0, 5).fixed(endOfBlock), strings.Repeat("a", 259)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			theirs, err := io.ReadAll(stdflate.NewReader(bytes.NewReader(tt.stream.b)))
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(theirs))
			for _, size := range []int{1, 4096} {
				in := bufio.NewReader(io.MultiReader(bytes.NewReader(tt.stream.b), strings.NewReader(tail)))
				got, err := readAll(t, newReader(in), size)
				assert.Equal(t, io.EOF, err)
				assert.Equal(t, tt.want, string(got))
				rest, err := io.ReadAll(in)
				require.NoError(t, err)
				assert.Equal(t, tail, string(rest))
			}
		})
	}
}

// Every distance can be reached wherever a Read ended, and none beyond 32 KiB.
func TestDistances(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	data := make([]byte, 40_000)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	for _, behind := range []int{1, 2, 3, 7, 8, 9, 15, 16, 17, 257, 258, 300, 4095, 4096, 4097, 32767, 32768} {
		code := 29
		for ; int(distMeaning[code]>>16) > behind; code-- {
		}
		for _, size := range []int{97, 1000, 32767, 32768, 32769, 39_999, 40_000, 40_001, 64 << 10} {
			for _, before := range []int{behind - 1, behind, 40_000} {
				// Stored blocks, so the distance can be any; then a match of 258 bytes.
				w := &bitWriter{}
				for left := data[:before]; len(left) > 0; {
					piece := left[:min(len(left), 30_000)]
					w.bits(0, 3).align().bits(len(piece), 16).bits(^len(piece), 16).bytes(string(piece))
					left = left[len(piece):]
				}
				w.bits(3, 3).fixed(285).code(code, 5).bits(behind-int(distMeaning[code]>>16), int(distMeaning[code]&0xff)).fixed(endOfBlock).align()
				got, err := readAll(t, newReader(bufio.NewReader(bytes.NewReader(w.b))), size)
				want := bytes.Clone(data[:before])
				if before < behind {
					require.Equal(t, errDistance, err, "%d behind, in pieces of %d", behind, size)
				} else {
					require.Equal(t, io.EOF, err, "%d behind, in pieces of %d", behind, size)
					for range 258 {
						want = append(want, want[len(want)-behind])
					}
				}
				require.True(t, bytes.Equal(want, got), "%d behind, in pieces of %d", behind, size)
			}
		}
	}
}

// A Reader begins anew after anything, and forgets what was before.
func TestReset(t *testing.T) {
	stream, data := small(t)
	r := newReader(bufio.NewReader(strings.NewReader("")))
	_, err := readAll(t, r, 10)
	require.Equal(t, io.ErrUnexpectedEOF, err)
	for n := range stream {
		// Given up in the middle, at any bit.
		r.Reset(bufio.NewReader(bytes.NewReader(stream[:n])))
		_, err := readAll(t, r, 1+n%20)
		require.Equal(t, io.ErrUnexpectedEOF, err)
		r.Reset(bufio.NewReader(bytes.NewReader(stream)))
		_, err = r.Read(make([]byte, 1+n%40))
		require.NoError(t, err)

		r.Reset(bufio.NewReader(bytes.NewReader(stream)))
		got, err := readAll(t, r, 1000)
		require.Equal(t, io.EOF, err)
		require.Equal(t, string(data), string(got))
	}
	r.Reset(bufio.NewReader(bytes.NewReader((&bitWriter{}).bits(3, 3).fixed(257).code(0, 5).fixed(endOfBlock).b)))
	_, err = readAll(t, r, 10)
	require.Equal(t, errDistance, err, "nothing of the last stream is there")
}

// Memory is what the package's comment says, and none is taken in use.
func TestMemory(t *testing.T) {
	require.Less(t, int(unsafe.Sizeof(Reader{})), 42<<10)
	w := deflated(t, window(rand.New(rand.NewPCG(1, 2)), 0, 300), 3)
	src := bytes.NewReader(nil)
	in := bufio.NewReader(nil)
	r := newReader(in)
	p := make([]byte, 10_000)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		src.Reset(w)
		in.Reset(src)
		r.Reset(in)
		for {
			if _, err := r.Read(p); err != nil {
				return
			}
		}
	}))
}

// randomLengths are the lengths of a complete set of codes, for at most most of symbols.
func randomLengths(rnd *rand.Rand, most, longest int) []uint8 {
	// Leaves of a tree that is split: at its deepest, anywhere, or where it is not
	// deep, which makes codes of much the same length beside a few short ones.
	leaves := []int{0}
	short, tries := rnd.IntN(4), 1+rnd.IntN(2)*rnd.IntN(20)
	deep := rnd.IntN(3)
	for want := 2 + rnd.IntN(most-1); len(leaves) < want; {
		i := len(leaves) - 1
		if len(leaves) > short && rnd.IntN(3) >= deep {
			for range tries {
				if j := short + rnd.IntN(len(leaves)-short); leaves[j] < leaves[i] {
					i = j
				}
			}
		}
		if leaves[i] == longest {
			want--
			continue
		}
		leaves[i]++
		leaves = append(leaves, leaves[i])
	}
	lengths := make([]uint8, most)
	for i, s := range rnd.Perm(most)[:len(leaves)] {
		lengths[s] = uint8(leaves[i])
	}
	return lengths
}

// Blocks of any codes, with symbols as likely as each other: so most codes are
// long, and all lengths follow each other at all places of a byte.
func TestRandomCodes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	r := newReader(nil)
	for range 300 {
		litlen, dist := map[int]int{}, map[int]int{}
		for litlen[endOfBlock] == 0 {
			for s, l := range randomLengths(rnd, maxLitlen, maxCode) {
				litlen[s] = int(l)
			}
		}
		for s, l := range randomLengths(rnd, maxDist, maxCode) {
			dist[s] = int(l)
		}
		code := func(lengths map[int]int) (symbols []int, codes map[int]int) {
			codes = map[int]int{}
			next := 0
			for l := 1; l <= maxCode; l++ {
				for s := range len(lengths) {
					if lengths[s] == l {
						symbols = append(symbols, s)
						codes[s] = next
						next++
					}
				}
				next *= 2
			}
			return symbols, codes
		}
		symbols, codes := code(litlen)
		distSymbols, distCodes := code(dist)

		// First what the farthest match may refer to.
		data := make([]byte, windowSize)
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		w := (&bitWriter{}).bits(0, 3).align().bits(windowSize, 16).bits(^windowSize, 16).bytes(string(data)).dynamic(1, litlen, dist)
		for range 1500 {
			s := symbols[rnd.IntN(len(symbols))]
			if s == endOfBlock {
				continue
			}
			w.code(codes[s], litlen[s])
			if s < endOfBlock {
				data = append(data, byte(s))
				continue
			}
			extra := rnd.IntN(1 << (litlenMeaning[s] & 0xff))
			length := int(litlenMeaning[s]>>16) + extra
			w.bits(extra, int(litlenMeaning[s]&0xff))
			d := distSymbols[rnd.IntN(len(distSymbols))]
			extra = rnd.IntN(1 << (distMeaning[d] & 0xff))
			w.code(distCodes[d], dist[d]).bits(extra, int(distMeaning[d]&0xff))
			for range length {
				data = append(data, data[len(data)-int(distMeaning[d]>>16)-extra])
			}
		}
		w.code(codes[endOfBlock], litlen[endOfBlock])

		theirs, err := io.ReadAll(stdflate.NewReader(bytes.NewReader(w.b)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, theirs), "the test's own stream")
		for _, size := range []int{64 << 10, 1 + rnd.IntN(10_000)} {
			r.Reset(bufio.NewReader(bytes.NewReader(w.b)))
			got, err := readAll(t, r, size)
			require.Equal(t, io.EOF, err)
			require.True(t, bytes.Equal(data, got))
		}
	}
}

// Any complete set of codes decodes to what the rule of RFC 1951, 3.2.2, says,
// and any other is refused.
func TestTables(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	meanings := make([]uint32, 288)
	for i := range meanings {
		meanings[i] = meaning(i, 0)
	}
	for _, kind := range []struct{ most, indexBits, longest, size int }{{288, litlenBits, 15, litlenSize}, {32, distBits, 15, distSize}, {nPrecodes, precodeBits, 7, 1 << precodeBits}} {
		for range 3000 {
			lengths := randomLengths(rnd, kind.most, kind.longest)
			table := make([]uint32, kind.size)
			require.True(t, build(table, kind.indexBits, lengths, meanings))
			code := 0
			for l := 1; l <= kind.longest; l++ {
				for s := range lengths {
					if int(lengths[s]) != l {
						continue
					}
					b := (&bitWriter{}).code(code, l).bits(rnd.IntN(1<<20), 20).b
					bits := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16
					e := table[bits&(1<<kind.indexBits-1)]
					if e&link != 0 {
						e = table[second(e, bits>>kind.indexBits)]
					}
					require.Equal(t, meanings[s]+uint32(l)<<codeShift+uint32(l), e)
					code++
				}
				code *= 2
			}

			s := rnd.IntN(len(lengths))
			old := lengths[s]
			lengths[s] = uint8(rnd.IntN(kind.longest + 1))
			// Another length makes no complete set; but of two codes one may go.
			if lengths[s] != old && slices.Max(lengths) > 1 {
				require.False(t, build(table, kind.indexBits, lengths, meanings), "%v", lengths)
			}
		}
	}
}

package inflate

import (
	"bufio"
	"bytes"
	stdflate "compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// most is where a bomb is left alone.
const most = 4 << 20

// FuzzStandard gives any bytes to this package and to the standard library. Both
// say the same: the same output up to the end or the error, an error of the same
// kind, the same bytes left. Where they differ, both fail:
//
//   - A dynamic block without a code for its end. Here it is refused at once, as in
//     zlib; there it first gives what it holds.
//   - A stream that is cut off. There, decoding waits for as many bits as the
//     block's end has; here, symbols shorter than that come out before, and what is
//     wrong with them is found.
func FuzzStandard(f *testing.F) {
	stream, _ := small(f)
	f.Add(stream, uint64(0))
	f.Add(append(bytes.Clone(stream), tail...), uint64(1))
	for level := stdflate.HuffmanOnly; level <= stdflate.BestCompression; level++ {
		f.Add(deflated(f, []byte(`{"source":{"ip":"203.0.113.7"},"destination":{"ip":"203.0.113.8"}}`), level), uint64(level+2))
	}
	f.Add(deflated(f, bytes.Repeat([]byte("ab"), 40_000), 6), uint64(3))
	f.Add((&bitWriter{}).dynamic(1, map[int]int{'a': 1, 'b': 1}, nil).code(0, 2).b, uint64(0))
	f.Add((&bitWriter{}).dynamic(1, map[int]int{'a': 2, 'b': 2, endOfBlock: 2, 257: 2}, map[int]int{0: 1}).code(0, 2).code(3, 2).code(0, 1).code(2, 2).b, uint64(0))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		theirSource := bytes.NewReader(stream)
		want, theirs := io.ReadAll(io.LimitReader(stdflate.NewReader(theirSource), most))

		in, sizes := odd(stream, seed)
		r := newReader(in)
		var got []byte
		var err error
		p := make([]byte, 64<<10)
		for err == nil && len(got) < most {
			var n int
			q := p[:min(sizes(), most-len(got))]
			n, err = r.Read(q)
			if n == 0 && err == nil {
				t.Fatal("nothing, without an error")
			}
			got = append(got, q[:n]...)
		}
		if len(want) == most || len(got) == most {
			if !bytes.Equal(got, want) {
				t.Fatal("another beginning")
			}
			return
		}
		if err == errNoEnd { //nolint:errorlint // never wrapped
			if theirs == nil || !bytes.HasPrefix(want, got) {
				t.Fatalf("%v for %v", err, theirs)
			}
			return
		}
		if theirs == io.ErrUnexpectedEOF { //nolint:errorlint // never wrapped
			if err == io.EOF || !bytes.HasPrefix(got, want) || len(got) > len(want)+14*258 {
				t.Fatalf("%d bytes, %v; the standard library: %d, cut off", len(got), err, len(want))
			}
			return
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v; the standard library: %d, %v", len(got), err, len(want), theirs)
		}
		var corrupt CorruptError
		var theirCorrupt stdflate.CorruptInputError
		switch {
		case theirs == nil:
			rest, _ := io.ReadAll(in)
			if err != io.EOF || len(rest) != theirSource.Len() {
				t.Fatalf("%v, and %d bytes left of %d", err, len(rest), theirSource.Len())
			}
		case errors.As(theirs, &theirCorrupt):
			if !errors.As(err, &corrupt) {
				t.Fatalf("%v for %v", err, theirs)
			}
		default:
			t.Fatalf("the standard library: %v", theirs)
		}
	})
}

// FuzzRoundTrip compresses and inflates, with input and output in odd pieces.
func FuzzRoundTrip(f *testing.F) {
	for i, data := range []string{"", "x", "abracadabra", `{"ip":"203.0.113.7"}`, "\x00\x01\x02\xff", "0123456789abcdef"} {
		f.Add([]byte(data), i, uint64(i))
		f.Add([]byte(data), i+6, uint64(100*i+1))
	}
	var writers [12]*stdflate.Writer // used one after the other
	for i := range writers {
		var err error
		if writers[i], err = stdflate.NewWriter(nil, i-2); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, words []byte, level int, seed uint64) {
		// Pieces of words and of what was made of them before, so that there are
		// matches of all lengths and distances between literals of a kind.
		rnd := rand.New(rand.NewPCG(seed, 1))
		data := bytes.Clone(words)
		for range rnd.IntN(200) {
			if len(data) > 0 {
				from := rnd.IntN(len(data))
				piece := data[from : from+rnd.IntN(min(len(data)-from, 1000))]
				data = append(data, piece...)
			}
			data = append(data, byte(rnd.IntN(1+int(seed%256))))
		}
		var z bytes.Buffer
		w := writers[uint(level)%12]
		w.Reset(&z)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		stream := z.Bytes()
		in, sizes := odd(append(stream, tail...), seed)
		r := newReader(in)
		var got []byte
		p := make([]byte, 64<<10)
		for {
			n, err := r.Read(p[:sizes()])
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, data) {
			t.Fatal("something else came out")
		}
		if rest, _ := io.ReadAll(in); string(rest) != tail {
			t.Fatalf("%q is left", rest)
		}
	})
}

// odd brings the stream in pieces, and says in what pieces to take the output.
func odd(stream []byte, seed uint64) (*bufio.Reader, func() int) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	var src io.Reader = bytes.NewReader(stream)
	switch seed % 4 {
	case 1:
		src = iotest.OneByteReader(src)
	case 2:
		src = iotest.HalfReader(src)
	case 3:
		src = iotest.DataErrReader(src)
	}
	largest := []int{1, 3, 400, 5000, 64 << 10}[rnd.IntN(5)]
	return bufio.NewReaderSize(src, 16<<rnd.IntN(9)), func() int { return 1 + rnd.IntN(largest) }
}

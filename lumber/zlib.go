package lumber

// The zlib container (RFC 1950) around a deflate stream: two bytes before it,
// the Adler-32 of what it inflates to behind it. The library's own reader spends
// a sixth of its time on that sum, a byte at a time; here it takes eight.

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"vtsidecar/lumber/inflate"
)

var (
	errZlibHeader     = errors.New("no zlib header")
	errZlibDictionary = errors.New("a preset dictionary, which the protocol does not know")
	errZlibSum        = errors.New("wrong checksum")
)

// zlibReader reads one zlib stream after the other. It reads no byte behind the
// stream's end, and its errors are final until reset.
type zlibReader struct {
	in   *bufio.Reader
	body inflate.Reader // inflates in
	sum  uint32
	err  error
}

// reset starts a new stream.
func (z *zlibReader) reset(in *bufio.Reader) error {
	z.in, z.sum, z.err = in, 1, nil
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return cutOff(err)
	}
	const deflate, largestWindow = 8, 7
	switch {
	case head[0]&0x0f != deflate, head[0]>>4 > largestWindow, binary.BigEndian.Uint16(head[:])%31 != 0:
		return errZlibHeader
	case head[1]&0x20 != 0:
		return errZlibDictionary
	}
	z.body.Reset(in)
	return nil
}

// Read returns io.EOF behind the last byte, once the sum was right.
func (z *zlibReader) Read(p []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	n, err := z.body.Read(p)
	z.sum = addAdler32(z.sum, p[:n])
	if err == io.EOF { //nolint:errorlint // an io.Reader's own
		var tail [4]byte
		if _, e := io.ReadFull(z.in, tail[:]); e != nil {
			err = cutOff(e)
		} else if binary.BigEndian.Uint32(tail[:]) != z.sum {
			err = errZlibSum
		}
	}
	z.err = err
	return n, err
}

// cutOff is an end in the middle.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// addAdler32 adds p to an Adler-32 sum; that of nothing is 1.
//
// The sum is two numbers modulo 65521: the sum of all bytes (a) and the sum of
// all values that a has had (b). Within n bytes, the byte at place j adds n-j
// times itself to b. So for words of eight bytes it is enough to keep, for each
// of the eight places, the bytes' sum (the lanes of even and odd) and, for all
// places of a lane, the sum of that sum's earlier values (earlier).
func addAdler32(sum uint32, p []byte) uint32 {
	const (
		modulus = 65521
		lanes   = 0x00ff00ff00ff00ff // four of 16 bits
		block   = 128                // bytes; a lane of earlier reaches 2·255·(0+…+15), which fits
		most    = 1 << 20            // bytes before a and b, of 64 bits, are reduced

		// Times one of these, the highest lane is the lanes' sum, each once, or the
		// lowest four times, the next three times and so on. No sum here is over 16 bits.
		once    = 0x0001000100010001
		falling = 0x0004000300020001
	)
	a, b := uint64(sum&0xffff), uint64(sum>>16)
	for len(p) > 0 {
		q := p[:min(len(p), most)]
		p = p[len(q):]
		for ; len(q) >= block; q = q[block:] {
			var even, odd, earlier uint64
			w := (*[block]byte)(q)
			for i := 0; i < block; i += 16 {
				x, y := binary.LittleEndian.Uint64(w[i:i+8]), binary.LittleEndian.Uint64(w[i+8:i+16])
				earlier += even + odd
				even += x & lanes
				odd += x >> 8 & lanes
				earlier += even + odd
				even += y & lanes
				odd += y >> 8 & lanes
			}
			// The eight places of a word count 8, 7, … 1 times: twice 4, 3, 2, 1 for
			// even and odd alike, less one for odd.
			b += block*a + 8*(earlier&0xffff+earlier>>16&0xffff+earlier>>32&0xffff+earlier>>48) +
				2*(even*falling>>48+odd*falling>>48) - odd*once>>48
			a += (even + odd) * once >> 48
		}
		for _, c := range q {
			a += uint64(c)
			b += a
		}
		a, b = a%modulus, b%modulus
	}
	return uint32(b<<16 | a)
}

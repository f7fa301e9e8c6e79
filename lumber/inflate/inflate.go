// Package inflate reads DEFLATE (RFC 1951).
//
// Promise: what it returns is exactly what was compressed, or an error; never does
// it take a byte that stands behind the stream, whatever bytes it is given.
//
// It is made for one use: many streams of text, one after the other, each into
// large buffers. So it decodes straight into the buffer of its caller. Only what
// later matches may refer to, the last 32 KiB, is copied once more when a Read
// returns. A Reader takes 42 KiB, however long its streams are, and
// allocates nothing.
//
// The rules:
//
//  1. The place in the input is a number of bits. No bits are kept apart from the
//     input: what is not decoded yet still lies in the caller's bufio.Reader, so
//     there is nothing to give back at the end.
//  2. A symbol (a literal; a length with its distance; an item of a header) is
//     taken as a whole or, when the input ends inside it, not at all. So decoding
//     can stop and go on at any bit.
//  3. Two loops decode symbols. The fast one runs while so much input and room are
//     left that no symbol can need more; the careful one does the rest. Both use
//     the same tables. Indices are checked by the compiler's own bounds checks:
//     there is no unsafe here.
package inflate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// CorruptError says what makes a stream none.
type CorruptError string

func (e CorruptError) Error() string { return "corrupt deflate stream: " + string(e) }

const (
	errBlockType    = CorruptError("reserved block type")
	errStoredLength = CorruptError("the length of a stored block differs from its complement")
	errTooManyCodes = CorruptError("too many codes")
	errNoCode       = CorruptError("a repeated code length without one before it")
	errManyLengths  = CorruptError("more code lengths than announced")
	errNoEnd        = CorruptError("a block without a code for its end")
	errCodes        = CorruptError("a set of codes that is over-subscribed or incomplete")
	errSymbol       = CorruptError("bits that are no code")
	errDistance     = CorruptError("a distance beyond the beginning")
)

// errHungry: the input that has arrived is used up.
var errHungry = errors.New("hungry")

// windowSize is how far back a match may lie.
const windowSize = 32 << 10

// step is what comes next in the stream.
type step uint8

const (
	stepBlock   step = iota // a block's header
	stepStored              // a stored block's length
	stepBytes               // its bytes
	stepDynamic             // the numbers of codes of a dynamic block
	stepPrecode             // the lengths of the codes for code lengths
	stepLengths             // the code lengths
	stepSymbols             // literals and matches
	stepMatch               // the rest of a match
	stepEnd
)

// Reader inflates what Reset has given it. It is for one goroutine at a time.
type Reader struct {
	in   *bufio.Reader
	err  error // final, io.EOF included
	next step
	last bool // this block ends the stream

	// Valid within Read only, but for pos, which between two of them is the number
	// of bits (0 to 7) of in's next byte that are used.
	src []byte // what in has buffered
	pos int    // bits of src that are used

	left   int // bytes of the stored block or of the match that are still to come
	behind int // how far back that match lies

	// A dynamic block's header, as far as it was read.
	nLitlen, nDist, nPrecode int
	n                        int // lengths read so far
	lengths                  [maxLitlen + maxDist]uint8
	precode                  [1 << precodeBits]uint32

	codes *codes // of the block: &own, or the fixed ones
	own   codes

	// The last bytes returned: seen of them, as a ring that goes on at at.
	seen, at int
	window   [windowSize]byte
}

// Reset begins a new stream at in's next byte.
func (r *Reader) Reset(in *bufio.Reader) {
	r.in, r.err, r.next, r.last = in, nil, stepBlock, false
	r.pos, r.seen, r.at = 0, 0, 0
}

// Read fills p as far as the input that has arrived allows, and waits for more
// only when it has nothing to return. It may use all of p. Behind the last byte
// it returns io.EOF, and the input stands behind the byte with the stream's last
// bit; a stream that is cut off is io.ErrUnexpectedEOF, what is no stream a
// CorruptError. Any other error is that of the input. What was decoded before an
// error is returned with it.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	n := 0
	for {
		var err error
		r.src, err = r.in.Peek(r.in.Buffered()) // no more than there is, so without error
		if err == nil {
			n, err = r.decode(p, n)
		}
		_, _ = r.in.Discard(r.pos >> 3) // bytes that are buffered
		kept := len(r.src) - r.pos>>3
		r.src, r.pos = nil, r.pos&7
		switch {
		case err == errHungry: //nolint:errorlint // from here, as it is
			if n > 0 {
				err = nil
			} else if _, err = r.in.Peek(kept + 1); err == nil {
				continue
			} else if err == io.EOF { //nolint:errorlint // a bufio.Reader's own
				err = io.ErrUnexpectedEOF
			}
		case err != nil && r.pos > 0: // the byte with the last bit
			_, _ = r.in.Discard(1)
			r.pos = 0
		}
		if r.err = err; err == nil {
			r.remember(p[:n])
		}
		return n, err
	}
}

// decode goes on until p[n:] is full (nil), the input is used up (errHungry), the
// stream has ended (io.EOF) or is none. It returns how much of p is filled.
func (r *Reader) decode(p []byte, n int) (int, error) {
	var err error
	for err == nil {
		switch r.next {
		case stepBlock:
			err = r.block()
		case stepStored:
			err = r.stored()
		case stepDynamic:
			err = r.dynamic()
		case stepPrecode:
			err = r.precodeLengths()
		case stepLengths:
			err = r.codeLengths()
		case stepEnd:
			err = io.EOF
		default:
			if n == len(p) {
				return n, nil
			}
			switch r.next {
			case stepBytes:
				n, err = r.storedBytes(p, n)
			case stepMatch:
				n = r.match(p, n)
			default:
				n, err = r.symbols(p, n)
			}
		}
	}
	return n, err
}

// peek returns the next bits, the first one lowest, and how many they are: all
// that have arrived, or at least 57. Above them are zeros.
func (r *Reader) peek() (b uint64, n int) {
	if i := r.pos >> 3; len(r.src)-i >= 8 {
		b, n = binary.LittleEndian.Uint64(r.src[i:]), 64
	} else {
		for ; n < 8*(len(r.src)-i); n += 8 {
			b |= uint64(r.src[i+n>>3]) << n
		}
	}
	return b >> (r.pos & 7), n - r.pos&7
}

// take returns the next n bits, at most 32.
func (r *Reader) take(n int) (uint32, error) {
	b, have := r.peek()
	if have < n {
		return 0, errHungry
	}
	r.pos += n
	return uint32(b & (1<<n - 1)), nil
}

// block reads a block's header.
func (r *Reader) block() error {
	if r.last {
		r.next = stepEnd
		return nil
	}
	b, err := r.take(3)
	if err != nil {
		return err
	}
	r.last = b&1 != 0
	switch b >> 1 {
	case 0:
		r.pos = (r.pos + 7) &^ 7 // within the byte that has arrived
		r.next = stepStored
	case 1:
		r.codes = fixed()
		r.next = stepSymbols
	case 2:
		r.next = stepDynamic
	default:
		return errBlockType
	}
	return nil
}

func (r *Reader) stored() error {
	b, err := r.take(32)
	if err != nil {
		return err
	}
	if b&0xffff != ^b>>16 {
		return errStoredLength
	}
	r.left = int(b & 0xffff)
	r.next = stepBytes
	if r.left == 0 {
		r.next = stepBlock
	}
	return nil
}

// storedBytes copies from the input, which stands at a byte.
func (r *Reader) storedBytes(p []byte, n int) (int, error) {
	src := r.src[r.pos>>3:]
	m := copy(p[n:], src[:min(len(src), r.left)])
	if m == 0 {
		return n, errHungry
	}
	r.pos += 8 * m
	if r.left -= m; r.left == 0 {
		r.next = stepBlock
	}
	return n + m, nil
}

func (r *Reader) dynamic() error {
	b, err := r.take(14)
	if err != nil {
		return err
	}
	r.nLitlen, r.nDist, r.nPrecode = int(b&31)+257, int(b>>5&31)+1, int(b>>10)+4
	if r.nLitlen > maxLitlen || r.nDist > maxDist {
		return errTooManyCodes
	}
	r.n = 0
	r.next = stepPrecode
	return nil
}

// precodeOrder is the order in which the code lengths' code lengths come.
var precodeOrder = [nPrecodes]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

func (r *Reader) precodeLengths() error {
	for ; r.n < r.nPrecode; r.n++ {
		b, err := r.take(3)
		if err != nil {
			return err
		}
		r.lengths[precodeOrder[r.n]] = uint8(b)
	}
	for ; r.n < nPrecodes; r.n++ {
		r.lengths[precodeOrder[r.n]] = 0
	}
	if !build(r.precode[:], precodeBits, r.lengths[:nPrecodes], precodeMeaning[:]) {
		return errCodes
	}
	r.n = 0
	r.next = stepLengths
	return nil
}

// codeLengths reads the lengths of all codes and makes the tables.
func (r *Reader) codeLengths() error {
	for total := r.nLitlen + r.nDist; r.n < total; {
		b, have := r.peek()
		e := r.precode[b&(1<<precodeBits-1)]
		if e&exceptional != 0 {
			if have < int(e&0xff) {
				return errHungry
			}
			return errSymbol
		}
		used := int(e & 0xff)
		if have < used {
			return errHungry
		}
		b >>= used
		value, times, extra := uint8(e>>16), 1, 0
		switch value {
		case 16:
			if r.n == 0 {
				return errNoCode
			}
			value, times, extra = r.lengths[r.n-1], 3+int(b&3), 2
		case 17:
			value, times, extra = 0, 3+int(b&7), 3
		case 18:
			value, times, extra = 0, 11+int(b&127), 7
		}
		if have < used+extra {
			return errHungry
		}
		if r.n+times > total {
			return errManyLengths
		}
		for range times {
			r.lengths[r.n] = value
			r.n++
		}
		r.pos += used + extra
	}
	if r.lengths[endOfBlock] == 0 {
		return errNoEnd
	}
	if !r.own.set(r.lengths[:r.nLitlen], r.lengths[r.nLitlen:r.n]) {
		return errCodes
	}
	r.codes = &r.own
	r.next = stepSymbols
	return nil
}

// match writes the rest of a match as far as there is room.
func (r *Reader) match(p []byte, n int) int {
	m := min(r.left, len(p)-n)
	r.repeat(p, n, r.behind, m)
	if r.left -= m; r.left == 0 {
		r.next = stepSymbols
	}
	return n + m
}

// repeat writes to p[n:n+m] what lies behind bytes before it, in p or in the
// window. It does no harm to p[n+m:].
func (r *Reader) repeat(p []byte, n, behind, m int) {
	end := n + m
	for n < end && behind > n {
		older := behind - n // bytes of the window from there to its end
		from := (r.at - older) & (windowSize - 1)
		n += copy(p[n:min(end, behind)], r.window[from:])
	}
	// What was written may be the source of what follows, so each copy can be
	// longer than the one before.
	for from := n - behind; n < end; {
		n += copy(p[n:end], p[from:n])
	}
}

// remember keeps the end of p, which is returned, as what was returned last.
func (r *Reader) remember(p []byte) {
	r.seen = min(r.seen+len(p), windowSize)
	p = p[max(0, len(p)-windowSize):]
	for len(p) > 0 {
		n := copy(r.window[r.at:], p)
		p = p[n:]
		r.at = (r.at + n) & (windowSize - 1)
	}
}

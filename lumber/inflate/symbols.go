package inflate

import "encoding/binary"

const (
	// What a turn of the fast loop may need: room for four times two literals and
	// for what copying a match of up to 258 bytes touches; and two loads of eight
	// bytes, the second at most 40 bits behind the first.
	matchRoom = 320
	fastRoom  = matchRoom + 8
	fastInput = 16
)

// symbols decodes literals and matches into p[n:] until it is full, or the block
// or the input ends.
func (r *Reader) symbols(p []byte, n int) (int, error) {
	n, err := r.fast(p, n)
	for err == nil && r.next == stepSymbols && n < len(p) {
		n, err = r.symbol(p, n)
	}
	return n, err
}

// symbol decodes one symbol into p[n:], which has room for a byte.
func (r *Reader) symbol(p []byte, n int) (int, error) {
	b, have := r.peek()
	e := r.codes.litlen[b&(1<<litlenBits-1)]
	if e&link != 0 {
		e = r.codes.litlen[second(e, b>>litlenBits)]
	}
	used := int(e & 0xff)
	switch {
	case e&literal != 0:
		// The first of two alone: the other's bits may not have come.
		if used = int(e >> codeShift & codeMask); have < used {
			return n, errHungry
		}
		r.pos += used
		p[n] = byte(e >> 16)
		return n + 1, nil
	case have < used:
		return n, errHungry
	case e&stop != 0:
		if e>>16 == 0 {
			return n, errSymbol
		}
		r.pos += used
		r.next = stepBlock
		return n, nil
	}
	length := value(e, b)
	b >>= used
	d := r.codes.dist[b&(1<<distBits-1)]
	if d&link != 0 {
		d = r.codes.dist[second(d, b>>distBits)]
	}
	if used += int(d & 0xff); have < used {
		return n, errHungry
	}
	if d&stop != 0 {
		return n, errSymbol
	}
	r.pos += used
	r.left, r.behind = length, value(d, b)
	if r.behind > n+r.seen {
		return n, errDistance
	}
	r.next = stepMatch
	return r.match(p, n), nil
}

// second is the place in the second table to which e is the link, and b are the
// bits behind the first table's index.
func second(e uint32, b uint64) uint32 {
	return e>>16 + uint32(b)&(1<<(e>>codeShift&codeMask)-1)
}

// value is the length or distance that e stands for; b are the bits from its code on.
func value(e uint32, b uint64) int {
	return int(e>>16) + int(b&(1<<(e&63)-1)>>(e>>codeShift&codeMask))
}

// fast is symbol as long as there is more than enough of room and input. What is
// no literal and no match it leaves to symbol.
func (r *Reader) fast(p []byte, n int) (int, error) {
	if len(r.src) < fastInput || len(p) < fastRoom {
		return n, nil
	}
	// Slices to their end, so that bounds checks are those of the lengths.
	src, p := r.src[:len(r.src):len(r.src)], p[:len(p):len(p)]
	litlen, dist := &r.codes.litlen, &r.codes.dist
	pos := uint(r.pos)
	for lastPos, lastN := uint(len(src)-fastInput)*8, len(p)-fastRoom; pos <= lastPos && n <= lastN; {
		b := load(src, pos>>3) >> (pos & 7) // at least 57 bits
		e := litlen[b&(1<<litlenBits-1)]
		if e&literal != 0 {
			// Four looks take at most 40 bits, and the next entry is of the first 50.
			for i := 0; ; i++ {
				binary.LittleEndian.PutUint16(p[n:n+2:n+2], uint16(e>>16))
				n += 1 + int(e&pair/pair)
				pos += uint(e & 0xff)
				b >>= e & 63
				e = litlen[b&(1<<litlenBits-1)]
				if e&literal == 0 || i == 3 {
					break
				}
			}
			if e&literal != 0 {
				continue
			}
			b = load(src, pos>>3) >> (pos & 7)
		}
		if e&exceptional != 0 {
			if e&link != 0 {
				e = litlen[second(e, b>>litlenBits)]
			}
			if e&literal != 0 {
				p[n] = byte(e >> 16)
				n++
				pos += uint(e & 0xff)
				continue
			}
			if e&stop != 0 {
				break
			}
		}
		length := value(e, b)
		b >>= e & 63
		d := dist[b&(1<<distBits-1)]
		if d&exceptional != 0 {
			if d&link != 0 {
				d = dist[second(d, b>>distBits)]
			}
			if d&stop != 0 {
				break
			}
		}
		behind := value(d, b)
		if behind > n {
			if behind > n+r.seen {
				break
			}
			pos += uint(e&0xff + d&0xff)
			r.repeat(p, n, behind, length)
			n += length
			continue
		}
		pos += uint(e&0xff + d&0xff)
		// What is copied too much will be overwritten.
		to, from := n, n-behind
		n += length
		if behind >= 16 {
			d, s := (*[matchRoom]byte)(p[to:to+matchRoom:to+matchRoom]), (*[matchRoom]byte)(p[from:from+matchRoom:from+matchRoom])
			*(*[16]byte)(d[0:16]) = *(*[16]byte)(s[0:16])
			*(*[16]byte)(d[16:32]) = *(*[16]byte)(s[16:32])
			*(*[16]byte)(d[32:48]) = *(*[16]byte)(s[32:48])
			for i := 48; i < length; i += 16 {
				*(*[16]byte)(d[i:]) = *(*[16]byte)(s[i:])
			}
			continue
		}
		// A pattern shorter than 16 bytes: written once more it is twice as long.
		for behind < 16 {
			copy16(p, to, from)
			to += behind
			behind *= 2
		}
		for ; to < n; to += 16 {
			copy16(p, to, from)
			from += 16
		}
	}
	r.pos = int(pos)
	return n, nil
}

// The third index spares the compiler a thought about empty slices.
func load(p []byte, i uint) uint64 { return binary.LittleEndian.Uint64(p[i : i+8 : i+8]) }

// copy16 reads before it writes.
func copy16(p []byte, to, from int) {
	*(*[16]byte)(p[to : to+16 : to+16]) = *(*[16]byte)(p[from : from+16 : from+16])
}

package scan

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// Eight bytes at a time, in a word. All readers below may look at up to
// event.Sentinel bytes behind the event; whatever they find there is never
// believed: positions at or behind n, the event's length, are an "unexpected end".
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// load reads eight bytes. It does not check p, which is most of what a load
// would cost: every caller knows that p is at most n, or n+8 in a pair of loads,
// and that b goes on for event.Sentinel bytes behind n.
func load(b []byte, p int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), p))[:])
}

// dots marks, by its high bit, every dot of a word of ASCII. Only the lowest mark
// is to be trusted: a borrow can run from a true mark into the byte above it,
// never into one below. Whether there is any is therefore exact.
func dots(w uint64) uint64 { return ((w ^ '.'*ones) - ones) & highs }

// mark makes one bit per byte of the event: set at every byte at which a string
// cannot simply go on (the quote, the backslash, controls, and all that is not
// ASCII), and at all behind the event. Where a string ends is then a load and a
// count, instead of a loop whose length no processor can guess.
func (r *Result) mark(b []byte, n int) []byte {
	size := n/64*8 + 16 // whole words, one for the rest and one to read into
	if cap(r.marks) < size {
		r.marks = make([]byte, size+size/4)
	}
	marks := r.marks[:size]
	// The event is in no near cache as a rule: to ask for all of it at once costs
	// little more than to wait for its first line.
	var all byte
	for p := 0; p < n; p += 64 {
		all |= b[p]
	}
	r.touched = all
	p := 0
	for ; p+64 <= n; p += 64 {
		m := exactStops(load(b, p)) |
			exactStops(load(b, p+8))<<8 |
			exactStops(load(b, p+16))<<16 |
			exactStops(load(b, p+24))<<24 |
			exactStops(load(b, p+32))<<32 |
			exactStops(load(b, p+40))<<40 |
			exactStops(load(b, p+48))<<48 |
			exactStops(load(b, p+56))<<56
		binary.LittleEndian.PutUint64(marks[p>>3:], m)
	}
	rest := ^uint64(0) << (n & 63)
	for i := 0; p+i < n; i += 8 {
		rest |= exactStops(load(b, p+i)) << i
	}
	binary.LittleEndian.PutUint64(marks[size-16:], rest)
	binary.LittleEndian.PutUint64(marks[size-8:], ^uint64(0))
	return marks
}

// exactStops gives the marks of eight bytes, as the low eight bits.
func exactStops(w uint64) uint64 {
	// Sums of seven bits never carry into the next byte, so that all marks are
	// exact. Flipping the second bit brings the quote (0x22) to 0x20, next to the
	// controls, and keeps all else above it: one comparison for both.
	low := w &^ highs
	plain := ((low ^ 2*ones) + 0x5f*ones) & ((low ^ '\\'*ones) + 0x7f*ones) &^ w
	return (^plain & highs >> 7) * 0x0102040810204080 >> 56
}

// next is the first marked byte at or behind p, which must not be behind n.
func next(marks []byte, p int) int {
	if m := load(marks, p>>3) >> (uint(p) & 7); m != 0 {
		return p + bits.TrailingZeros64(m)
	}
	return far(marks, p>>3+8)
}

// far is next for long strings, from byte i of the marks on.
func far(marks []byte, i int) int {
	for {
		if m := load(marks, i); m != 0 {
			return i<<3 + bits.TrailingZeros64(m)
		}
		i += 8
	}
}

// space skips white space from p on and notes line breaks.
//
//go:noinline
func (r *Result) space(b []byte, p, n int) int {
	for ; p < n; p++ {
		switch b[p] {
		case ' ', '\t':
		case '\n', '\r':
			r.breaks = true
		default:
			return p
		}
	}
	return p
}

// runes passes over the run of characters beyond ASCII that begins at p. It
// returns where it ends, and false at the first that is not valid UTF-8: overlong
// forms, surrogates, beyond U+10FFFF, and cut ones, as RFC 3629 has it.
func runes(b []byte, p, n int) (int, bool) {
	for p < n {
		c := b[p]
		var size int
		lo, hi := byte(0x80), byte(0xbf) // of the second byte
		switch {
		case c < 0x80:
			return p, true
		case c < 0xc2:
			return p, false
		case c < 0xe0:
			size = 2
		case c < 0xf0:
			size = 3
			if c == 0xe0 {
				lo = 0xa0
			} else if c == 0xed {
				hi = 0x9f
			}
		case c < 0xf5:
			size = 4
			if c == 0xf0 {
				lo = 0x90
			} else if c == 0xf4 {
				hi = 0x8f
			}
		default:
			return p, false
		}
		if p+size > n || b[p+1] < lo || b[p+1] > hi ||
			size > 2 && b[p+2]&0xc0 != 0x80 ||
			size > 3 && b[p+3]&0xc0 != 0x80 {
			return p, false
		}
		p += size
	}
	return p, true
}

// simple holds what the one-letter escapes stand for; 0: no such escape.
var simple = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// str reads on in a string that begins at start and has been found plain up to
// p. It returns the string's contents, unescaped, and where its closing quote
// is. The contents have at least 16 readable bytes from their beginning on. A lone surrogate escape comes out as the three bytes that UTF-8 would have
// for it if it had any: no other string has these, which the digest needs (see
// replaceSurrogates); lone tells that there was one.
func (r *Result) str(b []byte, start, p, n int) (text []byte, quote int, lone bool, fault string, at int) {
	for p < n {
		if p = next(r.marks, p); p >= n {
			break
		}
		switch c := b[p]; {
		case c == '"':
			return b[start:p], p, false, "", 0
		case c == '\\':
			return r.unescape(b, start, p, n)
		case c < ' ':
			return nil, 0, false, reasonControl, p
		default:
			var ok bool
			if p, ok = runes(b, p, n); !ok {
				return nil, 0, false, reasonUTF8, p
			}
		}
	}
	return nil, 0, false, reasonEnd, n
}

// unescape is str from the first backslash on, which stands at p. It copies and
// validates in one go. What it has written stays until the next event: the sum
// of all unescaped strings is never longer than the event, so that the room
// made here at the first escape suffices for all others, and never moves.
func (r *Result) unescape(b []byte, start, p, n int) (text []byte, quote int, lone bool, fault string, at int) {
	if cap(r.text) < n+16 {
		r.text = make([]byte, 0, n+n/4+64) // a quarter more: the next event may be a little longer
	}
	from := len(r.text)
	dst := r.text[from:cap(r.text)]
	d := copy(dst, b[start:p])
	for p < n {
		// The plain bytes up to the next stop, which are few as a rule: sixteen at
		// once, whether they are wanted or not.
		q := next(r.marks, p)
		binary.LittleEndian.PutUint64(dst[d:], load(b, p))
		binary.LittleEndian.PutUint64(dst[d+8:], load(b, p+8))
		if q-p > 16 {
			copy(dst[d+16:], b[p+16:q])
		}
		d += q - p
		if p = q; p >= n {
			break
		}
		switch c := b[p]; {
		case c == '\\':
			if plain := simple[b[p+1]]; plain != 0 {
				dst[d] = plain
				d++
				p += 2
				continue
			}
			if b[p+1] != 'u' {
				return nil, 0, false, reasonEscape, p + 1
			}
			u, bad := hex4(b, p+2)
			if bad >= 0 {
				return nil, 0, false, reasonEscape, bad
			}
			p += 6
			if u&0xfc00 == 0xd800 && b[p] == '\\' && b[p+1] == 'u' {
				if low, bad := hex4(b, p+2); bad < 0 && low&0xfc00 == 0xdc00 {
					u = (u&0x3ff)<<10 | low&0x3ff + 0x10000
					p += 6
				}
			}
			lone = lone || u&0xfffff800 == 0xd800
			d += putRune(dst[d:], u)
		case c == '"':
			r.text = r.text[:from+d]
			return r.text[from : from+d], p, lone, "", 0
		case c < ' ':
			return nil, 0, false, reasonControl, p
		default:
			end, ok := runes(b, p, n)
			if !ok {
				return nil, 0, false, reasonUTF8, end
			}
			d += copy(dst[d:], b[p:end])
			p = end
		}
	}
	return nil, 0, false, reasonEnd, n
}

// hex4 reads four hexadecimal digits; bad is where one is none, or -1.
func hex4(b []byte, p int) (u uint32, bad int) {
	for i := p; i < p+4; i++ {
		c := b[i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, i
		}
		u = u<<4 | uint32(c)
	}
	return u, -1
}

// putRune is utf8.EncodeRune, except that it writes surrogates too.
func putRune(dst []byte, u uint32) int {
	switch {
	case u < 0x80:
		dst[0] = byte(u)
		return 1
	case u < 0x800:
		dst[0], dst[1] = 0xc0|byte(u>>6), 0x80|byte(u&0x3f)
		return 2
	case u < 0x10000:
		dst[0], dst[1], dst[2] = 0xe0|byte(u>>12), 0x80|byte(u>>6&0x3f), 0x80|byte(u&0x3f)
		return 3
	default:
		dst[0], dst[1], dst[2], dst[3] = 0xf0|byte(u>>18), 0x80|byte(u>>12&0x3f), 0x80|byte(u>>6&0x3f), 0x80|byte(u&0x3f)
		return 4
	}
}

// replaceSurrogates makes valid UTF-8 of what str returned with lone: U+FFFD
// stands where the lone surrogates were. It is as long as they are.
func replaceSurrogates(text []byte) {
	for i := 0; i+2 < len(text); i++ {
		if text[i] == 0xed && text[i+1] >= 0xa0 {
			text[i], text[i+1], text[i+2] = 0xef, 0xbf, 0xbd
		}
	}
}

// number passes over the number that begins at p and returns where it ends, or
// -1 and where it is none.
func number(b []byte, p, n int) (end, bad int) {
	if b[p] == '-' {
		p++
	}
	switch {
	case p >= n:
		return -1, p
	case b[p] == '0':
		p++
	default:
		q := digits(b, p, n)
		if q == p {
			return -1, p
		}
		p = q
	}
	if b[p] == '.' {
		p++
		q := digits(b, p, n)
		if q == p {
			return -1, p
		}
		p = q
	}
	if b[p]|0x20 == 'e' {
		p++
		if b[p] == '+' || b[p] == '-' {
			p++
		}
		q := digits(b, p, n)
		if q == p {
			return -1, p
		}
		p = q
	}
	return p, 0
}

func digits(b []byte, p, n int) int {
	for p < n && b[p]-'0' < 10 {
		p++
	}
	return p
}

package inflate

// Codes to tables, by these rules:
//
//  1. The next bits are the index of a table; its entry says how many of them are
//     the code, and all that the code means. Codes longer than the index lead to a
//     second table behind the first one.
//  2. An index that holds the codes of two literals, one after the other, leads to
//     both at once. Numbers and identifiers, which are what differs from event to
//     event, are mostly runs of literals with short codes.
//  3. Codes that are over-subscribed or incomplete are refused, but for two that
//     zlib's inflate takes as well: no code at all (a block without matches), and
//     a single one of one bit. Their free entries are errors.
//
// An entry, from its lowest bit:
//
//	 8 bits  how many bits to take: the code, or both literals' codes, and extra bits
//	 1 bit   flag: two literals
//	 4 bits  the bits of the (first) code alone; of a link, those of the second table's index
//	 3 bits  flags: link; stop, which is the block's end or no code at all; literal
//	16 bits  the literals; a length's or distance's base; the second table's place; 1 for a block's end

import (
	"math/bits"
	"sync"
)

const (
	maxLitlen  = 286 // codes of a dynamic block
	maxDist    = 30
	nPrecodes  = 19
	endOfBlock = 256
	maxCode    = 15 // bits

	// The index bits of the first tables. More of them make a second look less
	// often and two literals at once more often, but take longer to fill.
	litlenBits  = 10
	distBits    = 8
	precodeBits = 7 // the longest of them, so without second tables

	// The room for first and second tables at worst, for 288 and 32 codes of at
	// most 15 bits: what zlib's examples/enough.c finds for these index bits.
	litlenSize = 1334
	distSize   = 402

	pair        = 1 << 8
	codeShift   = 9
	codeMask    = 15
	link        = 1 << 13
	stop        = 1 << 14
	literal     = 1 << 15
	exceptional = link | stop
)

// codes are the tables of a block.
type codes struct {
	litlen [litlenSize]uint32
	dist   [distSize]uint32
}

// set makes the tables for codes of these lengths, or returns false.
func (c *codes) set(litlen, dist []uint8) bool {
	if !build(c.litlen[:], litlenBits, litlen, litlenMeaning[:]) || !build(c.dist[:], distBits, dist, distMeaning[:]) {
		return false
	}
	// What follows the first literal is a smaller index, or the same one where that
	// is 0; so, going down, its entry is still that of one literal.
	first := c.litlen[:1<<litlenBits]
	for i := len(first) - 1; i >= 0; i-- {
		e := first[i]
		if e&literal == 0 {
			continue
		}
		if f := first[i>>(e&codeMask)]; f&literal != 0 && e&0xff+f&0xff <= litlenBits {
			first[i] = e + f&0xff + f>>16<<24 | pair
		}
	}
	return true
}

// fixed are the tables of fixed blocks. Nobody writes to them.
var fixed = sync.OnceValue(func() *codes {
	var lengths [288 + 32]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		case i < 288:
			lengths[i] = 8
		default:
			lengths[i] = 5
		}
	}
	c := &codes{}
	c.set(lengths[:288], lengths[288:])
	return c
})

// meaning is an entry before its code's bits are added: the low byte counts extra
// bits only.
func meaning(base, extra int) uint32 { return uint32(base<<16 | extra) }

// The meanings of lengths (of codes from 257) and distances. Codes that stand for
// nothing are in fixed blocks only.
var (
	litlenMeaning = func() (m [288]uint32) {
		for i := range m {
			switch {
			case i < endOfBlock:
				m[i] = literal | meaning(i, 0)
			case i == endOfBlock:
				m[i] = stop | meaning(1, 0)
			case i < 265:
				m[i] = meaning(i-254, 0)
			case i < 285:
				extra := (i - 261) / 4
				m[i] = meaning(3+(4+(i-261)%4)<<extra, extra)
			case i == 285:
				m[i] = meaning(258, 0)
			default:
				m[i] = stop
			}
		}
		return m
	}()
	distMeaning = func() (m [32]uint32) {
		for i := range m {
			switch {
			case i < 4:
				m[i] = meaning(1+i, 0)
			case i < maxDist:
				extra := (i - 2) / 2
				m[i] = meaning(1+(2+i%2)<<extra, extra)
			default:
				m[i] = stop
			}
		}
		return m
	}()
)

// precodeMeaning: a code length, or how often to repeat one.
var precodeMeaning = func() (m [nPrecodes]uint32) {
	for i := range m {
		m[i] = meaning(i, 0)
	}
	return m
}()

// build makes the tables for codes of the given lengths (0: no such code), which
// mean what meanings says. It returns false for lengths that make no code.
//
// Codes of one length are numbers that count up, of which the stream has the
// highest bit first. In an index it is the lowest; so code, here, counts with its
// bits reversed. A table for codes of up to n bits, twice in a row, is the one
// for n+1 bits as far as those shorter codes go: that is how it grows.
func build(table []uint32, indexBits int, lengths []uint8, meanings []uint32) bool {
	var count, place [maxCode + 1]int
	for _, l := range lengths {
		count[l&maxCode]++
	}
	count[0] = 0
	free, all := 1, 0 // codes of length l
	for l := 1; l <= maxCode; l++ {
		place[l] = all
		all += count[l]
		free = 2*free - count[l]
		if free < 0 {
			return false
		}
	}
	if free > 0 {
		if all > count[1] {
			return false
		}
		none := uint32(stop | all) // all is 0 or 1, and so are the bits it takes to see that
		for i := range table[:1<<indexBits] {
			table[i] = none
		}
		if all == 0 {
			return true
		}
	}

	var sorted [288]uint16
	for s, l := range lengths {
		if l &= maxCode; l != 0 {
			sorted[place[l]] = uint16(s)
			place[l]++
		}
	}
	symbols := sorted[:all]
	if free > 0 {
		for i := 0; i < 1<<indexBits; i += 2 {
			table[i] = meanings[symbols[0]] + 1<<codeShift + 1
		}
		return true
	}

	code := 0
	for l := 1; l <= indexBits; l++ {
		size := 1 << (l - 1)
		copy(table[size:2*size], table[:size])
		for _, s := range symbols[:count[l]] {
			table[code] = meanings[s] + uint32(l<<codeShift+l)
			code = following(code, l)
		}
		symbols = symbols[count[l]:]
	}
	// What is left goes to second tables, each as large as the longest of its
	// codes wants it.
	var second []uint32
	end, first := 1<<indexBits, -1
	for l := indexBits + 1; len(symbols) > 0; l++ {
		for ; count[l] > 0; count[l]-- {
			if i := code & (1<<indexBits - 1); i != first {
				first = i
				n := l - indexBits
				for fits := count[l]; fits < 1<<n; n++ {
					fits = 2*fits + count[indexBits+n+1]
				}
				table[first] = uint32(link | end<<16 | n<<codeShift)
				second = table[end : end+1<<n]
				end += 1 << n
			}
			e := meanings[symbols[0]] + uint32(l<<codeShift+l)
			for i := code >> indexBits; i < len(second); i += 1 << (l - indexBits) {
				second[i] = e
			}
			code = following(code, l)
			symbols = symbols[1:]
		}
	}
	return true
}

// following is the code of n bits, reversed, that follows code. Behind the last one is 0.
func following(code, n int) int {
	b := 1 << bits.Len(uint(code^(1<<n-1))) >> 1
	return code&(b-1) | b
}

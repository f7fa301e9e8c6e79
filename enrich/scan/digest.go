package scan

import (
	"encoding/binary"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// The identity digest is the sum of one 128-bit hash per leaf, each seeded by
// the hash of the leaf's path. A sum does not care for order, which is what
// libbeat's maps need, and unlike an exclusive or it does not forget a leaf
// that stands there twice.
//
// Risk accepted: none of this is cryptographic, and it must not depend on a
// secret, since a resend after a restart, or to another server of the fleet,
// has to give the same identity. Who can send events of his own and knows all of
// another event in advance, its offset included, could make one that collides.

// Path hashes are chained segment by segment, and a dot in a key begins a new
// segment. So {"a":{"b":1}} and {"a.b":1} have one path by construction.
//
// Every salt holds a byte that no valid UTF-8 has: a key can never cancel it.
const (
	saltKeyA  = 0xff51afd7ed558ccd
	saltKeyB  = 0xc4ceb9fe1a85ecff
	saltPath  = 0xff9e3779b97f4a7c
	saltIndex = 0x94d049bb1331ffeb
	rootPath  = 0x2545f4914f6cdd1d

	tagString = 0x9fb21c651e98df25 // leaves that are strings
	tagPlain  = 0xd6e8feb86659fd93 // numbers, literals, {} and []: no two of them share a spelling
)

// fold multiplies to 128 bits and folds them to 64.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// extendShort is the path hash of a segment of n <= 16 bytes below path: w holds
// its first eight bytes, w2 the others, zero-padded.
func extendShort(path, w, w2 uint64, n int) uint64 {
	return fold(path^w^saltKeyA, w2^saltKeyB^uint64(n)<<32)
}

// extend is extendShort for a segment of any length.
func extend(path uint64, segment []byte) uint64 {
	if len(segment) > 16 {
		return fold(path^xxh3.Hash(segment), saltPath)
	}
	w, w2 := words(segment)
	return extendShort(path, w, w2, len(segment))
}

// words are up to 16 bytes as two words, zero-padded.
func words(b []byte) (w, w2 uint64) {
	var pad [16]byte
	copy(pad[:], b)
	return binary.LittleEndian.Uint64(pad[:8]), binary.LittleEndian.Uint64(pad[8:])
}

// shorts masks the words of a segment by its length; 17 stands for any longer.
var shorts = func() (m [18][2]uint64) {
	for i := range m {
		m[i] = [2]uint64{1<<(8*min(i, 8)) - 1, 1<<(8*max(i-8, 0)) - 1}
	}
	return m
}()

// extendIndex hashes the way through arrays: where is 0 outside of arrays, path
// that of the array. Indexes are kept apart from the path, because fields are
// found through arrays whatever the index, while the digest tells them apart.
func extendIndex(where, path, index uint64) uint64 {
	return fold(where+index+1, path^saltIndex) | 1 // never 0: that is "outside"
}

// hashLeaf hashes a leaf's contents under a seed. 16 bytes from its beginning on
// must be readable, as they are in an event with its sentinel, and in scratch.
//
// Most leaves are short, and no processor can guess how short: up to 16 bytes
// they take one way whatever their length, three rounds of a Feistel network over
// both words, so that two of one length and seed never collide. Longer ones are
// left to xxh3.
func hashLeaf(text []byte, seed uint64) (lo, hi uint64) {
	if len(text) <= 16 {
		short := &shorts[len(text)]
		return hashShort(load(text, 0)&short[0], load(text, 8)&short[1], len(text), seed)
	}
	h := xxh3.Hash128Seed(text, seed)
	return h.Lo, h.Hi
}

// hashShort is hashLeaf for n <= 16 bytes, zero-padded in two words.
func hashShort(x, y uint64, n int, seed uint64) (lo, hi uint64) {
	x ^= seed
	y ^= bits.RotateLeft64(seed, 32) + uint64(n)*saltIndex
	x += fold(y, saltKeyA)
	y ^= fold(x, saltKeyB)
	return x + fold(y, saltPath), y
}

// sum is an order-independent sum of leaf hashes.
type sum struct{ lo, hi, leaves uint64 }

func (s *sum) add(lo, hi uint64) {
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi, _ = bits.Add64(s.hi, hi, carry)
	s.leaves++
}

func (s *sum) addSum(t sum) {
	s.add(t.lo, t.hi)
	s.leaves += t.leaves - 1
}

// digest mixes the sum, so that near sums do not give near identities.
func (s *sum) digest() [16]byte {
	var b [24]byte
	binary.LittleEndian.PutUint64(b[0:], s.lo)
	binary.LittleEndian.PutUint64(b[8:], s.hi)
	binary.LittleEndian.PutUint64(b[16:], s.leaves)
	return xxh3.Hash128(b[:]).Bytes()
}

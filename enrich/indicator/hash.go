package indicator

// Member is one member of an object of hashes.
type Member struct{ Key, Value []byte }

// The lengths of the hashes that are looked up, in hexadecimal digits.
const (
	md5Len    = 32
	sha1Len   = 40
	sha256Len = 64

	other = 1 // of a hash that is not looked up
)

// AppendHashes picks the best hash of one object: SHA-256, else SHA-1, else
// MD5, by the members' keys; other keys (imphash, ssdeep, tlsh, pehash, …) are
// none. Where any of the three is in skip.hashes, the file is.
func (p *Parser) AppendHashes(dst []byte, members []Member) ([]byte, Found) {
	var pick picker
	for _, m := range members {
		if want := keyLen(m.Key); want > 0 {
			pick.add(p, trim(m.Value), want)
		}
	}
	dst, found := pick.append(dst)
	return dst, p.typed(found)
}

// appendHashes takes one hash, with or without its name before it, or a list.
func (p *Parser) appendHashes(dst, b []byte) ([]byte, Found) {
	var pick picker
	if hashLen(b) > 0 {
		pick.take(p, b)
		return pick.append(dst)
	}
	// A list is items NAME=hash, NAME:hash, NAME hash or hash, between commas and
	// the like. Words are what stands between spaces in it.
	for len(b) > 0 {
		end := 0
		for end < len(b) && !isListSeparator(b[end]) && b[end] > ' ' {
			end++
		}
		word := trim(b[:end])
		if len(word) > 0 {
			pick.word(p, word)
		}
		if end < len(b) && isListSeparator(b[end]) {
			pick.awaits = 0
		}
		b = b[min(end+1, len(b)):]
	}
	return pick.append(dst)
}

func isListSeparator(c byte) bool {
	return c == ',' || c == ';' || c == '|'
}

// picker keeps the best hash so far.
type picker struct {
	best    []byte
	allowed bool // one of them is in skip.hashes
	awaits  int  // length of the value that belongs to the name before, 0: there is none
}

// word takes a hash, a name, both, or the sign between them.
func (k *picker) word(p *Parser, b []byte) {
	cut := 0
	for cut < len(b) && b[cut] != '=' && b[cut] != ':' {
		cut++
	}
	name, value := trim(b[:cut]), trim(b[min(cut+1, len(b)):])
	if cut == len(b) { // one of the two
		if n := hashLen(b); n > 0 {
			if k.awaits == 0 || k.awaits == n {
				k.take(p, b)
			}
			k.awaits = 0
			return
		}
	}
	if len(name) > 0 {
		k.awaits = max(keyLen(name), other)
	}
	if len(value) > 0 {
		if k.awaits != 0 && k.awaits != other {
			k.add(p, value, k.awaits)
		}
		k.awaits = 0
	}
}

// add takes a value under a name that promises want digits.
func (k *picker) add(p *Parser, value []byte, want int) {
	if hashLen(value) == want {
		k.take(p, value)
	}
}

// take takes what is a hash.
func (k *picker) take(p *Parser, value []byte) {
	if len(p.hashes) > 0 {
		var buf [sha256Len]byte
		if _, ok := p.hashes[string(appendLowerHex(buf[:0], value))]; ok {
			k.allowed = true
		}
	}
	if len(value) > len(k.best) {
		k.best = value
	}
}

func (k *picker) append(dst []byte) ([]byte, Found) {
	start := len(dst)
	if k.best == nil {
		return dst, Found{Type: Hash, Skip: Invalid}
	}
	dst = appendLowerHex(dst, k.best)
	found := Found{Type: Hash, Canonical: dst[start:]}
	switch {
	case isJunkHash(found.Canonical):
		found.Skip = Junk
	case k.allowed:
		found.Skip = AllowListed
	}
	return dst, found
}

// hashLen is b's length if it is a hash, else 0.
func hashLen(b []byte) int {
	if len(b) != md5Len && len(b) != sha1Len && len(b) != sha256Len {
		return 0
	}
	for _, c := range b {
		if hexValue[c] == notHex {
			return 0
		}
	}
	return len(b)
}

// appendHash appends a hash in its canonical form; n is 0 if b is none.
func appendHash(dst, b []byte) (out []byte, n int) {
	if n = hashLen(b); n == 0 {
		return dst, 0
	}
	return appendLowerHex(dst, b), n
}

// appendLowerHex appends hexadecimal digits, in which one bit makes lower case
// and leaves digits as they are.
func appendLowerHex(dst, b []byte) []byte {
	start := len(dst)
	dst = append(dst, b...)
	for i := start; i < len(dst); i++ {
		dst[i] |= 0x20
	}
	return dst
}

// keyLen is the length of the hash that a name promises, 0 for names of others.
func keyLen(key []byte) int {
	switch {
	case equalFold(key, "md5"):
		return md5Len
	case equalFold(key, "sha1"), equalFold(key, "sha-1"):
		return sha1Len
	case equalFold(key, "sha256"), equalFold(key, "sha-256"):
		return sha256Len
	}
	return 0
}

// isJunkHash: all zeros, or the hash of nothing.
func isJunkHash(b []byte) bool {
	switch string(b) {
	case "d41d8cd98f00b204e9800998ecf8427e",
		"da39a3ee5e6b4b0d3255bfef95601890afd80709",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855":
		return true
	}
	for _, c := range b {
		if c != '0' {
			return false
		}
	}
	return true
}

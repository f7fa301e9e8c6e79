package indicator

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/net/publicsuffix"
)

// AppendText finds indicators in free text, in order, and calls yield for each
// until it returns false. Found.Canonical is valid only during the call. What
// is returned is dst without additions: it only lends its memory.
//
// Found are URLs with a scheme; addresses, but for those that are called a
// version; hashes that stand by themselves; and names whose suffix ICANN manages
// and that are no file's, by fileEndings. All may be defanged. Private and other
// skipped ones are yielded with their reason; what is invalid, junk or internal is
// no indicator here.
//
// The time is linear in the length of the text, and the memory does not grow
// with it: text without a gap is read maxToken bytes at a time, and what stands
// across such a cut may be missed or cut short.
func (p *Parser) AppendText(dst []byte, text []byte, yield func(Found) bool) []byte {
	s := scanner{p: p, dst: dst, base: len(dst), yield: yield}
	for i := 0; i < len(text) && !s.stopped; {
		if isGap(text[i]) {
			i++
			continue
		}
		end := i + 1
		for end < len(text) && !isGap(text[end]) {
			end++
		}
		for end-i > maxToken && !s.stopped {
			cut := i + maxToken
			if sign := bytes.LastIndexAny(text[cut-maxURL:cut], ",;"); sign >= 0 { // a list, most likely
				cut += sign + 1 - maxURL
			}
			s.token(text[i:cut])
			i = cut
		}
		if !s.stopped {
			s.token(text[i:end])
		}
		i = end
	}
	return s.dst[:s.base]
}

// maxToken is how much text without a gap is read at once.
const maxToken = 64 << 10

// isGap: no indicator goes on behind it.
func isGap(c byte) bool {
	return c <= ' ' || c == 0x7f || c == '"' || c == '<' || c == '>' || c == '`' || c == '|'
}

// scanner is one walk through a text.
type scanner struct {
	p       *Parser
	dst     []byte
	base    int // length of what the caller had in dst
	yield   func(Found) bool
	version bool // the last word says that a version follows
	stopped bool
}

// token is text without gaps: a URL with what stands before it, or words.
func (s *scanner) token(b []byte) {
	s.dst = s.dst[:s.base]
	defanged := isDefanged(b)
	if defanged {
		s.dst = appendRefanged(s.dst, b)
		b = s.dst[s.base:]
	}
	for len(b) > 0 && !s.stopped {
		from := nextURL(b)
		s.words(b[:from], defanged)
		if from == len(b) {
			return
		}
		// The URL ends where the token does, or before the next one in a list.
		end := from + len("ftp://")
		for end < len(b) {
			next := nextURL(b[end:])
			end += next
			if end == len(b) || isListSign(b[end-1]) {
				break
			}
			end += min(len("ftp://"), len(b)-end)
		}
		end = from + typographicEnd(b[from:end])
		if !s.stopped {
			s.url(b[from:end])
		}
		b = b[end:]
	}
}

// typographicEnd is where a URL ends because of a quotation mark, bracket, comma,
// space or the like beyond ASCII, which hardly any URL has as it is, or len(b).
// Symbols may stand in it: there are names of emoji.
func typographicEnd(b []byte) int {
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if unicode.In(r, unicode.Z, unicode.P) && r != '\u00b7' || isInvisible(r) { // the dot in the middle of Catalan words
			return i
		}
		i += n
	}
	return len(b)
}

// isInvisible: a space without width, or a byte order mark.
func isInvisible(r rune) bool { return r == '\u200b' || r == '\ufeff' }

// isWordRune: part of a name in some script. The ideographic full stop, which
// IDN takes for a dot, is the end of a sentence more often.
func isWordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.Cf) && !isInvisible(r)
}

// spaceless are scripts that are written without spaces: a name in ASCII may
// stand right beside their letters.
var spaceless = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar}

func isListSign(c byte) bool {
	return c == ',' || c == ';' || c == ')' || c == ']' || c == '}' || c == '\''
}

// nextURL is where the next URL with a scheme of ours begins, or len(b).
func nextURL(b []byte) int {
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte("://"))
		if i < 0 {
			return len(b)
		}
		colon := at + i
		from := colon
		for from > 0 && colon-from < maxScheme && (isAlnum(b[from-1]) || b[from-1] == '*') {
			from--
		}
		// "xhttp" is none of ours, but in "ahttp://" after other text nobody knows.
		for ; from < colon; from++ {
			if means, n := schemeOf(b[from:]); means != "" && from+n == colon && (from == 0 || !isAlnum(b[from-1])) {
				return from
			}
		}
		at = colon + len("://")
	}
}

// url yields a URL less what the sentence around it put behind it.
func (s *scanner) url(b []byte) {
	round, square, curly := 0, 0, 0
	for _, c := range b {
		switch c {
		case '(':
			round++
		case ')':
			round--
		case '[':
			square++
		case ']':
			square--
		case '{':
			curly++
		case '}':
			curly--
		}
	}
	for n := len(b); n > 0; n = len(b) {
		switch b[n-1] {
		case '.', ',', ';', ':', '!', '?', '\'', '*':
		case ')': // belongs to the URL if it was opened in it
			if round >= 0 {
				n = 0
			}
			round++
		case ']':
			if square >= 0 {
				n = 0
			}
			square++
		case '}':
			if curly >= 0 {
				n = 0
			}
			curly++
		default:
			n = 0
		}
		if n == 0 {
			break
		}
		b = b[:n-1]
	}
	s.version = false
	mark := len(s.dst)
	dst, found := s.p.appendURL(s.dst, b)
	s.give(dst, mark, found)
}

// words looks for all else between signs that are in no address, hash or name.
func (s *scanner) words(b []byte, defanged bool) {
	for i := 0; i < len(b) && !s.stopped; {
		end := i
		for before := neutral; end < len(b); {
			n, class := 1, wordClasses[b[end]]
			if class == beyond {
				n, class = wordRune(b[end:])
			}
			if class == none || before != neutral && class != neutral && class != before {
				break
			}
			end, before = end+n, class
		}
		if end == i {
			_, n := utf8.DecodeRune(b[i:])
			i += n
			continue
		}
		// What stands behind a single slash or backslash is a path's, what stands
		// before an @ a mailbox, but for Windows: \\example.com@SSL\share.
		named := end == len(b) || b[end] != '@' || i > 1 && b[i-1] == '\\' && b[i-2] == '\\'
		if i > 0 && isSlash(b[i-1]) && (i == 1 || b[i-2] != b[i-1]) {
			named = false
		}
		s.word(b[i:end], named, defanged)
		i = end
	}
}

// What a byte or letter is to a word. Between ascii and foreign a word ends,
// whatever is before or behind.
type wordClass uint8

const (
	none    wordClass = iota // in no word
	neutral                  // in any
	ascii                    // letters and digits
	foreign                  // letters of spaceless scripts
	beyond                   // a byte that only tells with those behind it
)

var wordClasses = func() (t [256]wordClass) {
	for c := range t {
		switch c := byte(c); {
		case isAlnum(c):
			t[c] = ascii
		case c == '.' || c == '-' || c == '_' || c == ':':
			t[c] = neutral
		case c >= utf8.RuneSelf:
			t[c] = beyond
		}
	}
	return t
}()

// wordRune is the length and class of the letter that b begins with.
func wordRune(b []byte) (int, wordClass) {
	r, n := utf8.DecodeRune(b)
	switch {
	case !isWordRune(r):
		return n, none
	case unicode.In(r, spaceless...):
		return n, foreign
	}
	return n, neutral
}

// word is an IPv6 address, or things between colons.
func (s *scanner) word(b []byte, named, defanged bool) {
	if a := bytes.TrimRight(b, ".-_"); len(a) >= len("::1") && len(a) <= 46 && bytes.Count(a, []byte(":")) >= 2 {
		if bytes.HasSuffix(a, []byte(":")) && !bytes.HasSuffix(a, []byte("::")) {
			a = a[:len(a)-1]
		}
		// abc::def is C++.
		if _, ok := parseIPv6(a); ok && bytes.ContainsAny(a, "0123456789") {
			mark := len(s.dst)
			dst, found := s.p.appendIP(s.dst, a)
			s.give(dst, mark, found)
			return
		}
	}
	for len(b) > 0 && !s.stopped {
		part := b
		if i := bytes.IndexByte(b, ':'); i >= 0 {
			part, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		s.part(bytes.Trim(part, ".-_"), named, defanged)
	}
}

// part is an IPv4 address, a hash, a name, or nothing.
func (s *scanner) part(b []byte, named, defanged bool) {
	if len(b) == 0 {
		return
	}
	version := s.version
	s.version = isVersion(b)
	mark := len(s.dst)
	switch {
	case len(b) < 4 || len(b) > maxName: // a longer one that mapping makes short enough is not written by people
	case hashLen(b) > 0:
		dst, found := s.p.appendHashes(s.dst, b)
		s.give(dst, mark, found)
	case bytes.IndexByte(b, '.') < 0:
	case len(b) <= 15 && isIPv4(b):
		if !version {
			dst, found := s.p.appendIP(s.dst, b)
			s.give(dst, mark, found)
		}
	case named:
		dst, found := s.p.appendHost(s.dst, b, false)
		if found.Type == Domain && found.Skip != Invalid && !isPublic(found.Canonical, defanged) {
			found.Skip = Invalid
		}
		s.give(dst, mark, found)
	}
}

// isVersion: four numbers behind version, FileVersion or os_version are one, not
// an address. (Not behind v: that is nc -v 203.0.113.7.) Risk accepted: so may
// somebody hide an address from this reader of text, though from no field.
func isVersion(b []byte) bool {
	const word = "version"
	n := len(b) - len(word)
	return n >= 0 && equalFold(b[n:], word) && (n == 0 || b[n] == 'V' || b[n-1] == '_' || b[n-1] == '-')
}

func isIPv4(b []byte) bool {
	_, ok := parseIPv4(b)
	return ok
}

// give yields what is an indicator, and takes its bytes back.
func (s *scanner) give(dst []byte, mark int, f Found) {
	if f.Skip != Invalid && f.Skip != Junk && f.Skip != Internal {
		s.stopped = !s.yield(s.p.typed(f))
	}
	s.dst = dst[:mark]
}

// fileEndings are top-level domains that are met far more often as the ending
// of a file's name. A name of two labels with one of them is no domain in free
// text, unless it is defanged: nobody defangs a file.
const fileEndings = " app bz cab cat cc md mk ml mm mov pl pm ps pub py rs sh so tf zip "

// isPublic: a name below a suffix that ICANN manages, or one that such a name's
// owner opened to others.
func isPublic(name []byte, defanged bool) bool {
	dot := bytes.LastIndexByte(name, '.')
	if dot < 0 {
		return false
	}
	// The string shares name's bytes, and is forgotten before they change.
	whole := unsafe.String(unsafe.SliceData(name), len(name))
	suffix, icann := publicsuffix.PublicSuffix(whole)
	if icann && len(suffix) == len(whole) || !icann && !strings.Contains(suffix, ".") {
		return false
	}
	if !defanged && bytes.IndexByte(name, '.') == dot && strings.Contains(fileEndings, " "+whole[dot+1:]+" ") {
		return false
	}
	return true
}

package indicator

import (
	"bytes"
	"strconv"
)

// maxURL is the longest URL, as given and as it comes out.
const maxURL = 8 << 10

// What of a URL does not leave, as bits.
const (
	leftPath = 1 << iota
	leftQuery
	leftUser
	leftFragment
	leftAll = 1<<iota - 1
)

// leftOut has the words for every combination, so that none is made per URL.
var leftOut = func() (words [leftAll + 1]string) {
	for bits := range words {
		s := ""
		add := func(word string) {
			if s != "" {
				s += ", "
			}
			s += word
		}
		switch bits & (leftPath | leftQuery) {
		case leftPath:
			add("path")
		case leftQuery:
			add("query")
		case leftPath | leftQuery:
			add("path and query")
		}
		if bits&leftUser != 0 {
			add("user info")
		}
		if bits&leftFragment != 0 {
			add("fragment")
		}
		words[bits] = s
	}
	return words
}()

// hasScheme: b begins with something:// or with one of our schemes.
func hasScheme(b []byte) bool {
	head := b[:min(len(b), 24)]
	if isDefanged(head) {
		head = appendRefanged(nil, head)
	}
	if means, n := schemeOf(head); means != "" && n+1 < len(head) && isSlash(head[n+1]) {
		return true
	}
	return genericScheme(head)
}

// genericScheme: letters and then ://.
func genericScheme(b []byte) bool {
	i := bytes.Index(b, []byte("://"))
	if i <= 0 {
		return false
	}
	for _, c := range b[:i] {
		if !isAlnum(c) && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func isSlash(c byte) bool { return c == '/' || c == '\\' }

// appendURL takes an http, https or ftp URL, or one without a scheme, which is
// taken for http if its host has a dot in it or is an address.
//
// Host and scheme become canonical, as browsers read them: a backslash is a
// slash, any number of them follows the scheme, user info ends at the last @.
// Path and query stay as they are, but for bytes that may not stand in a URL,
// which are percent-encoded: dot segments and the case of percent-encodings
// mean what the server makes of them.
func (p *Parser) appendURL(dst, b []byte) ([]byte, Found) {
	start := len(dst)
	invalid := Found{Type: URL, Skip: Invalid}
	if len(b) > maxURL {
		return dst, invalid
	}
	scheme, n := schemeOf(b)
	if isDefanged(b[:authorityEnd(b)]) || scheme != "" && !equalFold(b[:n], scheme) {
		b = appendRefanged(nil, b)
		scheme, n = schemeOf(b)
	}
	switch {
	case scheme != "" && n+1 < len(b) && isSlash(b[n+1]):
		b = b[n+1:]
		for len(b) > 0 && isSlash(b[0]) {
			b = b[1:]
		}
	case genericScheme(b):
		return dst, invalid
	default:
		scheme = ""
	}

	end := 0
	for end < len(b) && !isSlash(b[end]) && b[end] != '?' && b[end] != '#' {
		end++
	}
	authority, rest := b[:end], b[end:]
	left := 0
	if i := bytes.LastIndexByte(authority, '@'); i >= 0 {
		if scheme == "" {
			return dst, invalid // an e-mail address, most likely
		}
		left |= leftUser
		authority = authority[i+1:]
	}
	host, port, ok := splitPort(authority)
	if !ok {
		return dst, invalid
	}
	if bytes.IndexByte(host, '%') >= 0 && host[0] != '[' {
		var hostBuf [256]byte
		if host, ok = appendUnescaped(hostBuf[:0], host); !ok {
			return dst, invalid
		}
	}

	query := []byte(nil)
	if i := bytes.IndexByte(rest, '#'); i >= 0 {
		if i+1 < len(rest) {
			left |= leftFragment
		}
		rest = rest[:i]
	}
	if i := bytes.IndexByte(rest, '?'); i >= 0 {
		rest, query = rest[:i], rest[i:]
		if len(query) == 1 {
			query = nil // an empty query asks nothing
		}
	}

	if p.parts == hostOnly {
		if len(rest) > 1 {
			left |= leftPath
		}
		if query != nil {
			left |= leftQuery
		}
		dst, found := p.appendURLHost(dst, host, scheme)
		found.LeftOut = leftOut[left]
		return dst, found
	}

	word := scheme
	if word == "" {
		word = "http"
	}
	dst = append(append(dst, word...), "://"...)
	hostStart := len(dst)
	dst, found := p.appendURLHost(dst, host, scheme)
	if found.Skip == Invalid {
		return dst[:start], invalid
	}
	if found.Type == IP && bytes.IndexByte(found.Canonical, ':') >= 0 {
		dst = append(dst, 0, 0)
		copy(dst[hostStart+1:], dst[hostStart:len(dst)-2])
		dst[hostStart], dst[len(dst)-1] = '[', ']'
	}
	if port > 0 && port != defaultPort(word) {
		dst = append(dst, ':')
		dst = strconv.AppendUint(dst, uint64(port), 10)
	}
	if len(rest) == 0 {
		dst = append(dst, '/')
	}
	dst = appendEscaped(dst, rest, true)
	if query != nil {
		if p.parts == stripQuery {
			left |= leftQuery
		} else {
			dst = appendEscaped(dst, query, false)
		}
	}
	if len(dst)-start > maxURL {
		return dst[:start], invalid
	}
	return dst, Found{Type: URL, Skip: found.Skip, Canonical: dst[start:], LeftOut: leftOut[left]}
}

// appendURLHost appends the host. Without a scheme before it, a single label is
// more likely a word than a host.
func (p *Parser) appendURLHost(dst, host []byte, scheme string) ([]byte, Found) {
	if len(host) > 0 && host[0] == '[' {
		return p.appendIP(dst, host)
	}
	if bytes.IndexByte(host, ':') >= 0 {
		return dst, Found{Type: URL, Skip: Invalid}
	}
	start := len(dst)
	dst, found := p.appendHost(dst, host, scheme != "")
	if scheme == "" && found.Type == Domain && found.Skip == Internal && bytes.IndexByte(found.Canonical, '.') < 0 {
		return dst[:start], Found{Type: URL, Skip: Invalid}
	}
	return dst, found
}

// authorityEnd is where scheme and authority end: whether a URL is defanged is
// told by them, since brackets in a path may be just that.
func authorityEnd(b []byte) int {
	i := 0
	if colon := bytes.IndexByte(b[:min(len(b), maxScheme+2)], ':'); colon >= 0 {
		i = colon
		for i < len(b) && (b[i] == ':' || b[i] == '[' || b[i] == ']' || isSlash(b[i])) {
			i++
		}
	}
	for i < len(b) && !isSlash(b[i]) && b[i] != '?' && b[i] != '#' {
		i++
	}
	return i
}

// splitPort takes the port off an authority; 0: there is none.
func splitPort(b []byte) (host []byte, port int, ok bool) {
	i := bytes.LastIndexByte(b, ':')
	if i < 0 || b[len(b)-1] == ']' {
		return b, 0, len(b) > 0
	}
	host, digits := b[:i], b[i+1:]
	for _, c := range digits {
		if !isDigit(c) {
			return nil, 0, false
		}
		if port = port*10 + int(c-'0'); port > 65535 {
			return nil, 0, false
		}
	}
	return host, port, len(host) > 0 && (port > 0 || len(digits) == 0)
}

func defaultPort(scheme string) int {
	switch scheme {
	case "https":
		return 443
	case "ftp":
		return 21
	default:
		return 80
	}
}

// appendUnescaped undoes percent-encoding.
func appendUnescaped(dst, b []byte) ([]byte, bool) {
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '%' {
			if i+2 >= len(b) || !isHex(b[i+1]) || !isHex(b[i+2]) {
				return nil, false
			}
			c = hexValue[b[i+1]]<<4 | hexValue[b[i+2]]
			i += 2
		}
		dst = append(dst, c)
	}
	return dst, true
}

// appendEscaped appends a path or a query with everything percent-encoded that
// may not stand there as it is. A % that begins no encoding is encoded itself.
func appendEscaped(dst, b []byte, path bool) []byte {
	const hex = "0123456789ABCDEF"
	for i, c := range b {
		switch {
		case c == '\\' && path:
			dst = append(dst, '/')
		case c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' || c == '`' || c == '{' || c == '}' || c == '^' || c == '|' || c == '\\',
			c == '%' && (i+2 >= len(b) || !isHex(b[i+1]) || !isHex(b[i+2])):
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

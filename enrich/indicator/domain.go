package indicator

import (
	"bytes"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const (
	maxName  = 253 // RFC 1035, without the dot at the end
	maxLabel = 63
	// maxRawName bounds what is given to the slow path: a name in Unicode is
	// never this much longer than what it becomes.
	maxRawName = 4 * maxName
)

// unicodeNames maps names as browsers do before a look-up (UTS 46,
// nontransitional), but lets underscores and hyphens pass, which DNS knows:
// appendName has its own rules for what may stand where.
var unicodeNames = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false))

// appendHost takes a domain or an IP address. In a URL, web, an address may be
// spelled in all ways that browsers read.
func (p *Parser) appendHost(dst, b []byte, web bool) ([]byte, Found) {
	if endsLikeIP(b) {
		if ip, found := p.appendIP(dst, b); found.Skip != Invalid {
			return ip, found
		}
	}
	start := len(dst)
	if isDefanged(b) {
		b = appendRefanged(nil, b)
	}
	dst, ok := appendName(dst, b)
	if !ok {
		// What mapping makes of digits that only look like ours may be an address.
		if mapped := dst[start:]; len(mapped) > 0 {
			addr, ok := parseIPv4(mapped)
			if !ok && web {
				addr, ok = parseWebIPv4(mapped)
			}
			if ok {
				return p.appendIP(dst[:start], addr.AppendTo(nil))
			}
		}
		return dst[:start], Found{Type: Domain, Skip: Invalid}
	}
	found := Found{Type: Domain, Canonical: dst[start:]}
	switch {
	case isInternal(found.Canonical):
		found.Skip = Internal
	case p.allowsDomain(found.Canonical):
		found.Skip = AllowListed
	}
	return dst, found
}

// endsLikeIP saves most names the attempt to read them as an address.
func endsLikeIP(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	last := b[len(b)-1]
	return isHex(last) || last == ':' || last == ']' || bytes.IndexByte(b, '%') >= 0
}

// allowsDomain: the name or one above it is in skip.domains.
func (p *Parser) allowsDomain(name []byte) bool {
	if len(p.domains) == 0 {
		return false
	}
	for {
		if _, ok := p.domains[string(name)]; ok {
			return true
		}
		i := bytes.IndexByte(name, '.')
		if i < 0 {
			return false
		}
		name = name[i+1:]
	}
}

// appendName appends a domain name in its canonical form: lower case, IDN as
// punycode, no dot at the end. Where ok is false, what was appended is no name.
func appendName(dst, b []byte) (out []byte, ok bool) {
	start := len(dst)
	dst, ascii := appendASCIIName(dst, b)
	if !ascii {
		if len(b) > maxRawName || !utf8.Valid(b) {
			return dst[:start], false
		}
		mapped, err := unicodeNames.ToASCII(string(b))
		if err != nil {
			return dst[:start], false
		}
		if dst, ascii = appendASCIIName(dst[:start], []byte(mapped)); !ascii {
			return dst[:start], false
		}
	}
	return dst, isName(dst[start:])
}

// appendASCIIName lower-cases; it is false at the first byte that is not ASCII.
func appendASCIIName(dst, b []byte) ([]byte, bool) {
	if n := len(b); n > 1 && b[n-1] == '.' {
		b = b[:n-1]
	}
	start := len(dst)
	dst = append(dst, b...)
	for i, c := range dst[start:] {
		if c >= 0x80 {
			return dst, false
		}
		dst[start+i] = lower(c)
	}
	return dst, true
}

// isName checks a name in lower case: letters, digits, hyphens that are neither
// first nor last in a label, underscores; and a last label that no program takes
// for a number, or the name would be an address.
func isName(b []byte) bool {
	if len(b) == 0 || len(b) > maxName {
		return false
	}
	label := 0
	for i := 0; i <= len(b); i++ {
		if i < len(b) && b[i] != '.' {
			c := b[i]
			if !('a' <= c && c <= 'z' || isDigit(c) || c == '_' || c == '-') {
				return false
			}
			continue
		}
		if i == label || i-label > maxLabel || b[label] == '-' || b[i-1] == '-' {
			return false
		}
		if i == len(b) {
			break
		}
		label = i + 1
	}
	return !isNumber(b[label:])
}

// isNumber: decimal, or hexadecimal after 0x.
func isNumber(label []byte) bool {
	digit := isDigit
	if len(label) >= 2 && label[0] == '0' && label[1] == 'x' {
		label, digit = label[2:], isHex
	}
	for _, c := range label {
		if !digit(c) {
			return false
		}
	}
	return true
}

// isInternal: a name that means something only inside a network: single labels,
// top-level domains that are kept for it (RFC 2606, 6761, 6762, 8375, ICANN's
// .internal, and habit), reverse zones, and labels that begin with _, which name
// services rather than hosts.
func isInternal(name []byte) bool {
	dot := bytes.LastIndexByte(name, '.')
	if dot < 0 || name[0] == '_' {
		return true
	}
	switch string(name[dot+1:]) {
	case "local", "localhost", "internal", "lan", "corp", "test", "invalid", "example":
		return true
	case "arpa":
		above := name[bytes.LastIndexByte(name[:dot], '.')+1:]
		switch string(above) {
		case "home.arpa", "in-addr.arpa", "ip6.arpa":
			return true
		}
	}
	for i := 1; i < len(name); i++ {
		if name[i] == '_' && name[i-1] == '.' {
			return true
		}
	}
	return false
}

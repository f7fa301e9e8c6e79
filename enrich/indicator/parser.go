package indicator

import (
	"fmt"
	"net/netip"
	"strings"
)

// Config is what leaves the house and what does not. Zero values: nothing added
// to the built-in skip rules; all types on; URLs with strip_query.
type Config struct {
	Types    []Type         // vt.types; empty: all
	URLParts string         // "full", "strip_query" (default), "host"
	Networks []netip.Prefix // skip.networks, beside the built-in ones
	Domains  []string       // skip.domains: the name and everything below it
	Hashes   []string       // skip.hashes
}

// Parser makes canonical indicators. It is immutable and safe for concurrent use.
type Parser struct {
	off      [Hash + 1]bool // types that are not looked up
	parts    urlParts
	networks networks
	domains  map[string]struct{}
	hashes   map[string]struct{}
}

// urlParts says what of a URL leaves.
type urlParts uint8

const (
	stripQuery urlParts = iota
	fullURL
	hostOnly
)

// NewParser checks and compiles the rules.
func NewParser(cfg Config) (*Parser, error) {
	p := &Parser{
		domains: make(map[string]struct{}, len(cfg.Domains)),
		hashes:  make(map[string]struct{}, len(cfg.Hashes)),
	}
	if len(cfg.Types) > 0 {
		for t := range p.off {
			p.off[t] = true
		}
	}
	for _, t := range cfg.Types {
		if t == None || t > Hash {
			return nil, fmt.Errorf("vt.types: no type of indicator: %d", t)
		}
		p.off[t] = false
	}
	switch cfg.URLParts {
	case "", "strip_query":
		p.parts = stripQuery
	case "full":
		p.parts = fullURL
	case "host":
		p.parts = hostOnly
	default:
		return nil, fmt.Errorf("vt.url_parts: unknown word %q: use full, strip_query or host", cfg.URLParts)
	}
	var err error
	if p.networks, err = newNetworks(cfg.Networks); err != nil {
		return nil, err
	}
	for _, d := range cfg.Domains {
		// .example.org and *.example.org are how others write the same.
		name := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(d), "*"), ".")
		canonical, ok := appendName(nil, []byte(name))
		if !ok {
			return nil, fmt.Errorf("skip.domains: %q is no domain: give a name such as example.org", d)
		}
		p.domains[string(canonical)] = struct{}{}
	}
	for _, h := range cfg.Hashes {
		canonical, n := appendHash(nil, []byte(strings.TrimSpace(h)))
		if n == 0 {
			return nil, fmt.Errorf("skip.hashes: %q is no MD5, SHA-1 or SHA-256 in hexadecimal digits", h)
		}
		p.hashes[string(canonical)] = struct{}{}
	}
	return p, nil
}

// Found is one indicator, or a value that is none. Canonical is valid where
// Skip is empty or names a rule that knows the indicator; for Invalid and Junk
// it may be empty.
type Found struct {
	Type      Type // for Invalid and Junk what was looked for, None where that is open
	Skip      Skip
	Canonical []byte // appended to the dst that was given
	LeftOut   string // what of a URL does not leave: "", "query", "query, user info", "path and query", …
}

// Append canonicalises one value of a field. It appends the canonical form to
// dst and returns it with the extended dst. KindScan is for AppendText. A
// KindHash value may be one hash or a list like Sysmon's
// "SHA1=…,MD5=…,SHA256=…,IMPHASH=…": the best one counts.
//
// KindDomain also takes an IP address, since a TLS server name may be one; its
// type is then IP. KindURL also takes what has no scheme (example.com/path,
// example.com): it is taken for http. KindAuto tries hash, IP, URL with a
// scheme, domain, in this order.
func (p *Parser) Append(dst []byte, kind Kind, value []byte) ([]byte, Found) {
	start := len(dst)
	value = trim(value)
	found := Found{Type: kind.wants()}
	if isJunk(value) {
		found.Skip = Junk
		return dst, found
	}
	switch kind {
	case KindIP:
		dst, found = p.appendIP(dst, value)
	case KindDomain:
		dst, found = p.appendHost(dst, value, false)
	case KindURL:
		dst, found = p.appendURL(dst, value)
	case KindHash:
		dst, found = p.appendHashes(dst, value)
	case KindAuto:
		dst, found = p.appendAuto(dst, value)
	default:
		found.Skip = Invalid
	}
	if found.Skip == Invalid {
		dst = dst[:start]
		found.Canonical, found.LeftOut = nil, ""
		found.Type = kind.wants()
		return dst, found
	}
	if isJunk(found.Canonical) { // "NA." is so only once it is canonical
		return dst[:start], Found{Type: kind.wants(), Skip: Junk}
	}
	return dst, p.typed(found)
}

// appendAuto lets the value tell its type. A URL may hold what looks like a
// list of hashes, and nothing with a scheme is a hash or an address.
func (p *Parser) appendAuto(dst, b []byte) ([]byte, Found) {
	if hasScheme(b) {
		return p.appendURL(dst, b)
	}
	if len(b) >= md5Len {
		if out, found := p.appendHashes(dst, b); found.Skip != Invalid {
			return out, found
		}
	}
	return p.appendHost(dst, b, false)
}

// typed applies vt.types.
func (p *Parser) typed(f Found) Found {
	if f.Skip == Lookup && p.off[f.Type] {
		f.Skip = TypeOff
	}
	return f
}

// wants is the type that a field of the kind should hold.
func (k Kind) wants() Type {
	switch k {
	case KindIP:
		return IP
	case KindDomain:
		return Domain
	case KindURL:
		return URL
	case KindHash:
		return Hash
	default:
		return None
	}
}

// trim takes white space, and quotes and angle brackets in pairs, off both ends.
func trim(b []byte) []byte {
	for {
		b = trimSpace(b)
		if len(b) < 2 {
			return b
		}
		first, last := b[0], b[len(b)-1]
		switch {
		case first < 0x80 && first != '"' && first != '\'' && first != '`' && first != '<':
			return b
		case first == last && first < 0x80 && first != '<', first == '<' && last == '>':
			b = b[1 : len(b)-1]
		case len(b) >= 6 && (string(b[:3]) == "“" && string(b[len(b)-3:]) == "”" || string(b[:3]) == "‘" && string(b[len(b)-3:]) == "’"):
			b = b[3 : len(b)-3]
		default:
			return b
		}
	}
}

// trimSpace takes off what nobody sees: ASCII white space and control
// characters, the no-break space, the zero-width space, the byte order mark.
func trimSpace(b []byte) []byte {
	for len(b) > 0 {
		switch {
		case b[0] <= ' ' || b[0] == 0x7f:
			b = b[1:]
			continue
		case b[0] < 0x80:
		case len(b) >= 2 && string(b[:2]) == "\u00a0":
			b = b[2:]
			continue
		case len(b) >= 3 && (string(b[:3]) == "\u200b" || string(b[:3]) == "\ufeff"):
			b = b[3:]
			continue
		}
		break
	}
	for n := len(b); n > 0; n = len(b) {
		switch {
		case b[n-1] <= ' ' || b[n-1] == 0x7f:
			b = b[:n-1]
			continue
		case b[n-1] < 0x80:
		case n >= 2 && string(b[n-2:]) == "\u00a0":
			b = b[:n-2]
			continue
		case n >= 3 && (string(b[n-3:]) == "\u200b" || string(b[n-3:]) == "\ufeff"):
			b = b[:n-3]
			continue
		}
		break
	}
	return b
}

const maxJunk = 11 // longest word below

// isJunk: what log sources write where they have no value.
func isJunk(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if len(b) > maxJunk {
		return false
	}
	switch b[0] { // most values end here
	case '-', '?', '.', '*', '(', '<', '[', '{', 'n', 'N', 'u', 'U', 'e', 'E':
	default:
		return false
	}
	var buf [maxJunk]byte
	for i, c := range b {
		buf[i] = lower(c)
	}
	switch string(buf[:len(b)]) {
	case "-", "--", "---", "?", ".", "*", "n/a", "na", "n.a.", "nan", "none", "(none)", "<none>", "nil", "(nil)", "<nil>", "null", "(null)", "<null>",
		"unknown", "(unknown)", "<unknown>", "undefined", "empty", "(empty)", "<empty>", "not found", "notfound", "{}", "[]", "()":
		return true
	}
	return false
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool { return hexValue[c] != notHex }

const notHex = 0xff

// hexValue has the value of each hexadecimal digit.
var hexValue = func() (t [256]byte) {
	for c := range t {
		switch c := byte(c); {
		case isDigit(c):
			t[c] = c - '0'
		case 'a' <= lower(c) && lower(c) <= 'f':
			t[c] = lower(c) - 'a' + 10
		default:
			t[c] = notHex
		}
	}
	return t
}()

func isAlnum(c byte) bool {
	c = lower(c)
	return isDigit(c) || 'a' <= c && c <= 'z'
}

// equalFold compares with a word in lower-case ASCII.
func equalFold(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		if lower(b[i]) != word[i] {
			return false
		}
	}
	return true
}

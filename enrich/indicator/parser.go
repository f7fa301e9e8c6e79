package indicator

import "net/netip"

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
type Parser struct{}

// NewParser checks and compiles the rules.
func NewParser(cfg Config) (*Parser, error) { panic("not written yet") }

// Found is one indicator, or a value that is none. Canonical is valid where
// Skip is empty or names a rule that knows the indicator; for Invalid and Junk
// it may be empty.
type Found struct {
	Type      Type
	Skip      Skip
	Canonical []byte // appended to the dst that was given
	LeftOut   string // what of a URL does not leave: "", "query", "user info", "path and query", …
}

// Append canonicalises one value of a field. It appends the canonical form to
// dst and returns it with the extended dst. KindScan is for AppendText. A
// KindHash value may be one hash or a list like Sysmon's
// "SHA1=…,MD5=…,SHA256=…,IMPHASH=…": the best one counts.
func (p *Parser) Append(dst []byte, kind Kind, value []byte) ([]byte, Found) {
	panic("not written yet")
}

// Member is one member of an object of hashes.
type Member struct{ Key, Value []byte }

// AppendHashes picks the best hash of one object: SHA-256, else SHA-1, else
// MD5, by the members' keys; other keys (imphash, ssdeep, tlsh, pehash, …) are none.
func (p *Parser) AppendHashes(dst []byte, members []Member) ([]byte, Found) {
	panic("not written yet")
}

// AppendText finds indicators in free text, in order, and calls yield for each
// until it returns false. Found.Canonical is valid only during the call.
func (p *Parser) AppendText(dst []byte, text []byte, yield func(Found) bool) []byte {
	panic("not written yet")
}

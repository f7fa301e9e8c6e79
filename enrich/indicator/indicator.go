// Package indicator turns values of events into indicators of compromise: one
// canonical spelling and a type, or the reason why a value is none.
//
// Promise: two spellings of one indicator become the same bytes, whatever comes
// out is safe to put into a URL path after escaping, and nothing that the skip
// rules cover ever comes out as something to look up.
//
// Where programs disagree about what a spelling means (010.0.0.1, 0x7f.1,
// 2130706433 as addresses), it is none: a wrong look-up costs more than a missed
// one. In a URL browsers agree, and are followed, since it is written for them: a
// backslash is a slash, http://2130706433/ leads to 127.0.0.1, and a name of
// digits that only look like ours is an address.
//
// Where to look: parser.go has the rules and the order in which things are
// tried, refang.go what analysts write, hash.go, ip.go, domain.go and url.go one
// type each, text.go free text, fields.go the setting that names the fields.
package indicator

// Type is what an indicator is.
type Type uint8

const (
	None Type = iota
	IP
	Domain
	URL
	Hash
)

// String is the type's word in settings, documents and metrics.
func (t Type) String() string { return [...]string{"none", "ip", "domain", "url", "hash"}[t] }

// Kind is what the settings say a field holds.
type Kind uint8

const (
	KindAuto   Kind = iota // the value tells its type
	KindIP                 // ":ip"
	KindDomain             // ":domain"
	KindURL                // ":url"
	KindHash               // ":hash", also an object of hashes or a Sysmon list
	KindScan               // ":scan", free text that may hold several indicators
)

// Skip says why a value is not looked up; the empty string means that it is.
type Skip string

const (
	Lookup      Skip = ""
	Private     Skip = "private"      // private, loopback, link-local, CGNAT
	Reserved    Skip = "reserved"     // multicast, reserved, unspecified
	Internal    Skip = "internal"     // names that only mean something inside
	AllowListed Skip = "allow_listed" // the operator's own skip.* entries
	Invalid     Skip = "invalid"      // not of the field's type
	Junk        Skip = "junk"         // empty-file and all-zero hashes, "-", "N/A"
	TypeOff     Skip = "type_off"     // not in vt.types
	TooMany     Skip = "too_many"     // beyond fields_max_values
)

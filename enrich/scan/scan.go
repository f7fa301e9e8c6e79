// Package scan reads an event's JSON once, without decoding it.
//
// Promise: one pass over the bytes validates strictly (RFC 8259, UTF-8, at most
// 1,000 levels), computes the identity digest, finds the configured fields and
// the places where the document is spliced in; for a valid event exactly one
// valid line comes out, in which all else is byte for byte what came in, but
// for the exceptions that the contract names. It allocates nothing per event.
package scan

// MaxDepth is how deeply objects and arrays of an event may nest.
const MaxDepth = 1000

// Field is one configured field.
type Field struct {
	Path string // dotted; found nested, dotted and in any mixture of both
	// Hashes: the path may also name an object whose members are hashes; its
	// string members then come out as values of one Group, with their Key.
	Hashes bool
}

// Value is one string found under a configured field. Numbers, booleans and
// null are no values.
type Value struct {
	Field int    // index in Config.Fields
	Text  []byte // the string's contents, unescaped; aliases the event or the Result
	Group int    // not 0: one of several hashes of one object
	Key   []byte // with Group: the member's key ("sha256"), unescaped
}

// Config says what a Scanner looks for. Its zero value finds no fields.
type Config struct {
	Fields []Field
}

// Scanner is a compiled Config. It is immutable and safe for concurrent use.
type Scanner struct{}

// New compiles the configuration.
func New(cfg Config) (*Scanner, error) { panic("not written yet") }

// Result is what one Scan found. Reuse it for the next event: its memory stays.
// Its slices are valid until then, and as long as the scanned bytes are.
type Result struct {
	Values []Value

	// Digest is the order-independent digest of all leaves outside @metadata,
	// less the volatile ones.
	Digest [16]byte
	// HasPosition: the event names its place in its source (log.file.path with
	// log.offset, winlog.record_id with its channel and computer, …), so the
	// Digest identifies it.
	HasPosition bool
	// MetadataID is @metadata._id, unescaped; nil where there is none or it is
	// not a non-empty string.
	MetadataID []byte
	// HadVerdict: the event came with an arcanna.ioc, nested or dotted.
	HadVerdict bool
}

// Malformed is why an event is no JSON object. Its text never quotes the event.
type Malformed struct {
	Reason string // "not an object", "invalid UTF-8", …
	Offset int    // byte where it was noticed
}

func (m *Malformed) Error() string { return m.Reason }

// Scan reads one event. raw must have event.Sentinel readable bytes behind it
// in its capacity, or it is copied first. The error is a *Malformed.
func (s *Scanner) Scan(raw []byte, r *Result) error { panic("not written yet") }

// AppendLine appends the event that r describes as one line, ended by "\n":
// without @metadata, without an incoming arcanna.ioc, with CR and LF between
// tokens as spaces, and with ioc (a JSON object) as arcanna.ioc.
// raw is the slice that was scanned.
func (r *Result) AppendLine(dst, raw, ioc []byte) []byte { panic("not written yet") }

// AppendLineKeepingVerdict is AppendLine for a trusted event that brought its
// own arcanna.ioc: that stays as it is.
func (r *Result) AppendLineKeepingVerdict(dst, raw []byte) []byte { panic("not written yet") }

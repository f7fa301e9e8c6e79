// Package scan reads an event's JSON once, without decoding it.
//
// Promise: one pass over the bytes validates strictly (RFC 8259, UTF-8, at most
// 1,000 levels), computes the identity digest, finds the configured fields and
// the places where the document is spliced in; for a valid event exactly one
// valid line comes out, in which all else is byte for byte what came in, but
// for the exceptions that the contract names. It allocates nothing per event.
//
// Where to look: compile.go turns the settings into a tree of paths with one
// hash table over it, pass.go is the pass, text.go reads strings and numbers,
// digest.go holds the arithmetic of paths and identity, line.go writes, from what
// plan.go keeps of an event; site.go and metadata.go read what was scanned again.
package scan

// MaxDepth is how deeply objects and arrays of an event may nest; the event
// itself is the first level.
const MaxDepth = 1000

// defaultMaxValues bounds Result.Values where Config.MaxValues is 0.
const defaultMaxValues = 4096

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
	// Fields are looked for through arrays at every level. Several may have the
	// same Path, and one may lie below another.
	Fields []Field
	// Routes are paths outside @metadata whose one value is wanted for itself; see
	// Result.Routes. No two are the same.
	Routes []string
	// KeepMetadata: @metadata stays in the lines.
	KeepMetadata bool
	// MaxValues is how many Values of one event are kept, so that an event of
	// ten million short strings does not become a gigabyte of them; 0: 4096.
	MaxValues int
}

// Result is what one Scan found. Reuse it for the next event: its memory stays,
// unless it has become out of proportion. Its slices are valid until then, and
// as long as the scanned bytes are. It belongs to one goroutine at a time. The
// zero value is ready.
type Result struct {
	Values []Value
	// Dropped is how many values were found beyond Config.MaxValues.
	Dropped int

	// Routes has one element for each of Config.Routes: a string's contents,
	// unescaped, or the spelling of a number, true or false; nil where there is
	// nothing else, nothing outside of arrays, or more than one value.
	Routes [][]byte

	// Digest is the order-independent digest of all leaves outside @metadata and
	// outside an incoming arcanna.ioc, less the volatile ones, and, where an
	// arcanna.ioc came in, less those that a server adds to threat and related.
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
	// HasSite: the event has a threat or a related of its own, or a dotted key
	// that begins so; see Find.
	HasSite bool

	// What AppendLine needs. All offsets are into the scanned bytes.
	begin, end int    // the top-level object: its '{', and behind its '}'
	filled     bool   // after all cuts the top-level object still has members
	breaks     bool   // CR or LF between tokens
	cuts       []span // what goes: @metadata and incoming verdicts, ascending
	metaCuts   []span // what goes where an incoming verdict stays
	meta       span   // the last @metadata with its key; empty: there is none
	site       site   // where our verdict goes in
	siteAt     int    // with siteObject: the '}' of the arcanna object
	siteFilled bool   // with siteObject: after all cuts it still has members

	// Scratch; meaningless between scans.
	text    []byte    // unescaped strings of this event; Values and MetadataID point into it
	copied  []byte    // the event, where it came without a sentinel
	touched byte      // what mark has read ahead, for nothing but that
	marks   []byte    // one bit per byte of the event: where strings may end
	stack   []frame   // the open containers, and room for more; its length stays
	virtual []virtual // hash objects that exist only in dotted keys
	groups  int       // groups given out
	twice   []bool    // of Routes: more than one value
	key     []byte    // the last key that took the slow way
	keyLone bool      // it holds lone surrogates
}

// span is a range of bytes.
type span struct{ from, to int }

// site says where our verdict goes in.
type site uint8

const (
	siteEnd    site = iota // "arcanna":{"ioc":…} at the end of the event
	siteObject             // "ioc":… at the end of the event's arcanna object
	siteDotted             // "arcanna.ioc":… at the end of the event: its arcanna is no object
)

// Malformed is why an event is no JSON object. Its text never quotes the event.
type Malformed struct {
	Reason string // "not an object", "invalid UTF-8", …; one of a small fixed set
	Offset int    // byte where it was noticed
}

func (m *Malformed) Error() string { return m.Reason }

// The reasons. They are stable: people search for them.
const (
	reasonNotObject = "not an object"
	reasonBOM       = "byte order mark"
	reasonEnd       = "unexpected end"
	reasonUTF8      = "invalid UTF-8"
	reasonControl   = "control character in a string"
	reasonEscape    = "invalid escape"
	reasonNumber    = "invalid number"
	reasonSyntax    = "unexpected character"
	reasonDepth     = "nested too deeply"
	reasonAfter     = "data after the object"
)

package scan

import (
	"errors"
	"fmt"
	"strings"
)

// Node numbers. none is a node too, one that means nothing to anybody, so that
// the pass can look at the node of any path without asking first.
const (
	none = 0 // nothing that anybody asked for lies here or below
	root = 1 // the event itself
)

// node is one path of the tree of all paths that mean something. Immutable
// once New has returned.
type node struct {
	segment string // its last segment
	parent  int32
	branch  bool  // it has nodes below it
	sum     uint8 // which sum leaves here go to
	role    role
	value   bool   // strings here are values or routes, or may be @metadata._id
	route   int32  // leaves here are the value of this route, counted from 1
	text    uint16 // fact that a non-empty string here is: a bit in the position table
	number  uint16 // fact that a number here is

	fields []int32 // strings here are values of these fields
	hashes []int32 // objects here are objects of hashes for these fields
}

// role is what a path means to this package itself.
type role uint8

const (
	rolePlain     role = iota
	roleMetaID         // @metadata._id
	roleArcanna        // arcanna: our verdict goes in here
	roleVolatile       // differs between two sends of one event
	roleTimestamp      // differs between two reads of one line of a file
	roleCompleted      // what hits add to threat and related

	// From here on the key itself says something to the pass.
	roleSite     // threat, related: hits are added there
	roleMetadata // @metadata: cut
	roleVerdict  // arcanna.ioc: cut, unless it is trusted
)

// Kinds of leaf.
const (
	kindText   uint8 = 1 << iota // a non-empty string
	kindNumber                   // a number
)

var roles = []struct {
	path string
	role role
}{
	{"@metadata", roleMetadata},
	{"@metadata._id", roleMetaID},
	{"arcanna", roleArcanna},
	{"arcanna.ioc", roleVerdict},
	{"agent.ephemeral_id", roleVolatile}, // one per start of the Beat
	{"event.created", roleVolatile},      // when the Beat read it
	{"event.ingested", roleVolatile},
	{"@timestamp", roleTimestamp},
	{"threat", roleSite},
	{"related", roleSite},
}

// completed are the leaves that a server adds to an event with hits, below
// threat and related. They differ between two sends of one event (the time of
// the match, answers that have changed), so an event that has been through a
// server, as its verdict shows, is identified without them. In an event without
// a verdict they are leaves as any other.
var completed = []string{
	"related.ip", "related.hash", "related.hosts",
	"threat.enrichments",
	"threat.enrichments.indicator.type",
	"threat.enrichments.indicator.ip",
	"threat.enrichments.indicator.url.full",
	"threat.enrichments.indicator.url.domain",
	"threat.enrichments.indicator.file.hash.md5",
	"threat.enrichments.indicator.file.hash.sha1",
	"threat.enrichments.indicator.file.hash.sha256",
	"threat.enrichments.indicator.provider",
	"threat.enrichments.indicator.confidence",
	"threat.enrichments.indicator.scanner_stats",
	"threat.enrichments.indicator.reference",
	"threat.enrichments.indicator.description",
	"threat.enrichments.indicator.first_seen",
	"threat.enrichments.indicator.last_seen",
	"threat.enrichments.indicator.modified_at",
	"threat.enrichments.indicator.as.number",
	"threat.enrichments.indicator.as.organization.name",
	"threat.enrichments.indicator.geo.country_iso_code",
	"threat.enrichments.feed.name",
	"threat.enrichments.matched.atomic",
	"threat.enrichments.matched.field",
	"threat.enrichments.matched.id",
	"threat.enrichments.matched.occurred",
	"threat.enrichments.matched.type",
}

// facts are the leaves that together name an event's place in its source.
//
//   - File inputs (log, filestream, container; Filebeat 7, 8 and 9) set log.offset
//     and log.file.path on every line. From 8 on filestream adds log.file.inode,
//     device_id and fingerprint; older ones do not, so they are not asked for: they
//     are leaves, and in the digest where they are sent. The aws-s3 input sets the
//     same two fields, the path being the object's URL, and an @metadata._id.
//   - Winlogbeat sets winlog.channel and winlog.record_id, a number up to 7.2 and a
//     string since; computer_name tells forwarded events apart.
//   - The kafka input sets kafka.topic, partition and offset.
//   - The journald input keeps its cursor to itself (in its registry): such
//     events have no position. Nor have syslog, TCP, UDP and HTTP inputs.
//   - Filebeat 6 sent source and offset. Other senders use these names for other
//     things, and a position that is none would make two events one: not taken.
var facts = []struct {
	path  string
	kinds uint8
}{
	{"log.file.path", kindText},
	{"log.offset", kindNumber}, // 0 is a place too
	{"winlog.channel", kindText},
	{"winlog.computer_name", kindText},
	{"winlog.record_id", kindText | kindNumber},
	{"kafka.topic", kindText},
	{"kafka.partition", kindNumber},
	{"kafka.offset", kindNumber},
}

// Sets of facts, as bits by their place in the table above.
const (
	factsFile   = 1<<0 | 1<<1
	factsWinlog = 1<<2 | 1<<3 | 1<<4
	factsKafka  = 1<<5 | 1<<6 | 1<<7
)

// hasPosition says whether the facts found in an event name its place.
func hasPosition(found uint16) bool {
	return found&factsFile == factsFile || found&factsWinlog == factsWinlog || found&factsKafka == factsKafka
}

// slot is one place of the hash table. It repeats of its node what a hit is
// checked against, so that a look-up touches one place.
type slot struct {
	hash   uint64
	w, w2  uint64 // the segment, zero-padded, where it is at most 16 bytes long
	parent int32
	node   int32 // none: empty
	len    int32 // of the segment
	more   bool  // a path that belongs here stands further on
}

// Scanner is a compiled Config. It is immutable and safe for concurrent use.
type Scanner struct {
	nodes     []node // parents stand before their children
	slots     []slot // open addressing by path hash; a power of two, at most a quarter full
	arcanna   int32  // the node of "arcanna"
	maxValues int
	routes    int
	keepMeta  bool
}

// New compiles the configuration. All mistakes in it are reported at once.
func New(cfg Config) (*Scanner, error) {
	s := &Scanner{nodes: make([]node, root+1), maxValues: cfg.MaxValues, routes: len(cfg.Routes), keepMeta: cfg.KeepMetadata}
	if s.maxValues == 0 {
		s.maxValues = defaultMaxValues
	}
	var wrong []error
	if cfg.MaxValues < 0 {
		wrong = append(wrong, fmt.Errorf("at most %d values: want 0 (the default) or more", cfg.MaxValues))
	}
	known := make(map[step]int32)
	for _, x := range roles {
		s.nodes[s.insert(known, x.path)].role = x.role
	}
	for _, path := range completed {
		s.nodes[s.insert(known, path)].role = roleCompleted
	}
	s.arcanna = s.insert(known, "arcanna")
	for i, x := range facts {
		n := &s.nodes[s.insert(known, x.path)]
		if x.kinds&kindText != 0 {
			n.text = 1 << i
		}
		if x.kinds&kindNumber != 0 {
			n.number = 1 << i
		}
	}
	path := func(what, path string) bool {
		if path == "" || strings.HasPrefix(path, ".") || strings.HasSuffix(path, ".") || strings.Contains(path, "..") {
			wrong = append(wrong, fmt.Errorf("%s %q: want names joined by single dots", what, path))
			return false
		}
		return true
	}
	for i, route := range cfg.Routes {
		if path("route", route) {
			n := &s.nodes[s.insert(known, route)]
			if n.route != 0 {
				wrong = append(wrong, fmt.Errorf("route %q: given twice", route))
			}
			n.route = int32(i + 1)
		}
	}
	for i, f := range cfg.Fields {
		if !path("field", f.Path) {
			continue
		}
		n := &s.nodes[s.insert(known, f.Path)]
		n.fields = append(n.fields, int32(i))
		if f.Hashes {
			n.hashes = append(n.hashes, int32(i))
		}
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("compile fields: %w", errors.Join(wrong...))
	}
	s.index()
	return s, nil
}

// step is a segment below a node: how New finds the nodes that it has made.
type step struct {
	parent  int32
	segment string
}

// insert returns the node of a path, and makes it and those above it if needed.
func (s *Scanner) insert(known map[step]int32, path string) int32 {
	at := int32(root)
	for segment := range strings.SplitSeq(path, ".") {
		below := step{at, segment}
		next, ok := known[below]
		if !ok {
			s.nodes[at].branch = true
			next = int32(len(s.nodes))
			s.nodes = append(s.nodes, node{segment: segment, parent: at})
			known[below] = next
		}
		at = next
	}
	return at
}

// index builds the hash table. Paths are hashed as the pass hashes them, segment
// by segment, so a path costs one slot however an event groups it into dotted
// keys and objects: a hundred levels have 2^99 groupings and take a hundred nodes.
func (s *Scanner) index() {
	size := 64
	for size < 4*len(s.nodes) {
		size *= 2
	}
	s.slots = make([]slot, size)
	hashes := make([]uint64, len(s.nodes))
	hashes[root] = rootPath
	for i := root + 1; i < len(s.nodes); i++ {
		n := &s.nodes[i]
		n.value = n.fields != nil || n.route != 0 || n.role == roleMetaID || n.role == roleArcanna
		switch n.role {
		case roleVolatile:
			n.sum = sumNothing
		case roleTimestamp:
			n.sum = sumStamp
		case roleSite, roleCompleted:
			n.sum = sumCompleted
		}
		hashes[i] = extend(hashes[n.parent], []byte(n.segment))
		at := hashes[i] & uint64(size-1)
		for s.slots[at].node != none {
			s.slots[at].more = true
			at = (at + 1) & uint64(size-1)
		}
		x := slot{hash: hashes[i], parent: n.parent, node: int32(i), len: int32(len(n.segment))}
		if len(n.segment) <= 16 {
			x.w, x.w2 = words([]byte(n.segment))
		}
		s.slots[at] = x
	}
}

// find returns the node of segment below parent; path is the hash of both. A
// hit is checked against the bytes, so that equal hashes of different paths do
// no harm here.
func (s *Scanner) find(parent int32, path uint64, segment []byte) int32 {
	mask := uint64(len(s.slots) - 1)
	for at := path & mask; ; at = (at + 1) & mask {
		x := &s.slots[at]
		if x.node == none {
			return none
		}
		if x.hash == path {
			if n := &s.nodes[x.node]; n.parent == parent && n.segment == string(segment) {
				return x.node
			}
		}
	}
}

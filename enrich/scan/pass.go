package scan

import (
	"bytes"

	"github.com/zeebo/xxh3"

	"vtsidecar/internal/event"
)

// frame is an open object or array.
type frame struct {
	path     uint64 // hash of its path, without indexes
	where    uint64 // hash of the indexes on the way to it; 0 outside of arrays
	index    uint64 // arrays: number of the current element
	node     int32  // of its path; objects have it only where a branch goes on
	group    int32  // objects of hashes: their group; else 0
	base     int32  // objects: len(Result.virtual) before it
	hashes   int32  // with group: the node that asks for them
	array    bool
	kept     bool // a member that stays has been seen
	keptMeta bool // the same where an incoming verdict stays
	arcanna  bool // the event's own arcanna object
}

// virtual is an object of hashes that is only spelled in dotted keys
// ("process.hash.md5"): all of them in one object are one group.
type virtual struct{ node, group int32 }

// Scan reads one event. raw should have event.Sentinel readable bytes behind it
// in its capacity; where it has not, it is copied into r first, and r's slices
// point there. The error is a *Malformed, and then nothing in r means anything.
func (s *Scanner) Scan(raw []byte, r *Result) error {
	n := len(raw)
	r.reset(n)
	b := raw
	if cap(raw)-n >= event.Sentinel {
		b = raw[:n+event.Sentinel]
	} else {
		b = r.withSentinel(raw)
	}
	at, reason := s.pass(b, n, r)
	if reason == "" {
		return nil
	}
	if at >= n { // found in the sentinel, so the event is at fault for ending
		at, reason = n, reasonEnd
	}
	return &Malformed{Reason: reason, Offset: at}
}

// pass is the one pass. It returns where it failed and why, or an empty reason.
//
// Its rules: b has event.Sentinel bytes behind the event's n, and p may run into
// them, but never by more than a few: strings, numbers and white space stop at
// n, and what follows every value is looked at only after p < n was seen.
// Containers are kept on a stack of our own, so depth costs no calls.
func (s *Scanner) pass(b []byte, n int, r *Result) (int, string) {
	p := r.space(b, 0, n)
	if p >= n {
		return n, reasonEnd
	}
	if b[p] != '{' {
		if n-p >= 3 && string(b[p:p+3]) == "\xef\xbb\xbf" {
			return p, reasonBOM
		}
		return p, reasonNotObject
	}
	r.begin = p
	p++

	var (
		t     tally
		comma int // the last comma seen
		open  = cut{depth: -1}

		// The value at hand.
		path    uint64 // hash of its path, without indexes
		where   uint64 // hash of the indexes on the way to it; 0 outside of arrays
		vnode   int32  // of its path
		key     []byte // as a member, its key
		keyLone bool   // key holds lone surrogates
		member  int32  // node of the dotted object of hashes that it is a member of; else 0
	)
	if len(r.stack) == 0 {
		r.stack = make([]frame, 32)
	}
	stack := r.stack
	depth := 0
	f := &stack[0] // always &stack[depth]
	*f = frame{path: rootPath}
	marks := r.mark(b, n)

	if b[p] <= ' ' {
		p = r.space(b, p, n)
	}
	if p < n && b[p] == '}' {
		return r.done(b, p+1, n, &t)
	}

	for {
		// The place of an element, or the key of a member.
		if b[p] <= ' ' {
			p = r.space(b, p, n)
		}
		if f.array {
			path, vnode, where = f.path, f.node, extendIndex(f.where, f.path, f.index)
			f.index++
			member = 0
		} else {
			if b[p] != '"' {
				return p, reasonSyntax
			}
			from := p
			if p++; p > n {
				return n, reasonEnd
			}
			where, member = f.where, 0
			mark := rolePlain

			// Most keys are plain ASCII without dots and at most 16 bytes long.
			// These take no branch that depends on their length.
			end := next(marks, p)
			i := end - p
			if i > 16 || b[end] != '"' || end >= n {
				i = 17
			}
			short := &shorts[i]
			w, w2 := load(b, p)&short[0], load(b, p+8)&short[1]
			if i <= 16 && dots(w)|dots(w2) == 0 {
				key, keyLone = b[p:end:end], false
				p = end
				path = extend(f.path, segmentShort(w, w2, i))
				vnode = none
				if f.node != none {
					if vnode = s.findShort(f.node, path, w, w2, i); vnode != none {
						mark = s.nodes[vnode].role
					}
				}
			} else {
				text, quote, lone, reason, at := r.str(b, p, end, n)
				if reason != "" {
					return at, reason
				}
				key, keyLone, p = text, lone, quote
				path, vnode, member, mark = s.walk(f.path, f.node, key)
			}
			if p >= n {
				return n, reasonEnd
			}
			p++

			switch {
			case open.depth >= 0: // inside of a cut all goes
			case mark == roleMetadata:
				open = cut{depth: depth, from: from, comma: comma, meta: true}
			case mark == roleVerdict:
				open = cut{depth: depth, from: from, comma: comma}
				r.HadVerdict = true
				vnode, member = none, 0
				f.keptMeta = true
			default:
				f.kept, f.keptMeta = true, true
			}

			if b[p] <= ' ' {
				p = r.space(b, p, n)
			}
			if b[p] != ':' {
				return p, reasonSyntax
			}
			p++
			if b[p] <= ' ' {
				p = r.space(b, p, n)
			}
		}

		// The value.
		switch c := b[p]; c {
		case '"':
			p++
			var text []byte
			lone := false
			from := p
			p = next(marks, p)
			if b[p] == '"' && p < n {
				text = b[from:p:p]
			} else {
				var reason string
				var at int
				if text, p, lone, reason, at = r.str(b, from, p, n); reason != "" {
					return at, reason
				}
			}
			p++
			if vnode == none && member|f.group == 0 {
				if open.depth < 0 {
					t.all.add(xxh3.Hash128Seed(text, path^where^tagString))
				}
				break
			}
			s.text(r, &t, f, &leaf{vnode, member, where, path, text, key, lone, keyLone}, depth, open.depth >= 0)

		case '{', '[':
			if p >= n {
				return n, reasonEnd
			}
			if depth+1 == MaxDepth {
				return p, reasonDepth
			}
			array := c == '['
			p++
			if b[p] <= ' ' {
				p = r.space(b, p, n)
			}
			if b[p] == c+2 { // '}' and ']' stand two behind their openers
				if depth == 0 && vnode == s.arcanna {
					if array {
						t.noObject = true
					} else {
						r.site, r.siteAt, r.siteFilled = siteObject, p, false
					}
				}
				if p++; open.depth < 0 {
					s.plain(&t, b[p-1:p], vnode, path^where)
				}
				break
			}
			if depth++; depth == len(stack) {
				r.stack = append(stack, make([]frame, len(stack))...)
				stack = r.stack
			}
			f = &stack[depth]
			*f = frame{path: path, where: where, node: vnode, base: int32(len(r.virtual)), array: array}
			if vnode != none {
				x := &s.nodes[vnode]
				if depth == 1 && vnode == s.arcanna {
					f.arcanna = !array
					t.noObject = t.noObject || array
				}
				if !array {
					if !x.branch {
						f.node = none
					}
					if len(x.hashes) > 0 && open.depth < 0 {
						r.groups++
						f.group, f.hashes = int32(r.groups), vnode
					}
				}
			}
			continue

		case 't', 'n', 'f':
			word := "true"
			if c == 'n' {
				word = "null"
			} else if c == 'f' {
				word = "false"
			}
			if string(b[p:p+len(word)]) != word {
				for i := range word { // to the byte that is at fault
					if b[p+i] != word[i] {
						return p + i, reasonSyntax
					}
				}
			}
			if depth == 0 && vnode == s.arcanna {
				t.noObject = true
			}
			if open.depth < 0 {
				s.plain(&t, b[p:p+len(word)], vnode, path^where)
			}
			p += len(word)

		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			end, bad := number(b, p, n)
			if end < 0 {
				return bad, reasonNumber
			}
			if vnode != none {
				if depth == 0 && vnode == s.arcanna {
					t.noObject = true
				}
				if x := &s.nodes[vnode]; x.kinds&kindNumber != 0 && where == 0 && open.depth < 0 {
					t.found |= x.fact
				}
			}
			if open.depth < 0 {
				s.plain(&t, b[p:end], vnode, path^where)
			}
			p = end

		default:
			return p, reasonSyntax
		}

		// What follows: the ends of containers, then a comma, or the end.
		for {
			end := p
			if p >= n {
				return n, reasonEnd
			}
			c := b[p]
			if c <= ' ' {
				if p = r.space(b, p, n); p >= n {
					return n, reasonEnd
				}
				c = b[p]
			}
			if open.depth == depth { // the member that is cut ends here
				r.cut(open, f, end, p, c == ',')
				open.depth = -1
			}
			if c == ',' {
				comma = p
				p++
				break
			}
			p++
			if f.array {
				if c != ']' {
					return p - 1, reasonSyntax
				}
			} else {
				if c != '}' {
					return p - 1, reasonSyntax
				}
				r.virtual = r.virtual[:f.base]
				if f.arcanna {
					r.site, r.siteAt, r.siteFilled = siteObject, p-1, f.kept
				}
			}
			if depth == 0 {
				return r.done(b, p, n, &t)
			}
			depth--
			f = &stack[depth]
		}
	}
}

// tally is what the pass adds up.
type tally struct {
	all      sum    // hashes of the leaves
	stamp    sum    // those of @timestamp: volatile in file inputs only
	found    uint16 // facts about the position
	noObject bool   // an arcanna that is no object was seen
}

// cut is the member that is being cut out.
type cut struct {
	depth int // of the object that it is a member of; -1: none is
	from  int // its key
	comma int // the comma before it; means nothing for the first member
	meta  bool
}

// leaf is a string that means something to somebody.
type leaf struct {
	node, member  int32
	where, path   uint64
	text, key     []byte
	lone, keyLone bool
}

// done takes stock behind the event's last brace, at p.
func (r *Result) done(b []byte, p, n int, t *tally) (int, string) {
	r.end = p
	if p = r.space(b, p, n); p < n {
		return p, reasonAfter
	}
	r.filled = r.stack[0].kept
	if t.noObject {
		r.site = siteDotted
	}
	r.HasPosition = hasPosition(t.found)
	if t.found&factsFile != factsFile {
		t.all.addSum(t.stamp)
	}
	r.Digest = t.all.digest()
	return 0, ""
}

// cut notes the bytes of a member that goes, with one of the commas beside it.
// The member ends at end, and what follows it stands at p, a comma or not.
func (r *Result) cut(c cut, f *frame, end, p int, comma bool) {
	one := func(kept bool) span {
		switch {
		case kept:
			return span{c.comma, end}
		case comma:
			return span{c.from, p + 1}
		default:
			return span{c.from, end}
		}
	}
	r.cuts = append(r.cuts, one(f.kept))
	if c.meta {
		r.metaCuts = append(r.metaCuts, one(f.keptMeta))
	}
}

// plain adds a leaf that is no string. spelling tells one from another; of an
// empty container it is the closing bracket.
func (s *Scanner) plain(t *tally, spelling []byte, vnode int32, seed uint64) {
	h := xxh3.Hash128Seed(spelling, seed^tagPlain)
	if vnode != none {
		switch s.nodes[vnode].role {
		case roleVolatile:
			return
		case roleTimestamp:
			t.stamp.add(h)
			return
		}
	}
	t.all.add(h)
}

// text does with a string leaf whatever its path asks for.
func (s *Scanner) text(r *Result, t *tally, f *frame, l *leaf, depth int, cut bool) {
	if cut {
		// What goes is no source of values, with the one exception.
		if l.node != none && s.nodes[l.node].role == roleMetaID && l.where == 0 && len(l.text) > 0 {
			if l.lone {
				replaceSurrogates(l.text)
			}
			r.MetadataID = l.text
		}
		return
	}
	var x *node
	if l.node != none {
		x = &s.nodes[l.node]
	}
	h := xxh3.Hash128Seed(l.text, l.path^l.where^tagString)
	switch {
	case x == nil:
		t.all.add(h)
	case x.role == roleVolatile:
	case x.role == roleTimestamp:
		t.stamp.add(h)
	default:
		t.all.add(h)
	}

	if l.lone { // hashed, so from here on it may be made presentable
		replaceSurrogates(l.text)
	}
	if x != nil {
		if l.node == s.arcanna && depth == 0 {
			t.noObject = true
		}
		if x.kinds&kindText != 0 && l.where == 0 && len(l.text) > 0 {
			t.found |= x.fact
		}
		for _, field := range x.fields {
			s.value(r, Value{Field: int(field), Text: l.text})
		}
	}
	if f.group == 0 && l.member == 0 {
		return
	}
	if l.keyLone {
		replaceSurrogates(l.key)
	}
	if f.group != 0 {
		for _, field := range s.nodes[f.hashes].hashes {
			s.value(r, Value{Field: int(field), Text: l.text, Group: int(f.group), Key: l.key})
		}
	}
	if l.member != 0 {
		key := l.key[bytes.LastIndexByte(l.key, '.')+1:]
		group := r.virtualGroup(f, l.member)
		for _, field := range s.nodes[l.member].hashes {
			s.value(r, Value{Field: int(field), Text: l.text, Group: int(group), Key: key})
		}
	}
}

func (s *Scanner) value(r *Result, v Value) {
	if len(r.Values) >= s.maxValues {
		r.Dropped++
		return
	}
	r.Values = append(r.Values, v)
}

// virtualGroup is the group of an object of hashes that dotted keys of f spell.
// The search is bounded by the number of configured fields.
func (r *Result) virtualGroup(f *frame, member int32) int32 {
	for _, v := range r.virtual[f.base:] {
		if v.node == member {
			return v.group
		}
	}
	r.groups++
	r.virtual = append(r.virtual, virtual{member, int32(r.groups)})
	return int32(r.groups)
}

// walk is the way of a key that may hold dots, from an object's path and node:
// every dot begins a new segment. member is the node of the object of hashes
// that the key's last segment is a member of, where the key itself spells that
// object; mark is the role of what is to be cut, if it lies on the way.
func (s *Scanner) walk(path uint64, at int32, key []byte) (_ uint64, _, member int32, mark role) {
	for whole := true; ; whole = false {
		segment, rest, more := bytes.Cut(key, []byte{'.'})
		path = extend(path, segmentHash(segment))
		if at != none {
			if !more && !whole && len(s.nodes[at].hashes) > 0 {
				member = at
			}
			if at = s.find(at, path, segment); at != none && mark == rolePlain {
				if x := s.nodes[at].role; x == roleMetadata || x == roleVerdict {
					mark = x
				}
			}
		}
		if !more {
			return path, at, member, mark
		}
		key = rest
	}
}

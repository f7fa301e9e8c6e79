package scan

import (
	"bytes"
	"slices"

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
// n, and neither a value nor what follows it is looked at before p < n was seen.
// Containers are kept on a stack of our own, so depth costs no calls.
//
// It is one long function on purpose: it sees each byte of every event, and a call
// for each key and each value would cost about what these cost themselves.
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
	if s.routes > 0 {
		r.beginRoutes(s.routes)
	}

	var t tally
	t.open.depth = -1
	if len(r.stack) == 0 {
		r.stack = make([]frame, 32)
	}
	stack := r.stack
	depth := 0
	f := &stack[0] // always &stack[depth]
	*f = frame{path: rootPath, node: root}
	marks := r.mark(b, n)
	slots, nodes := s.slots, s.nodes

	if b[p] <= ' ' {
		p = r.space(b, p, n)
	}
	if p < n && b[p] == '}' {
		return r.done(b, p+1, n, &t)
	}

	for {
		// The value at hand. Nothing here outlives it.
		var (
			path    uint64 // hash of its path, without indexes
			where   uint64 // hash of the indexes on the way to it; 0 outside of arrays
			vnode   int32  // of its path
			keyFrom int    // as a member, its key: b[keyFrom:keyTo],
			keyTo   int    // or r.key if it had to be
			slow    bool   // taken the slow way
			member  int32  // node of the dotted object of hashes that it is a member of; else 0
		)

		// The place of an element, or the key of a member.
		if f.array {
			if b[p] <= ' ' {
				p = r.space(b, p, n)
			}
			path, vnode, where = f.path, f.node, extendIndex(f.where, f.path, f.index)
			f.index++
		} else {
			if b[p] != '"' {
				if p = r.space(b, p, n); b[p] != '"' {
					return p, reasonSyntax
				}
			}
			from := p
			if p++; p > n {
				return n, reasonEnd
			}
			where = f.where
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
				keyFrom, keyTo = p, end
				p = end
				path = extendShort(f.path, w, w2, i)
				// The look-up, spelled out, since a call would cost as much again.
				// Nobody can guess whether it hits, so it does not branch on that, only
				// on the rare case that two of the known paths belong in one place.
				vnode = none
				if f.node != none {
					x := &slots[path&uint64(len(slots)-1)]
					diff := (x.hash ^ path) | (x.w ^ w) | (x.w2 ^ w2) | uint64(x.parent^f.node) | uint64(int(x.len)^i)
					vnode = x.node &^ int32(int64(diff|-diff)>>63) // none where anything differs
					if x.more && vnode == none {
						vnode = s.find(f.node, path, b[keyFrom:keyTo])
					}
					mark = nodes[vnode].role
				}
			} else {
				text, quote, lone, reason, at := r.str(b, p, end, n)
				if reason != "" {
					return at, reason
				}
				r.key, r.keyLone, slow, p = text, lone, true, quote
				path, vnode, member, mark = s.walk(f.path, f.node, text)
			}
			if p >= n {
				return n, reasonEnd
			}
			p++

			switch {
			case t.open.depth >= 0: // inside of a cut all goes
			case mark < roleSite:
				f.kept, f.keptMeta = true, true
			case mark == roleSite:
				f.kept, f.keptMeta = true, true
				r.HasSite = true
			case mark == roleMetadata:
				t.open = cut{depth: depth, from: from, comma: t.comma, meta: true, whole: isMetadata(b[from+1 : p-1]), stays: s.keepMeta}
				if s.keepMeta {
					f.kept, f.keptMeta = true, true
				}
			default:
				t.open = cut{depth: depth, from: from, comma: t.comma}
				r.HadVerdict = true
				vnode, member = none, 0
				f.keptMeta = true
			}

			if b[p] != ':' {
				if p = r.space(b, p, n); b[p] != ':' {
					return p, reasonSyntax
				}
			}
			p++
			if b[p] <= ' ' {
				p = r.space(b, p, n)
			}
		}

		// The value.
		if p >= n {
			return n, reasonEnd
		}
		switch c := b[p]; c {
		case '"':
			p++
			var text []byte
			lone := false
			from := p
			p = next(marks, p)
			if b[p] == '"' && p < n {
				text = b[from:p]
			} else {
				var reason string
				var at int
				if text, p, lone, reason, at = r.str(b, from, p, n); reason != "" {
					return at, reason
				}
			}
			p++
			x := &nodes[vnode]
			if t.open.depth < 0 {
				var lo, hi uint64
				if seed := path ^ where ^ tagString; len(text) <= 16 {
					short := &shorts[len(text)]
					lo, hi = hashShort(load(text, 0)&short[0], load(text, 8)&short[1], len(text), seed)
				} else {
					h := xxh3.Hash128Seed(text, seed)
					lo, hi = h.Lo, h.Hi
				}
				t.sums[x.sum].add(lo, hi)
				if where == 0 && len(text) > 0 {
					t.found |= x.text
				}
			}
			if x.value || member|f.group != 0 {
				if lone { // hashed, so from here on it may be made presentable
					replaceSurrogates(text)
				}
				switch {
				case t.open.depth < 0:
					for _, field := range x.fields {
						s.value(r, int(field), text)
					}
					if x.route != 0 {
						r.route(x.route, where, text)
					}
					if member|f.group != 0 {
						key := b[keyFrom:keyTo:keyTo]
						if slow {
							if key = r.key; r.keyLone {
								replaceSurrogates(key)
							}
						}
						s.hashes(r, f, member, key, text)
					}
					t.noObject = t.noObject || depth == 0 && vnode == s.arcanna
				case x.role == roleMetaID && where == 0 && len(text) > 0:
					// What goes is no source of anything, with this one exception.
					r.MetadataID = slices.Clip(text)
				}
			}

		case '{', '[':
			if depth+1 == MaxDepth {
				return p, reasonDepth
			}
			array := c == '['
			p++
			if b[p] <= ' ' {
				p = r.space(b, p, n)
			}
			if b[p] == c+2 { // '}' and ']' stand two behind their openers
				leaf := t.open.depth < 0
				if depth == 0 && vnode == s.arcanna {
					if array {
						t.noObject = true
					} else {
						r.site, r.siteAt, r.siteFilled = siteObject, p, false
						leaf = false // with our verdict in it, it is one no more
					}
				}
				if p++; leaf {
					t.sums[s.nodes[vnode].sum].add(hashLeaf(b[p-1:p], path^where^tagPlain))
				}
				break
			}
			if depth++; depth == len(stack) {
				r.stack = append(stack, make([]frame, len(stack))...)
				stack = r.stack
			}
			f = &stack[depth]
			// Field by field: a frame made elsewhere and copied here stalls the loads.
			f.path, f.where, f.index = path, where, 0
			f.node, f.group, f.base = vnode, 0, int32(len(r.virtual))
			f.array, f.arcanna, f.kept, f.keptMeta = array, false, false, false
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
					if len(x.hashes) > 0 && t.open.depth < 0 {
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
			if t.open.depth < 0 {
				x := &s.nodes[vnode]
				t.sums[x.sum].add(hashLeaf(b[p:p+len(word)], path^where^tagPlain))
				if x.route != 0 && c != 'n' {
					r.route(x.route, where, b[p:p+len(word)])
				}
			}
			p += len(word)

		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			end, bad := number(b, p, n)
			if end < 0 {
				return bad, reasonNumber
			}
			if t.open.depth < 0 {
				x := &s.nodes[vnode]
				t.sums[x.sum].add(hashLeaf(b[p:end], path^where^tagPlain))
				if where == 0 {
					t.found |= x.number
				}
				if x.route != 0 {
					r.route(x.route, where, b[p:end])
				}
				t.noObject = t.noObject || depth == 0 && vnode == s.arcanna
			}
			p = end

		default:
			return p, reasonSyntax
		}

		// What follows, most often: another member.
		if p < n && b[p] == ',' && t.open.depth != depth {
			t.comma = p
			p++
			continue
		}
		// Or the ends of containers, then a comma, or the end.
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
			if t.open.depth == depth { // the member that is cut ends here
				r.cut(t.open, f, end, p, c == ',')
				t.open.depth = -1
			}
			if c == ',' {
				t.comma = p
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
	sums     [4]sum // of the leaves' hashes
	found    uint16 // facts about the position
	noObject bool   // an arcanna that is no object was seen
	comma    int    // the last comma seen
	open     cut    // what is being cut out
}

// The sums of a tally.
const (
	sumAll       = iota
	sumStamp     // @timestamp: volatile in file inputs only
	sumNothing   // volatile leaves; adding them to nothing costs less than asking
	sumCompleted // what hits add to threat and related
)

// cut is the member that is being cut out.
type cut struct {
	depth int  // of the object that it is a member of; -1: none is
	from  int  // its key
	comma int  // the comma before it; means nothing for the first member
	meta  bool // it is @metadata, or something below it
	whole bool // it is @metadata itself
	stays bool // it is only no part of the event, and not cut
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
	all := t.sums[sumAll]
	if t.found&factsFile != factsFile {
		all.addSum(t.sums[sumStamp])
	}
	if !r.HadVerdict {
		all.addSum(t.sums[sumCompleted])
	}
	r.Digest = all.digest()
	return 0, ""
}

// cut notes the bytes of a member that goes, with one of the commas beside it.
// The member ends at end, and what follows it stands at p, a comma or not.
func (r *Result) cut(c cut, f *frame, end, p int, comma bool) {
	if c.whole {
		r.meta = span{c.from, end}
	}
	if c.stays {
		return
	}
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

// hashes adds a string that is a member of an object of hashes: of f itself, of
// one that its dotted key spells (member), or both.
func (s *Scanner) hashes(r *Result, f *frame, member int32, key, text []byte) {
	if f.group != 0 {
		for _, field := range s.nodes[f.hashes].hashes {
			if v := s.value(r, int(field), text); v != nil {
				v.Group, v.Key = int(f.group), key
			}
		}
	}
	if member != 0 {
		key = key[bytes.LastIndexByte(key, '.')+1:]
		group := r.virtualGroup(f, member)
		for _, field := range s.nodes[member].hashes {
			if v := s.value(r, int(field), text); v != nil {
				v.Group, v.Key = int(group), key
			}
		}
	}
}

// value adds a value, if there is room for one more.
func (s *Scanner) value(r *Result, field int, text []byte) *Value {
	i := len(r.Values)
	if i >= s.maxValues {
		r.Dropped++
		return nil
	}
	if i == cap(r.Values) {
		r.Values = slices.Grow(r.Values, 1)
	}
	r.Values = r.Values[:i+1]
	v := &r.Values[i]
	v.Field, v.Group, v.Key = field, 0, nil
	v.Text = slices.Clip(text) // its capacity is this package's own affair
	return v
}

// beginRoutes makes room for n routes without values.
func (r *Result) beginRoutes(n int) {
	if cap(r.Routes) < n || cap(r.twice) < n {
		r.Routes, r.twice = make([][]byte, n), make([]bool, n)
	}
	r.Routes, r.twice = r.Routes[:n], r.twice[:n]
	clear(r.Routes)
	clear(r.twice)
}

// route notes a leaf at a route. What stands in an array is one of many.
func (r *Result) route(n int32, where uint64, text []byte) {
	i := n - 1
	if where != 0 || r.Routes[i] != nil || r.twice[i] {
		r.Routes[i], r.twice[i] = nil, true
		return
	}
	if text == nil {
		text = []byte{}
	}
	r.Routes[i] = slices.Clip(text)
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
		path = extend(path, segment)
		if at != none {
			if !more && !whole && len(s.nodes[at].hashes) > 0 {
				member = at
			}
			if at = s.find(at, path, segment); at != none && mark == rolePlain {
				if x := s.nodes[at].role; x >= roleSite {
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

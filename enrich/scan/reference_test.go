package scan

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A second reading of the same rules, as slow and as plain as can be: a
// recursive parser that keeps every token's spelling, and on its tree the same
// questions that a Scan answers. The tests hold the two against each other.

type refNode struct {
	kind     byte   // '{', '[', '"', or 'x' for numbers and literals
	spelling string // of strings, numbers and literals
	units    []uint16
	members  []refMember
	elements []*refNode
}

type refMember struct {
	spelling string // the key, with its quotes
	units    []uint16
	value    *refNode
}

var errReference = errors.New("malformed")

var (
	refNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`)
	refEscape = regexp.MustCompile(`^\\(["\\/bfnrt]|u[0-9a-fA-F]{4})`)
)

func refParse(raw []byte) (*refNode, error) {
	if !utf8.Valid(raw) {
		return nil, errReference
	}
	p := &refParser{rest: string(raw)}
	p.space()
	if !strings.HasPrefix(p.rest, "{") {
		return nil, errReference
	}
	n, err := p.value(1)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.rest != "" {
		return nil, errReference
	}
	return n, nil
}

type refParser struct{ rest string }

func (p *refParser) space() { p.rest = strings.TrimLeft(p.rest, " \t\r\n") }

func (p *refParser) take(token string) bool {
	p.space()
	if !strings.HasPrefix(p.rest, token) {
		return false
	}
	p.rest = p.rest[len(token):]
	return true
}

func (p *refParser) value(depth int) (*refNode, error) {
	p.space()
	switch {
	case strings.HasPrefix(p.rest, `"`):
		spelling, units, err := p.str()
		return &refNode{kind: '"', spelling: spelling, units: units}, err
	case p.take("{"):
		n := &refNode{kind: '{'}
		if depth > MaxDepth {
			return nil, errReference
		}
		if p.take("}") {
			return n, nil
		}
		for {
			p.space()
			spelling, units, err := p.str()
			if err != nil || !p.take(":") {
				return nil, errReference
			}
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.members = append(n.members, refMember{spelling, units, v})
			if p.take("}") {
				return n, nil
			}
			if !p.take(",") {
				return nil, errReference
			}
		}
	case p.take("["):
		n := &refNode{kind: '['}
		if depth > MaxDepth {
			return nil, errReference
		}
		if p.take("]") {
			return n, nil
		}
		for {
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.elements = append(n.elements, v)
			if p.take("]") {
				return n, nil
			}
			if !p.take(",") {
				return nil, errReference
			}
		}
	}
	for _, word := range []string{"true", "false", "null"} {
		if p.take(word) {
			return &refNode{kind: 'x', spelling: word}, nil
		}
	}
	if m := refNumber.FindString(p.rest); m != "" {
		p.rest = p.rest[len(m):]
		return &refNode{kind: 'x', spelling: m}, nil
	}
	return nil, errReference
}

// str reads a string into the UTF-16 code units that it stands for, which tells
// lone surrogates from all else.
func (p *refParser) str() (spelling string, units []uint16, err error) {
	whole := p.rest
	if !strings.HasPrefix(p.rest, `"`) {
		return "", nil, errReference
	}
	p.rest = p.rest[1:]
	units = []uint16{}
	for p.rest != "" {
		switch c := p.rest[0]; {
		case c == '"':
			p.rest = p.rest[1:]
			return whole[:len(whole)-len(p.rest)], units, nil
		case c < 0x20:
			return "", nil, errReference
		case c == '\\':
			m := refEscape.FindString(p.rest)
			if m == "" {
				return "", nil, errReference
			}
			p.rest = p.rest[len(m):]
			if m[1] == 'u' {
				u, _ := strconv.ParseUint(m[2:], 16, 16)
				units = append(units, uint16(u))
			} else {
				units = append(units, uint16(map[byte]rune{'"': '"', '\\': '\\', '/': '/', 'b': 8, 'f': 12, 'n': 10, 'r': 13, 't': 9}[m[1]]))
			}
		default:
			r, size := utf8.DecodeRuneInString(p.rest)
			p.rest = p.rest[size:]
			units = utf16.AppendRune(units, r)
		}
	}
	return "", nil, errReference
}

func text(units []uint16) string { return string(utf16.Decode(units)) }

// exact is text, except that no two different strings become one: each lone
// surrogate is a byte that text never holds, and its number.
func exact(units []uint16) string {
	var b strings.Builder
	for i := 0; i < len(units); i++ {
		u := rune(units[i])
		if utf16.IsSurrogate(u) {
			if i+1 < len(units) {
				if r := utf16.DecodeRune(u, rune(units[i+1])); r != utf8.RuneError {
					b.WriteRune(r)
					i++
					continue
				}
			}
			fmt.Fprintf(&b, "\xff%04x", u)
			continue
		}
		b.WriteRune(u)
	}
	return b.String()
}

// refStep is a step of a path: a segment of a key, or an index.
type refStep struct {
	name  string
	index int // -1: a name
}

// dotted is a path without its indexes, and whether it had some.
func dotted(path []refStep) (names []string, arrays bool) {
	for _, s := range path {
		if s.index < 0 {
			names = append(names, s.name)
		} else {
			arrays = true
		}
	}
	return names, arrays
}

func under(names []string, prefix ...string) bool {
	return len(names) >= len(prefix) && slices.Equal(names[:len(prefix)], prefix)
}

func refIsMetadata(path []refStep) bool {
	return len(path) > 0 && path[0].name == "@metadata" && path[0].index < 0
}

func isVerdict(path []refStep) bool {
	names, _ := dotted(path)
	return under(names, "arcanna", "ioc")
}

func extendSteps(path []refStep, key string) []refStep {
	path = slices.Clone(path)
	for seg := range strings.SplitSeq(key, ".") {
		path = append(path, refStep{seg, -1})
	}
	return path
}

// prune returns the tree without what goes.
func (n *refNode) prune(path []refStep, verdicts bool) *refNode {
	out := *n
	out.members, out.elements = nil, nil
	for _, m := range n.members {
		p := extendSteps(path, exact(m.units))
		if refIsMetadata(p) || verdicts && isVerdict(p) {
			continue
		}
		m.value = m.value.prune(p, verdicts)
		out.members = append(out.members, m)
	}
	for i, e := range n.elements {
		out.elements = append(out.elements, e.prune(append(slices.Clone(path), refStep{"", i}), verdicts))
	}
	return &out
}

// write spells the tree out without white space.
func (n *refNode) write(b *bytes.Buffer) {
	switch n.kind {
	case '{':
		b.WriteByte('{')
		for i, m := range n.members {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(m.spelling + ":")
			m.value.write(b)
		}
		b.WriteByte('}')
	case '[':
		b.WriteByte('[')
		for i, e := range n.elements {
			if i > 0 {
				b.WriteByte(',')
			}
			e.write(b)
		}
		b.WriteByte(']')
	default:
		b.WriteString(n.spelling)
	}
}

// refLine is the line that must come out, less its white space.
func refLine(n *refNode, ioc string) string {
	n = n.prune(nil, true)
	plain := func(name string, kind byte, spelling string) refMember {
		return refMember{`"` + name + `"`, utf16.Encode([]rune(name)), &refNode{kind: kind, spelling: spelling}}
	}
	mine := plain("ioc", 'x', ioc)
	var object *refNode
	other := false
	for _, m := range n.members {
		if text(m.units) == "arcanna" {
			if m.value.kind == '{' {
				object = m.value
			} else {
				other = true
			}
		}
	}
	switch {
	case other:
		n.members = append(n.members, plain("arcanna.ioc", 'x', ioc))
	case object != nil:
		object.members = append(object.members, mine)
	default:
		m := plain("arcanna", '{', "")
		m.value.members = []refMember{mine}
		n.members = append(n.members, m)
	}
	var b bytes.Buffer
	n.write(&b)
	return b.String()
}

// hasVerdict says whether an arcanna.ioc is in the tree, outside of @metadata.
func (n *refNode) hasVerdict(path []refStep) bool {
	for _, m := range n.members {
		if p := extendSteps(path, exact(m.units)); !refIsMetadata(p) && (isVerdict(p) || m.value.hasVerdict(p)) {
			return true
		}
	}
	for i, e := range n.elements {
		if e.hasVerdict(append(slices.Clone(path), refStep{"", i})) {
			return true
		}
	}
	return false
}

// refLeaves lists the event's leaves, sorted: equal lists, equal identities.
func refLeaves(n *refNode, file bool) []string {
	var list []string
	enriched := n.hasVerdict(nil)
	n.leaves(nil, true, func(path []refStep, what string) {
		names, arrays := dotted(path)
		switch name := strings.Join(names, "."); {
		case refIsMetadata(path), isVerdict(path),
			name == "arcanna" && !arrays && what == "{", // our verdict fills it
			name == "agent.ephemeral_id", name == "event.created", name == "event.ingested",
			name == "@timestamp" && file,
			enriched && (name == "threat" || name == "related" || slices.Contains(completed, name)):
			return
		}
		list = append(list, fmt.Sprintf("%#v = %s", path, what))
	})
	sort.Strings(list)
	return list
}

func (n *refNode) leaves(path []refStep, top bool, yield func([]refStep, string)) {
	switch {
	case n.kind == '"':
		yield(path, strconv.Quote(exact(n.units)))
	case n.kind == 'x':
		yield(path, n.spelling)
	case len(n.members) == 0 && len(n.elements) == 0 && !top:
		yield(path, string(n.kind))
	}
	for _, m := range n.members {
		m.value.leaves(extendSteps(path, exact(m.units)), false, yield)
	}
	for i, e := range n.elements {
		e.leaves(append(slices.Clone(path), refStep{"", i}), false, yield)
	}
}

// refIsFile says whether the event has the position of a file input.
func refIsFile(n *refNode) bool {
	var path, offset bool
	n.leaves(nil, true, func(p []refStep, what string) {
		names, arrays := dotted(p)
		if arrays {
			return
		}
		switch strings.Join(names, ".") {
		case "log.file.path":
			path = path || what[0] == '"' && what != `""`
		case "log.offset":
			offset = offset || what[0] == '-' || what[0] >= '0' && what[0] <= '9'
		}
	})
	return path && offset
}

// refValues lists the values in the order of the event, with groups numbered
// by first appearance.
func refValues(n *refNode, fields []Field) []Value {
	c := &refCollector{fields: fields}
	c.object(n, nil)
	return c.values
}

type refCollector struct {
	fields []Field
	values []Value
	groups int
}

// object goes through the members; a group is known by its object and path.
func (c *refCollector) object(n *refNode, path []refStep) {
	groups := map[string]int{}
	group := func(id string) int {
		if groups[id] == 0 {
			c.groups++
			groups[id] = c.groups
		}
		return groups[id]
	}
	for _, m := range n.members {
		p := extendSteps(path, exact(m.units))
		if refIsMetadata(p) || isVerdict(p) {
			continue
		}
		if m.value.kind == '"' {
			c.str(m.value, p)
			// The object itself, and the objects that the key's dots spell.
			for cut := len(path); cut < len(p); cut++ {
				if cut != len(path) && cut != len(p)-1 {
					continue
				}
				names, _ := dotted(p[:cut])
				for i, f := range c.fields {
					if f.Hashes && f.Path == strings.Join(names, ".") && len(names) > 0 && strings.Count(f.Path, ".") == len(names)-1 {
						whole := strings.Split(text(m.units), ".")
						key := text(m.units)
						if cut != len(path) {
							key = whole[len(whole)-1]
						}
						c.values = append(c.values, Value{Field: i, Text: []byte(text(m.value.units)), Group: group(strings.Join(names, ".")), Key: []byte(key)})
					}
				}
			}
			continue
		}
		c.any(m.value, p)
	}
}

func (c *refCollector) any(n *refNode, path []refStep) {
	switch n.kind {
	case '{':
		c.object(n, path)
	case '[':
		for i, e := range n.elements {
			c.any(e, append(slices.Clone(path), refStep{"", i}))
		}
	case '"':
		c.str(n, path)
	}
}

func (c *refCollector) str(n *refNode, path []refStep) {
	names, _ := dotted(path)
	for i, f := range c.fields {
		if slices.Equal(strings.Split(f.Path, "."), names) {
			c.values = append(c.values, Value{Field: i, Text: []byte(text(n.units))})
		}
	}
}

// refRoutes finds the one value at each path: nil where there is none, or more.
func refRoutes(n *refNode, paths []string) [][]byte {
	out, leaves := make([][]byte, len(paths)), make([]int, len(paths))
	var walk func(n *refNode, path []refStep)
	walk = func(n *refNode, path []refStep) {
		for _, m := range n.members {
			if p := extendSteps(path, exact(m.units)); !refIsMetadata(p) && !isVerdict(p) {
				walk(m.value, p)
			}
		}
		for i, e := range n.elements {
			walk(e, append(slices.Clone(path), refStep{"", i}))
		}
		if n.kind == '{' || n.kind == '[' || n.spelling == "null" {
			return
		}
		names, arrays := dotted(path)
		i := slices.Index(paths, strings.Join(names, "."))
		if i < 0 || !slices.Equal(strings.Split(paths[i], "."), names) {
			return
		}
		switch leaves[i]++; {
		case arrays:
			leaves[i]++ // one of many
			fallthrough
		case leaves[i] > 1:
			out[i] = nil
		case n.kind == '"':
			out[i] = append([]byte{}, text(n.units)...)
		default:
			out[i] = []byte(n.spelling)
		}
	}
	walk(n, nil)
	return out
}

// refMetadata is the value of the last @metadata; nil: there is none. Dotted keys
// that spell something below it do not count.
func refMetadata(n *refNode) (value *refNode) {
	for _, m := range n.members {
		if p := extendSteps(nil, exact(m.units)); refIsMetadata(p) && len(p) == 1 {
			value = m.value
		}
	}
	return value
}

// squeeze takes the white space between tokens out of valid JSON.
func squeeze(line []byte) string {
	var b strings.Builder
	in := false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case in && c == '\\':
			b.WriteByte(c)
			i++
			c = line[i]
		case c == '"':
			in = !in
		case !in && strings.IndexByte(" \t\r\n", c) >= 0:
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// regroup numbers groups by first appearance.
func regroup(values []Value) []Value {
	seen := map[int]int{0: 0}
	out := []Value{}
	for _, v := range values {
		if _, ok := seen[v.Group]; !ok {
			seen[v.Group] = len(seen)
		}
		v.Group = seen[v.Group]
		v.Text, v.Key = append([]byte{}, v.Text...), append([]byte(nil), v.Key...)
		out = append(out, v)
	}
	return out
}

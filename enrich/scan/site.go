package scan

import (
	"iter"
)

// This file reads events that were scanned, and lines that AppendLine has
// written, so its rule is: what it is given is valid JSON. It is for the few events with a threat or a related of
// their own that must be completed, hence plain rather than fast. It allocates
// nothing that an event could make large.

// Span is a range of bytes of an event or a line.
type Span struct{ From, To int }

// Site is what a line has at a dotted path, and where something can be put.
type Site struct {
	// Value is what stands there, the last one where several do; empty: nothing.
	Value Span
	// Object is the last object on the way to it; empty: there is none.
	Object Span
	// Blocked: something on the way is no object, or dotted keys spell an object
	// at the path ("related.ip.x"), so that nothing can be put there.
	Blocked bool
}

// Find looks for a path in the object that begins at line[at]: nested, dotted
// and in any mixture of both, but not through arrays.
func Find(line []byte, at int, path string) (s Site) {
	s.find(line, at, path)
	return s
}

// Find is Find in the event that was scanned, which raw is.
func (r *Result) Find(raw []byte, path string) Site { return Find(raw, r.begin, path) }

func (s *Site) find(line []byte, at int, path string) {
	for key, value := range Members(line, at) {
		switch rest, how := follow(line[key.From+1:key.To-1], path); {
		case how == keyIs:
			s.Value = value
		case how == keyIsBelow, how == keyIsAbove && line[value.From] != '{':
			s.Blocked = true
		case how == keyIsAbove:
			s.Object = value
			s.find(line, value.From, rest)
		}
	}
}

// What a key is to a path.
const (
	keyIsOther = iota
	keyIs
	keyIsAbove // the path goes on below it
	keyIsBelow
)

// follow compares a key, as it is spelled, with a path in ASCII; rest is what of
// the path lies below it.
func follow(key []byte, path string) (rest string, how int) {
	n := 0 // bytes of the path that are the same
	for len(key) > 0 {
		c, size := key[0], 1
		if c == '\\' {
			c, size = 0, 2
			switch key[1] {
			case 'u':
				size = 6
				if u, _ := hex4(key, 2); u < 0x80 {
					c = byte(u)
				}
			case '"', '\\', '/':
				c = key[1]
			}
		}
		if n == len(path) {
			if c == '.' {
				return "", keyIsBelow
			}
			return "", keyIsOther
		}
		if c != path[n] {
			return "", keyIsOther
		}
		key = key[size:]
		n++
	}
	switch {
	case n == len(path):
		return "", keyIs
	case path[n] == '.':
		return path[n+1:], keyIsAbove
	}
	return "", keyIsOther
}

// Members goes through the members of the object that begins at line[at]: the
// keys with their quotes, and the values.
func Members(line []byte, at int) iter.Seq2[Span, Span] {
	return func(yield func(key, value Span) bool) {
		for p := blank(line, at+1); line[p] != '}'; {
			key := Span{p, skip(line, p)}
			p = blank(line, key.To)
			p = blank(line, p+1) // the colon
			value := Span{p, skip(line, p)}
			if !yield(key, value) {
				return
			}
			if p = blank(line, value.To); line[p] == ',' {
				p = blank(line, p+1)
			}
		}
	}
}

// Elements goes through the elements of the array that begins at line[at].
func Elements(line []byte, at int) iter.Seq[Span] {
	return func(yield func(Span) bool) {
		for p := blank(line, at+1); line[p] != ']'; {
			value := Span{p, skip(line, p)}
			if !yield(value) {
				return
			}
			if p = blank(line, value.To); line[p] == ',' {
				p = blank(line, p+1)
			}
		}
	}
}

// Empty says whether the object or array that begins at line[at] has nothing in it.
func Empty(line []byte, at int) bool {
	c := line[blank(line, at+1)]
	return c == '}' || c == ']'
}

// blank is the first byte at or behind p that is no white space.
func blank(line []byte, p int) int {
	for line[p] == ' ' || line[p] == '\t' || line[p] == '\n' || line[p] == '\r' {
		p++
	}
	return p
}

// skip returns where the value that begins at p ends. Depth costs no calls.
func skip(line []byte, p int) int {
	depth := 0
	for {
		switch c := line[p]; c {
		case '"':
			for p++; line[p] != '"'; p++ {
				if line[p] == '\\' {
					p++
				}
			}
			p++
		case '{', '[':
			depth++
			p++
		case '}', ']':
			depth--
			p++
		case ',', ':', ' ', '\t', '\n', '\r':
			p++
		default: // a number or a literal
			for p++; !ends[line[p]]; p++ {
			}
		}
		if depth == 0 {
			return p
		}
	}
}

// ends marks what ends a number or a literal.
var ends = [256]bool{',': true, '}': true, ']': true, ' ': true, '\t': true, '\n': true, '\r': true}

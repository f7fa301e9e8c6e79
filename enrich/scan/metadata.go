package scan

import "slices"

// This file is about @metadata, which is the sender's word about the event and
// no part of it. Its rule is that of site.go: what it is given is valid JSON.

// Metadata is where the value of the event's @metadata stands in raw, which was
// scanned; the last one where there are several, empty where there is none. Keys
// that spell something below it, as "@metadata.x" does, are no part of it.
func (r *Result) Metadata(raw []byte) Span {
	if r.meta == (span{}) {
		return Span{}
	}
	key := skip(raw, r.meta.from)
	return Span{blank(raw, blank(raw, key)+1), r.meta.to}
}

// isMetadata tells the key @metadata, as it is spelled, from one that goes on
// below it.
func isMetadata(key []byte) bool {
	_, how := follow(key, "@metadata")
	return how == keyIs
}

// SetMetadataID gives the line that begins at from, the last one in lines and
// ended by "\n", an @metadata._id where it has none that is a non-empty string.
// An @metadata that is no object is replaced by one. id is the inside of a JSON
// string. It needs at most LenMetadataID(id) more bytes.
func SetMetadataID(lines []byte, from int, id []byte) []byte {
	line := lines[from:]
	where := Find(line, 0, "@metadata").Value
	if where == (Span{}) {
		end := len(line) - len("}\n")
		lead := `,"@metadata":{"_id":"`
		if line[end-1] == '{' && Empty(line, 0) {
			lead = lead[1:]
		}
		lines = append(lines[:from+end], lead...)
		lines = append(lines, id...)
		return append(lines, "\"}}\n"...)
	}
	if line[where.From] != '{' {
		return replace(lines, from+where.From, from+where.To, `{"_id":"`, id, `"}`)
	}
	var old Span
	for key, value := range Members(line, where.From) {
		if _, how := follow(line[key.From+1:key.To-1], "_id"); how == keyIs {
			old = value
		}
	}
	switch {
	case old == (Span{}) && Empty(line, where.From):
		return replace(lines, from+where.From, from+where.To, `{"_id":"`, id, `"}`)
	case old == (Span{}):
		return replace(lines, from+where.From, from+where.From+1, `{"_id":"`, id, `",`)
	case line[old.From] != '"' || old.To-old.From == len(`""`):
		return replace(lines, from+old.From, from+old.To, `"`, id, `"`)
	}
	return lines
}

// LenMetadataID is the most that SetMetadataID adds to a line.
func LenMetadataID(id []byte) int { return len(id) + len(`,"@metadata":{"_id":""}`) }

// replace puts before, middle and after in the place of b[from:to].
func replace(b []byte, from, to int, before string, middle []byte, after string) []byte {
	n, end := len(before)+len(middle)+len(after), len(b)
	grown := end + n - (to - from)
	b = slices.Grow(b, max(grown-end, 0))[:max(grown, end)]
	copy(b[from+n:], b[to:end])
	at := from + copy(b[from:], before)
	at += copy(b[at:], middle)
	copy(b[at:], after)
	return b[:grown]
}

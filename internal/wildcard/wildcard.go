// Package wildcard compares names with patterns in which * stands for any text,
// none too, as Elasticsearch has them for indices; no other character is special.
//
// Promise: every text is a pattern, and no name and no pattern makes it try more
// than one way.
package wildcard

import "strings"

// Match reports whether a name is what a pattern says.
func Match(pattern, name string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	for {
		next, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(name, next)
		}
		_, after, ok := strings.Cut(name, next)
		if !ok {
			return false
		}
		name, rest = after, more
	}
}

// Meet reports whether there is a name that two patterns both match.
func Meet(a, b string) bool {
	switch {
	case !strings.Contains(a, "*"):
		return Match(b, a)
	case !strings.Contains(b, "*"):
		return Match(a, b)
	}
	// What is between two * can stand beside anything.
	startA, endA := ends(a)
	startB, endB := ends(b)
	return (strings.HasPrefix(startA, startB) || strings.HasPrefix(startB, startA)) && (strings.HasSuffix(endA, endB) || strings.HasSuffix(endB, endA))
}

// ends are what stands before the first * and behind the last.
func ends(pattern string) (start, end string) {
	return pattern[:strings.IndexByte(pattern, '*')], pattern[strings.LastIndexByte(pattern, '*')+1:]
}

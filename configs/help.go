package configs

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// helpWidth is the longest line of the help: what fits everywhere.
const helpWidth = 80

// Help is settings as they stand in the help of commands: the flag, and below
// it what it means and its default, in lines of at most 80 characters where
// words allow it. Without names it is all of them, a blank line between
// sections.
func Help(names ...string) string {
	var b strings.Builder
	var section string
	for i := range table {
		s := table[i].public()
		if len(names) > 0 && !slices.Contains(names, s.Name) {
			continue
		}
		if first, _, _ := strings.Cut(s.Name, "."); len(names) == 0 && first != section {
			if section != "" {
				b.WriteString("\n")
			}
			section = first
		}
		b.WriteString("  --" + s.Name)
		switch {
		case s.List:
			b.WriteString(" VALUE,…")
		case !s.Bool:
			b.WriteString(" VALUE")
		}
		b.WriteString("\n")
		wrap(&b, "      ", strings.ReplaceAll(s.Doc, "`", "")+" (default: "+s.Default+")")
	}
	return b.String()
}

// wrap writes text in lines that begin with indent.
func wrap(b *strings.Builder, indent, text string) {
	room := 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case room == 0:
			b.WriteString(indent + word)
			room = helpWidth - len(indent) - n
		case 1+n > room:
			b.WriteString("\n" + indent + word)
			room = helpWidth - len(indent) - n
		default:
			b.WriteString(" " + word)
			room -= 1 + n
		}
		room = max(room, 1) // a word longer than a line must not look like a beginning
	}
	b.WriteString("\n")
}

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// width is the longest line of what is shown, where words allow it.
const width = 100

// layout renders JSON for people: what fits into a line stands on one; in what
// does not, plain values are filled like text and each object or list begins a
// line. Values keep the spelling of the file. Lines after the first begin with
// indent; taken is how much of the first is in use.
func layout(value json.RawMessage, indent string, taken int) (string, error) {
	value = bytes.TrimSpace(value)
	if len(value) == 0 || value[0] != '{' && value[0] != '[' {
		return string(value), nil
	}
	members, err := split(value)
	if err != nil {
		return "", err
	}
	opening, closing := value[:1], value[len(value)-1:]
	inner := indent + "  "

	parts := make([]string, len(members))
	for i, m := range members {
		text, err := layout(m.value, inner, len(inner)+utf8.RuneCountInString(m.key)+1)
		if err != nil {
			return "", err
		}
		parts[i] = m.key + text
	}
	line := string(opening) + strings.Join(parts, ", ") + string(closing)
	if !strings.Contains(line, "\n") && taken+utf8.RuneCountInString(line)+1 <= width {
		return line, nil
	}

	var b strings.Builder
	b.Write(opening)
	room := 0 // behind plain values; nothing follows an object or a list on its line
	for i, part := range parts {
		if i < len(parts)-1 {
			part += ","
		}
		n := utf8.RuneCountInString(part)
		switch {
		case members[i].plain() && n+1 <= room:
			b.WriteString(" " + part)
			room -= n + 1
		case members[i].plain():
			b.WriteString("\n" + inner + part)
			room = width - len(inner) - n
		default:
			b.WriteString("\n" + inner + part)
			room = 0
		}
	}
	b.WriteString("\n" + indent)
	b.Write(closing)
	return b.String(), nil
}

// member is one of an object, with its key as it stands and a colon, or one of
// a list.
type member struct {
	key   string
	value json.RawMessage
}

// plain says whether the value has no members of its own.
func (m member) plain() bool { return m.value[0] != '{' && m.value[0] != '[' }

// split takes an object or a list apart.
func split(value json.RawMessage) (members []member, err error) {
	dec := json.NewDecoder(bytes.NewReader(value))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	for dec.More() {
		var m member
		if value[0] == '{' {
			start := dec.InputOffset()
			if _, err := dec.Token(); err != nil {
				return nil, err
			}
			m.key = strings.TrimLeft(string(value[start:dec.InputOffset()]), ", \t\r\n") + ": "
		}
		if err := dec.Decode(&m.value); err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	return members, nil
}

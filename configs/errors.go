package configs

import (
	"strings"
)

// Mistake is one thing that is wrong with the settings.
type Mistake struct {
	Name  string // the setting's name, or what was written in its place
	Where string // "flag", "environment variable VTSIDECAR_…", "vtsidecar.yml:12", "default"
	Text  string // what is wrong and the mend; never a secret
}

// String is the mistake on one line.
func (m Mistake) String() string {
	if m.Where == "" {
		return m.Name + ": " + m.Text
	}
	return m.Name + " (" + m.Where + "): " + m.Text
}

// safeName is an unknown name as it may be shown. What does not look like a
// name is cut away: "vt: {api_key:…}" without a space makes the key a part of
// the name, and a key in the place of a name is longer than any name.
func safeName(name string) string {
	end := strings.IndexFunc(name, func(r rune) bool {
		return r != '.' && r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
	cut := end >= 0
	if cut {
		name = name[:end]
	}
	parts := strings.Split(name, ".")
	if len(parts) > 8 {
		parts, cut = parts[:8], true
	}
	for i, p := range parts {
		if len(p) > 32 {
			parts[i] = "…"
		}
	}
	name = strings.Join(parts, ".")
	if cut {
		name += "…"
	}
	return name
}

// Errors is everything that is wrong with the settings.
type Errors struct{ Mistakes []Mistake } // never empty

// Error has one line for each mistake.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Mistakes))
	for i, m := range e.Mistakes {
		lines[i] = oneLine(m.String())
	}
	return strings.Join(lines, "\n")
}

// oneLine replaces what would break a line or a terminal. Names and places can
// hold whatever a stranger wrote.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
}

// nearest is the known name that a wrong one most likely means, or "".
func nearest(wrong string) string {
	wrong = strings.ToLower(wrong)
	if wrong == "" || len(wrong) > 100 {
		return ""
	}
	flat := strings.NewReplacer("-", "_", ".", "_") // as a variable has it
	best, bestDistance := "", max(2, len(wrong)/4)+1
	consider := func(name string, d int) {
		if d < bestDistance {
			best, bestDistance = name, d
		}
	}
	for i := range table {
		name := table[i].name
		consider(name, distance(wrong, name))
		if strings.HasSuffix(name, "."+wrong) { // only its last part
			consider(name, 1)
		}
		consider(name, distance(flat.Replace(wrong), flat.Replace(name)))
	}
	if best != "" {
		return best
	}
	// The right last part below a wrong section.
	if dot := strings.LastIndexByte(wrong, '.'); dot >= 0 {
		for i := range table {
			if strings.HasSuffix(table[i].name, wrong[dot:]) {
				return table[i].name
			}
		}
	}
	return ""
}

// distance is how many single-character changes or swaps of neighbours lie
// between two names.
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}

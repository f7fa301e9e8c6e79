package configs

import "strings"

// MarkdownTable is the table of all settings as it stands in the README.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("| setting | default | meaning |\n|---|---|---|\n")
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	for i := range table {
		s := &table[i]
		def := s.shown
		switch {
		case s.name == "fields":
			def = "see `configs/vtsidecar.yml`"
		case def == "":
			def = "`" + s.def + "`"
		case strings.ContainsAny(def, "</"):
			def = "`" + def + "`"
		}
		b.WriteString("| `" + s.name + "` | " + cell(def) + " | " + cell(s.doc) + " |\n")
	}
	return b.String()
}

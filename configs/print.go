package configs

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

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

// YAML is every setting that holds, as a file that would make the same settings
// again, apart from secrets. Behind each that is no default stands where it
// comes from.
func (c *Config) YAML() string {
	var b strings.Builder
	for _, e := range c.effective {
		if e.Name == "config" { // cannot stand in a file
			if e.Text != "" {
				b.WriteString("# config: " + oneLine(e.Text) + " (" + oneLine(e.From) + ")\n")
			}
			continue
		}
		if e.Name == "vt.api_key" && c.VT.APIKeyFile != "" { // both in one file would be refused
			continue
		}
		b.WriteString(e.Name + ":")
		if e.Text != "" {
			text := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: e.Text}
			if find(e.Name).boolean || plain.MatchString(e.Text) {
				text.Tag = ""
			}
			out, err := yaml.Marshal(text)
			if err != nil { // a scalar with any text can be written
				out = []byte("\n")
			}
			b.WriteString(" " + strings.TrimSuffix(string(out), "\n"))
		}
		if e.From != "default" {
			b.WriteString(" # " + oneLine(e.From))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// plain are values that read best without quotes: we take a scalar's text,
// whatever else YAML would make of it.
var plain = regexp.MustCompile(`^[0-9][0-9a-zA-Z]*$`)

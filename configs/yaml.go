package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file has three rules: a scalar is its text, whatever YAML would make of
// it; a value is never quoted in an error, for it may be a secret; and the
// work is bounded, whatever the aliases of a file say.

const (
	maxNodes = 20_000 // visited, so aliases of aliases count each time
	maxNest  = 32
)

// leaf is a value of the file.
type leaf struct {
	name     string
	line     int
	texts    []string
	sequence bool // texts are the elements of a YAML list
}

// tree reads one file.
type tree struct {
	file    string
	leaves  []leaf
	at      map[string]int // name to line, of leaves and of sections where they are first met
	mistake func(name, where, text string)
	nodes   int
	tooMuch bool
}

var anchorName = regexp.MustCompile(`(unknown anchor|anchor) '.*'`)

// readYAML flattens a file into the values of known settings. What is wrong
// with it goes to mistake.
func readYAML(file string, data []byte, mistake func(name, where, text string)) []leaf {
	t := &tree{file: file, at: map[string]int{}, mistake: mistake}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		mistake("config", file, "is not valid YAML: "+yamlProblem(err))
		return nil
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		mistake("config", t.place(&second), "holds a second YAML document: put all settings into one")
	} else if !errors.Is(err, io.EOF) {
		mistake("config", file, "is not valid YAML: "+yamlProblem(err))
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil
	}
	root := doc.Content[0]
	switch {
	case isNull(root):
	case resolve(root).Kind != yaml.MappingNode:
		mistake("config", t.place(root), "holds no settings: write them as NAME: VALUE")
	default:
		t.mapping("", root, 0)
	}
	if t.tooMuch {
		mistake("config", file, fmt.Sprintf("is too large or too deep with its aliases resolved: keep to %d values and %d levels", maxNodes, maxNest))
	}
	return t.leaves
}

// yamlProblem is the library's words without what they quote from the file.
func yamlProblem(err error) string {
	text := anchorName.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "$1")
	if strings.Contains(text, "cannot start any token") {
		text += ": indent with spaces, not tabs, and put a text that begins with @, % or a backquote into quotes"
	}
	return text
}

func (t *tree) place(n *yaml.Node) string { return fmt.Sprintf("%s:%d", t.file, n.Line) }

func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && n.Alias != nil && i < maxNest; i++ {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	n = resolve(n)
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// spend counts a visited node and says whether more may be visited.
func (t *tree) spend(depth int) bool {
	t.nodes++
	if t.nodes > maxNodes || depth > maxNest {
		t.tooMuch = true
	}
	return !t.tooMuch
}

// mapping walks a section.
func (t *tree) mapping(section string, n *yaml.Node, depth int) {
	content := resolve(n).Content
	here := map[string]int{} // keys of this very mapping
	for i := 0; i+1 < len(content); i += 2 {
		if !t.spend(depth) {
			return
		}
		key, val := resolve(content[i]), content[i+1]
		line := content[i].Line
		where := fmt.Sprintf("%s:%d", t.file, line)
		shown := section
		if shown == "" {
			shown = "config"
		}
		switch {
		case key.Kind != yaml.ScalarNode || key.Value == "":
			t.mistake(shown, where, "has a key that is no name: write NAME: VALUE")
			continue
		case key.Value == "<<" && key.ShortTag() == "!!merge":
			t.mistake(shown, where, "merges another mapping (<<): write its settings out here")
			continue
		}
		name := key.Value
		if section != "" {
			name = section + "." + name
		}
		if first, twice := here[key.Value]; twice {
			t.mistake(safeName(name), where, fmt.Sprintf("stands here again, first on line %d: keep one", first))
			if v := resolve(val); isSection(name) && v.Kind == yaml.MappingNode {
				t.mapping(name, v, depth+1) // what is wrong in it is to be mended too
			}
			continue
		}
		here[key.Value] = line
		t.entry(name, line, where, val, depth)
	}
}

// entry takes one key with its value.
func (t *tree) entry(name string, line int, where string, val *yaml.Node, depth int) {
	v := resolve(val)
	known := find(name)
	switch {
	case name == "config":
		t.mistake(name, where, "cannot stand in the file itself: take it out")
	case known != nil:
		if first, twice := t.at[name]; twice {
			t.mistake(name, where, fmt.Sprintf("stands here again, first on line %d: keep one", first))
			return
		}
		t.at[name] = line
		if !isNull(v) { // "name:" without a value is the default, as in Beats
			t.leaf(known, line, where, v, depth)
		}
	case isSection(name):
		switch {
		case isNull(v):
		case v.Kind == yaml.MappingNode:
			t.mapping(name, v, depth+1)
		default:
			t.mistake(name, where, "is a section, not a setting: write its settings below it, indented")
		}
	case isLater(name):
		if v.Kind == yaml.MappingNode && len(v.Content) > 0 {
			t.mapping(name, v, depth+1)
			return
		}
		t.mistake(safeName(name), where, notYet)
	default:
		t.mistake(safeName(name), where, unknown(safeName(name), func(n string) string { return n }))
	}
}

// leaf takes the value of a known setting.
func (t *tree) leaf(s *setting, line int, where string, v *yaml.Node, depth int) {
	l := leaf{name: s.name, line: line}
	switch {
	case v.Kind == yaml.ScalarNode:
		l.texts = []string{v.Value}
	case v.Kind == yaml.SequenceNode && s.list:
		l.sequence = true
		for _, e := range v.Content {
			if !t.spend(depth + 1) {
				return
			}
			if e = resolve(e); e.Kind != yaml.ScalarNode || isNull(e) {
				t.mistake(s.name, t.place(e), "has an element that is no text: use "+s.takes)
				return
			}
			l.texts = append(l.texts, e.Value)
		}
	case v.Kind == yaml.MappingNode && s.perType:
		l.sequence = true
		for i := 0; i+1 < len(v.Content); i += 2 {
			if !t.spend(depth + 1) {
				return
			}
			key, e := resolve(v.Content[i]), resolve(v.Content[i+1])
			if key.Kind != yaml.ScalarNode || e.Kind != yaml.ScalarNode || isNull(e) {
				t.mistake(s.name, t.place(v.Content[i]), "has an element that is no text: use "+s.takes)
				return
			}
			l.texts = append(l.texts, key.Value+":"+e.Value)
		}
	case s.list:
		t.mistake(s.name, where, "holds further names: use "+s.takes)
		return
	default:
		t.mistake(s.name, where, "takes one value: use "+s.takes)
		return
	}
	t.leaves = append(t.leaves, l)
}

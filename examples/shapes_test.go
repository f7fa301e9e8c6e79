package examples_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
)

// shape is an event as a Beat sends it, and what must come of it.
type shape struct {
	file string // without .json

	Beat  string `json:"beat"`
	Shape string `json:"shape"`
	After string `json:"after"` // the published sample or code that says what the Beat sends; the values are ours
	Note  string `json:"note"`  // worth knowing, for the table

	Parts map[string]string            `json:"parts"` // by the default fields: name to what say returns
	Left  map[string]map[string]string `json:"left"`  // by one more field, which they leave out
	Event json.RawMessage              `json:"event"`
}

func shapes(t *testing.T) (all []shape) {
	t.Helper()
	paths, err := filepath.Glob("shapes/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		s := shape{file: strings.TrimSuffix(filepath.Base(path), ".json")}
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&s), path)
		require.NotEmpty(t, s.Beat, path)
		require.NotEmpty(t, s.Shape, path)
		require.NotEmpty(t, s.After, path)
		all = append(all, s)
	}
	return all
}

// parts are the parts of an arcanna.ioc, in words.
func parts(t *testing.T, ioc map[string]any, fields []string) map[string]string {
	t.Helper()
	said := map[string]string{}
	for _, text := range fields {
		f, err := indicator.ParseField(text)
		require.NoError(t, err)
		var at any = ioc
		for key := range strings.SplitSeq(f.Name, ".") {
			m, _ := at.(map[string]any)
			at = m[key]
		}
		if part, ok := at.(map[string]any); ok {
			said[f.Name] = say(part)
		}
	}
	return said
}

// say is a part in words: its type and value, with the reason where it is not
// looked up; of several values all, sorted.
func say(part map[string]any) string {
	if values, several := part["values"].([]any); several {
		var all []string
		for _, v := range values {
			all = append(all, v.(string))
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	words := []string{fmt.Sprint(part["type"])}
	if v, ok := part["value"]; ok {
		words = append(words, v.(string))
	}
	if part["status"] == "skipped" {
		words = append(words, fmt.Sprintf("(%s)", part["skip_reason"]))
	}
	return strings.Join(words, " ")
}

// Every shape gives the parts that it should, and what the default fields leave
// is found with one more. The tables in docs/fields.md are made of this.
func TestShapes(t *testing.T) {
	c, err := configs.Load(configs.Input{})
	require.NoError(t, err)
	standard := newEnricher(t, enrich.Config{}, c.Fields...)
	var found, left strings.Builder
	found.WriteString("| shape | parts under `arcanna.ioc` | file |\n|---|---|---|\n")
	left.WriteString("| shape | add to `fields` | part |\n|---|---|---|\n")
	for _, s := range shapes(t) {
		_, line := enriched(t, standard, s.Event)
		got := parts(t, iocOf(t, line), c.Fields)
		assert.Equal(t, s.Parts, got, s.file)

		fmt.Fprintf(&found, "| %s: %s | %s | [%s](../examples/shapes/%s.json) |\n", s.Beat, s.Shape, inWords(got, s.Note), s.file, s.file)
		for _, field := range slices.Sorted(maps.Keys(s.Left)) {
			e := newEnricher(t, enrich.Config{}, field)
			_, line := enriched(t, e, s.Event)
			more := parts(t, iocOf(t, line), []string{field})
			assert.Equal(t, s.Left[field], more, "%s with %s", s.file, field)
			fmt.Fprintf(&left, "| %s: %s | `%s` | %s |\n", s.Beat, s.Shape, field, inWords(more, ""))
			assert.NoError(t, errorOf(indicator.CheckFields(specsOf(t, append(slices.Clone(c.Fields), field)))), "%s stands beside the default fields", field)
		}
	}
	section(t, "../docs/fields.md", "shapes", found.String())
	section(t, "../docs/fields.md", "left", left.String())
}

func inWords(parts map[string]string, note string) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		words = append(words, fmt.Sprintf("`%s`: %s", name, shortened(parts[name])))
	}
	if note != "" {
		words = append(words, note)
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, "<br>")
}

// shortened makes long hashes short enough for a table.
func shortened(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		if bare := strings.TrimSuffix(w, ","); len(bare) >= 32 && strings.Trim(bare, "0123456789abcdef") == "" {
			words[i] = bare[:8] + "…" + w[len(bare):]
		}
	}
	return strings.Join(words, " ")
}

func specsOf(t *testing.T, fields []string) (specs []indicator.FieldSpec) {
	t.Helper()
	for _, text := range fields {
		f, err := indicator.ParseField(text)
		require.NoError(t, err)
		specs = append(specs, f)
	}
	return specs
}

func errorOf(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

package elasticsearch

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/wildcard"
)

// mapper maps documents as both engines do, as far as the templates go: explicit
// properties first, then the first dynamic template that matches.
type mapper struct {
	props   object
	dynamic []any
	fields  map[string]string // path to type, of all that is mapped, objects too
}

func newMapper(t *testing.T, templates ...Template) *mapper {
	m := &mapper{props: object{}, fields: map[string]string{}}
	for _, x := range templates {
		// As a server reads it.
		text, err := json.Marshal(x.Body)
		require.NoError(t, err)
		var body struct {
			Template struct {
				Mappings struct {
					Properties object
					Dynamic    []any `json:"dynamic_templates"`
				}
			}
		}
		require.NoError(t, json.Unmarshal(text, &body))
		for k, v := range body.Template.Mappings.Properties {
			m.props[k] = v
		}
		m.dynamic = append(m.dynamic, body.Template.Mappings.Dynamic...)
	}
	m.declare("", m.props)
	return m
}

func (m *mapper) declare(prefix string, props object) {
	for name, v := range props {
		field := v.(object)
		typ, _ := field["type"].(string)
		if typ == "" {
			typ = "object"
		}
		m.fields[prefix+name] = typ
		if below, ok := field["properties"].(object); ok {
			m.declare(prefix+name+".", below)
		}
	}
}

// add maps what a document brings.
func (m *mapper) add(prefix string, doc object, props object) {
	for name, v := range doc {
		path := prefix + name
		field, known := props[name].(object)
		if !known {
			field = m.template(path, v)
			if field == nil {
				continue
			}
			props[name] = field
			m.declare(prefix, object{name: field})
		}
		if field["enabled"] == false {
			continue
		}
		list, _ := v.([]any)
		if list == nil {
			list = []any{v}
		}
		for _, x := range list {
			if below, ok := x.(object); ok {
				if field["dynamic"] == "false" {
					continue
				}
				if field["properties"] == nil {
					field["properties"] = object{}
				}
				m.add(path+".", below, field["properties"].(object))
			}
		}
	}
}

func (m *mapper) template(path string, v any) object {
	if list, ok := v.([]any); ok {
		if len(list) == 0 {
			return nil // nothing to be learned from
		}
		v = list[0]
	}
	kind := map[string]string{"string": "string", "float64": "long", "bool": "boolean", "map[string]interface {}": "object"}[fmt.Sprintf("%T", v)]
	for _, x := range m.dynamic {
		for _, t := range x.(object) {
			t := t.(object)
			pattern, any := t["path_match"].(string)
			if !any {
				pattern = "*"
			}
			if wildcard.Match(pattern, path) && t["match_mapping_type"] == kind {
				text, _ := json.Marshal(t["mapping"])
				var field object
				json.Unmarshal(text, &field)
				return field
			}
		}
	}
	if kind == "object" {
		return object{"properties": object{}}
	}
	return object{"type": "guessed " + kind}
}

// Every field that the enrichment writes, in all its goldens, is mapped to the
// type that it should have, or left to the source on purpose.
func TestMappingOfWhatIsAdded(t *testing.T) {
	files, err := filepath.Glob("../../enrich/testdata/*.golden.json")
	require.NoError(t, err)
	require.Greater(t, len(files), 15)
	parts := []string{"source.ip", "destination.ip", "url.full", "dns.question.name", "process.hash", "file.hash", "message"}
	component, index := Templates(parts)
	m := newMapper(t, component, index)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		var doc object
		require.NoError(t, json.Unmarshal(text, &doc), f)
		if doc["arcanna"] == nil && doc["event_id"] != nil {
			doc = object{"arcanna": object{"ioc": doc}}
		}
		for k := range doc {
			if k != "arcanna" && k != "threat" && k != "related" {
				delete(doc, k) // the event's own
			}
		}
		require.NotEmpty(t, doc, f)
		m.add("", doc, m.props)
	}
	for path, typ := range m.fields {
		assert.NotContains(t, typ, "guessed", path)
	}
	for path, want := range map[string]string{
		"arcanna.ioc.is_malicious": "boolean", "arcanna.ioc.global.is_malicious": "boolean", "arcanna.ioc.source.ip.is_malicious": "boolean",
		"arcanna.ioc.global.result": "keyword", "arcanna.ioc.source.ip.result": "keyword", "arcanna.ioc.source.ip.positives": "long",
		"arcanna.ioc.global.score": "long", "arcanna.ioc.global.updated_at": "date", "arcanna.ioc.indicators": "object",
		"threat.enrichments": "nested", "threat.enrichments.indicator.ip": "ip", "threat.enrichments.indicator.first_seen": "date", "related.ip": "ip", "related.hash": "keyword",
	} {
		assert.Equal(t, want, m.fields[path], path)
	}
	for path := range m.fields {
		assert.False(t, strings.HasPrefix(path, "arcanna.ioc.indicators."), "details are not indexed: %s", path)
	}
}

// A hundred configured fields, each with all that a part can have, stay under a
// thousand mapped fields together with all else that the templates map.
func TestMappedFieldsStayFew(t *testing.T) {
	var parts []string
	doc := object{}
	part := object{"value": "x", "type": "ip", "result": "malicious", "is_malicious": true, "status": "found", "provider": "virustotal", "positives": 3.0,
		"engines_total": 9.0, "analysis_age_days": 3.0, "link": "x", "values": []any{"x"}, "values_total": 2.0, "malicious_values": []any{"x"}, "skip_reason": "x"}
	for i := range 100 {
		name := fmt.Sprintf("group%d.field", i)
		parts = append(parts, name)
		doc[fmt.Sprintf("group%d", i)] = object{"field": part}
	}
	component, index := Templates(parts)
	m := newMapper(t, component, index)
	m.add("", object{"arcanna": object{"ioc": doc}}, m.props)
	t.Logf("%d fields", len(m.fields))
	assert.Less(t, len(m.fields), 1000)
	assert.Equal(t, "keyword", m.fields["arcanna.ioc.group99.field.result"])
	assert.NotContains(t, m.fields, "arcanna.ioc.group99.field.link")
}

// The dynamic templates say nothing about the user's own fields.
func TestTemplatesTouchNothingElse(t *testing.T) {
	component, _ := Templates([]string{"source.ip"})
	m := newMapper(t, component)
	m.add("", object{"source": object{"ip": object{"value": "x"}}, "arcanna": object{"tenant": "t"}, "threat": object{"name": "n"}}, m.props)
	for _, path := range []string{"source.ip.value", "arcanna.tenant", "threat.name"} {
		assert.Contains(t, m.fields[path], "guessed", path)
	}
	again, _ := Templates([]string{"source.ip", "source.ip"})
	assert.Equal(t, component.Body, again.Body, "the same settings make the same template")
	other, _ := Templates([]string{"destination.ip"})
	assert.NotEqual(t, component.Body["_meta"], other.Body["_meta"])
}

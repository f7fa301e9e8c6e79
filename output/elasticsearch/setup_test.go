package elasticsearch

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/wildcard"
)

// templateStore is a cluster as far as templates go. It keeps what it is given,
// and gives it back as the real ones do: scalars as text, data_stream filled in,
// settings below index.
type templateStore struct {
	t    *testing.T
	kept map[string]object // by KIND/NAME
	puts []string
	fail map[string]*Response // by method and path, instead of the answer
}

func newTemplateStore(t *testing.T) *templateStore {
	return &templateStore{t: t, kept: map[string]object{}, fail: map[string]*Response{}}
}

func (s *templateStore) Do(_ context.Context, r *Request) (*Response, error) {
	if resp := s.fail[r.Method+" "+r.Path]; resp != nil {
		return resp, nil
	}
	path, err := url.PathUnescape(strings.TrimPrefix(r.Path, "/"))
	require.NoError(s.t, err)
	kind, name, _ := strings.Cut(path, "/")
	require.Contains(s.t, []string{"_component_template", "_index_template"}, kind, "nothing else is asked or changed")
	switch r.Method {
	case http.MethodGet:
		body := s.kept[path]
		if body == nil {
			return s.answer(http.StatusNotFound, object{"error": object{"type": "resource_not_found_exception"}})
		}
		list := strings.TrimPrefix(kind, "_")
		return s.answer(http.StatusOK, object{list + "s": []any{object{"name": name, list: body}}})
	case http.MethodPut:
		var body object
		require.NoError(s.t, json.Unmarshal(r.Body, &body))
		if stream, ok := body["data_stream"].(object); ok {
			stream["hidden"], stream["allow_custom_routing"] = false, false
		}
		for _, name := range list(body["composed_of"]) {
			require.Contains(s.t, s.kept, "_component_template/"+name.(string), "what an index template is composed of comes first")
		}
		s.kept[path] = texts(body).(object)
		s.puts = append(s.puts, path)
		return s.answer(http.StatusOK, object{"acknowledged": true})
	}
	s.t.Errorf("%s %s: nothing is removed or posted", r.Method, r.Path)
	return s.answer(http.StatusMethodNotAllowed, object{})
}

func (s *templateStore) answer(status int, body object) (*Response, error) {
	text, err := json.Marshal(body)
	require.NoError(s.t, err)
	return &Response{Status: status, Body: text, Host: "http://es:9200"}, nil
}

func list(v any) []any { l, _ := v.([]any); return l }

// install plans and applies, as setup does.
func install(t *testing.T, s *templateStore, parts ...string) []Change {
	t.Helper()
	component, index := Templates(parts)
	changes, err := Plan(t.Context(), s, component, index)
	require.NoError(t, err)
	require.NoError(t, Apply(t.Context(), s, changes, component, index))
	return changes
}

func actions(changes []Change) (all []string) {
	for _, c := range changes {
		all = append(all, c.Action)
	}
	return all
}

func TestSetupInstallsOnce(t *testing.T) {
	s := newTemplateStore(t)
	assert.Equal(t, []string{"create", "create"}, actions(install(t, s, "source.ip")))
	assert.Equal(t, []string{"_component_template/" + ComponentName, "_index_template/" + TemplateName}, s.puts)

	s.puts = nil
	changes := install(t, s, "source.ip")
	assert.Equal(t, []string{"none", "none"}, actions(changes))
	assert.Empty(t, changes[0].Diff)
	assert.Empty(t, s.puts, "a second run writes nothing")

	changes = install(t, s, "source.ip", "url.full")
	assert.Equal(t, []string{"update", "none"}, actions(changes))
	text := strings.Join(changes[0].Diff, "\n")
	assert.Contains(t, text, "+ template.mappings.dynamic_templates: {\"vtsidecar_part_url.full\"")
	assert.NotContains(t, text, "vtsidecar_part_source.ip", "what is the same is not shown")
	assert.Equal(t, []string{"none", "none"}, actions(install(t, s, "source.ip", "url.full")))
}

// A plan alone changes nothing.
func TestPlanWritesNothing(t *testing.T) {
	s := newTemplateStore(t)
	component, index := Templates([]string{"source.ip"})
	changes, err := Plan(t.Context(), s, component, index)
	require.NoError(t, err)
	assert.Equal(t, []string{"create", "create"}, actions(changes))
	assert.Empty(t, s.puts)
}

// What somebody has changed in a template of ours is found wherever it stands,
// though its _meta says that it is as we left it.
func TestSetupMendsWhatWasChanged(t *testing.T) {
	mappings := func(s *templateStore) object {
		return s.kept["_component_template/"+ComponentName]["template"].(object)["mappings"].(object)
	}
	for name, c := range map[string]struct {
		change func(s *templateStore)
		shows  string
	}{
		"a type, deep within": {func(s *templateStore) {
			props := mappings(s)["properties"].(object)["threat"].(object)["properties"].(object)["enrichments"].(object)["properties"].(object)
			props["matched"].(object)["properties"].(object)["occurred"] = object{"type": "keyword"}
		}, "+ template.mappings.properties.threat.properties.enrichments.properties.matched.properties.occurred.type: \"date\""},
		"the last dynamic template": {func(s *templateStore) {
			l := mappings(s)["dynamic_templates"].([]any)
			l[len(l)-1].(object)["vtsidecar_numbers"].(object)["mapping"] = object{"type": "integer"}
		}, "+ template.mappings.dynamic_templates.vtsidecar_numbers.mapping.type: \"long\""},
		"the order of the dynamic templates": {func(s *templateStore) {
			l := mappings(s)["dynamic_templates"].([]any)
			l[0], l[1] = l[1], l[0]
		}, "- template.mappings.dynamic_templates: in another order"},
		"one more field": {func(s *templateStore) {
			mappings(s)["properties"].(object)["mine"] = object{"type": "keyword"}
		}, "- template.mappings.properties.mine: {\"type\":\"keyword\"}"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTemplateStore(t)
			install(t, s, "source.ip", "url.full")
			c.change(s)
			changes := install(t, s, "source.ip", "url.full")
			assert.Equal(t, []string{"update", "none"}, actions(changes))
			assert.Contains(t, changes[0].Diff, c.shows)
			assert.Equal(t, []string{"none", "none"}, actions(install(t, s, "source.ip", "url.full")))
		})
	}
}

// A template of our name that somebody else made stays as it is.
func TestSetupLeavesOthersAlone(t *testing.T) {
	for name, meta := range map[string]any{"without _meta": nil, "with another's": object{"managed_by": "ansible"}, "with a _meta of another kind": "vtsidecar"} {
		t.Run(name, func(t *testing.T) {
			s := newTemplateStore(t)
			path := "_index_template/" + TemplateName
			s.kept[path] = object{"index_patterns": []any{"mine-*"}, "_meta": meta}
			component, index := Templates([]string{"source.ip"})
			_, err := Plan(t.Context(), s, component, index)
			require.ErrorContains(t, err, path+" exists and is not vtsidecar's own")
			assert.Empty(t, s.puts, "nor is the other one written")
		})
	}
}

func TestSetupRefused(t *testing.T) {
	put := "PUT /_component_template/" + url.PathEscape(ComponentName)
	get := "GET /_component_template/" + url.PathEscape(ComponentName)
	for name, c := range map[string]struct {
		request string
		status  int
		body    string
		says    []string
	}{
		"no privilege to read":  {get, 403, `{"error":{"type":"security_exception","reason":"action [x] is unauthorized"}}`, []string{"403", "security_exception", "unauthorized"}},
		"no privilege to write": {put, 403, `{"error":{"type":"security_exception","reason":"action [x] is unauthorized"}}`, []string{ComponentName, "403", "security_exception"}},
		"wrong credentials":     {get, 401, `{}`, []string{"401", "output.elasticsearch.api_key"}},
		"a proxy's page":        {get, 200, `<html>`, []string{"is it Elasticsearch or OpenSearch?"}},
		"a proxy's refusal":     {put, 502, `<html>`, []string{"502"}},
		"patterns that overlap": {put, 400, `{"error":{"type":"illegal_argument_exception","reason":"has index patterns [logs-vtsidecar-*] matching patterns from existing templates"}}`, []string{"400", "matching patterns from existing"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTemplateStore(t)
			s.fail[c.request] = &Response{Status: c.status, Body: []byte(c.body), Host: "http://es:9200"}
			component, index := Templates(nil)
			changes, err := Plan(t.Context(), s, component, index)
			if err == nil {
				err = Apply(t.Context(), s, changes, component, index)
			}
			for _, word := range c.says {
				require.ErrorContains(t, err, word)
			}
			assert.Empty(t, s.puts)
		})
	}
}

// Parts are mapped in an index that maps nothing else by itself, and a value
// that looks like a date stays a word.
func TestPartsAreMappedWhateverTheIndexSays(t *testing.T) {
	component, _ := Templates(nil)
	mappings := component.Body["template"].(object)["mappings"].(object)
	ioc := mappings["properties"].(object)["arcanna"].(object)["properties"].(object)["ioc"].(object)
	assert.Equal(t, "true", ioc["dynamic"])
	for _, kind := range []string{"string", "date"} {
		found := ""
		for _, x := range mappings["dynamic_templates"].([]any) {
			for name, d := range x.(object) {
				if d := d.(object); d["match_mapping_type"] == kind && wildcard.Match(d["path_match"].(string), "arcanna.ioc.later.value") {
					found = name
					assert.Equal(t, "keyword", d["mapping"].(object)["type"], name)
				}
			}
		}
		assert.NotEmpty(t, found, "%s values of a field that was configured later", kind)
	}
}

package elasticsearch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"vtsidecar/internal/wildcard"
)

// Change is what has to be done about a template.
type Change struct {
	Kind   string   `json:"kind"` // "_component_template" or "_index_template"
	Name   string   `json:"name"`
	Action string   `json:"action"`         // "create", "update" or "none"
	Diff   []string `json:"diff,omitempty"` // of an update: lines that begin with + or -
}

// Plan compares templates with those of the cluster. It changes nothing. A
// template of the same name that is not the program's own is an error.
func Plan(ctx context.Context, doer Doer, templates ...Template) ([]Change, error) {
	var changes []Change
	for _, t := range templates {
		c := Change{Kind: t.Kind, Name: t.Name, Action: "create"}
		have, err := current(ctx, doer, t)
		if err != nil {
			return nil, err
		}
		if have != nil {
			meta, _ := have["_meta"].(object)
			if meta["managed_by"] != managedBy {
				return nil, fmt.Errorf("%s/%s exists and is not vtsidecar's own: rename or remove it, and put its mapping into a template of another name", t.Kind, t.Name)
			}
			c.Action = "none"
			// Their order is not kept by every server.
			if diff("", texts(have), plain(t.Body), &c.Diff); len(c.Diff) > 0 {
				c.Action = "update"
			}
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// Apply carries a plan out, in its order.
func Apply(ctx context.Context, doer Doer, changes []Change, templates ...Template) error {
	for i, c := range changes {
		if c.Action == "none" {
			continue
		}
		body, err := json.Marshal(templates[i].Body)
		if err != nil {
			return err
		}
		resp, err := doer.Do(ctx, &Request{Method: http.MethodPut, Path: "/" + c.Kind + "/" + url.PathEscape(c.Name), Body: body})
		if err != nil {
			return fmt.Errorf("put %s/%s: %w", c.Kind, c.Name, err)
		}
		if resp.Status != http.StatusOK {
			return fmt.Errorf("put %s/%s: %w", c.Kind, c.Name, refusal(resp))
		}
	}
	return nil
}

// refusal is a status and the cluster's own words. They are about templates and
// settings, never about an event.
func refusal(resp *Response) error {
	if resp.Status == http.StatusUnauthorized {
		return fmt.Errorf("%s answers 401: the credentials are wrong; mend output.elasticsearch.api_key, .username and .password or .bearer_token", resp.Host)
	}
	if typ, reason := requestError(resp.Body); typ != "" {
		return fmt.Errorf("%s answers %d %s: %s", resp.Host, resp.Status, typ, readable(reason, 1000))
	}
	return fmt.Errorf("%s answers %d", resp.Host, resp.Status)
}

// get asks and decodes; nil where there is nothing of that name.
func get(ctx context.Context, doer Doer, path string) (object, error) {
	resp, err := doer.Do(ctx, &Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	return decoded(resp)
}

// decoded is an answer; nil where it says that there is nothing of that name.
func decoded(resp *Response) (object, error) {
	switch {
	case resp.Status == http.StatusNotFound:
		return nil, nil
	case resp.Status != http.StatusOK:
		return nil, refusal(resp)
	}
	var o object
	if err := json.Unmarshal(resp.Body, &o); err != nil {
		return nil, fmt.Errorf("%s: its answer is no JSON object: is it Elasticsearch or OpenSearch?", resp.Host)
	}
	return o, nil
}

// current is the template of that name in the cluster, without what the server
// adds to it; nil: there is none.
func current(ctx context.Context, doer Doer, t Template) (object, error) {
	answer, err := get(ctx, doer, "/"+t.Kind+"/"+url.PathEscape(t.Name))
	if answer == nil || err != nil {
		return nil, err
	}
	list, inside := "component_templates", "component_template"
	if t.Kind == "_index_template" {
		list, inside = "index_templates", "index_template"
	}
	all, _ := answer[list].([]any)
	for _, x := range all {
		entry, _ := x.(object)
		if entry["name"] != t.Name {
			continue
		}
		body, _ := entry[inside].(object)
		if stream, ok := body["data_stream"].(object); ok {
			// Filled in by the server.
			for _, k := range []string{"hidden", "allow_custom_routing", "timestamp_field", "failure_store"} {
				delete(stream, k)
			}
		}
		for _, k := range []string{"created_date", "created_date_millis", "modified_date", "modified_date_millis"} {
			delete(body, k)
		}
		return body, nil
	}
	return nil, nil
}

// Shape is what an index of a name would be made from.
type Shape struct {
	Template string   // the index template that applies; empty: none does
	Priority int      // its
	Composed bool     // it is composed of ComponentName
	Problems []string // fields that are added and would be mapped otherwise, in words
	Missing  bool     // what is added is not mapped at all
	Pipeline string   // index.default_pipeline; empty: none
}

// Simulator says how indices would be made. It reads the cluster's templates once,
// so those that are made later are not seen. It is for one goroutine.
type Simulator struct {
	doer  Doer
	parts []string

	read      bool
	templates []any // of the cluster, as it has them
}

// NewSimulator makes one for events in which answers stand under the names in parts.
func NewSimulator(doer Doer, parts []string) *Simulator {
	return &Simulator{doer: doer, parts: parts}
}

// Simulate says how an index or data stream of that name would be made, and
// what in it does not go together with what is added to events.
func (m *Simulator) Simulate(ctx context.Context, name string) (*Shape, error) {
	if !m.read {
		answer, err := get(ctx, m.doer, "/_index_template")
		if err != nil {
			return nil, err
		}
		m.templates, _ = answer["index_templates"].([]any)
		m.read = true
	}
	s := m.whose(name)
	simulated := func(what, name string) (object, int, error) {
		resp, err := m.doer.Do(ctx, &Request{Method: http.MethodPost, Path: "/_index_template/" + what + "/" + url.PathEscape(name)})
		if err != nil {
			return nil, 0, err
		}
		answer, err := decoded(resp)
		return answer, resp.Status, err
	}
	answer, status, err := simulated("_simulate_index", name)
	if status == http.StatusInternalServerError && s.Template != "" {
		// OpenSearch, asked for a data stream that exists, finds its name taken. What
		// its next index would be made from is the template.
		answer, _, err = simulated("_simulate", s.Template)
	}
	if err != nil {
		return nil, err
	}
	template, _ := answer["template"].(object)
	mappings, _ := template["mappings"].(object)
	var mapped bool
	s.Problems, mapped = conflicts(mappings, m.parts)
	s.Missing = !mapped
	if settings, ok := template["settings"].(object); ok {
		index, _ := settings["index"].(object)
		s.Pipeline, _ = index["default_pipeline"].(string)
	}
	return s, nil
}

// Awaits reports whether changes that are planned, and not made yet, decide how an
// index of that name would be made: then its Shape says nothing of what will be.
func (s *Shape) Awaits(name string, planned []Change) bool {
	_, own := Templates(nil)
	pattern, _ := own.Body["index_patterns"].([]any)[0].(string)
	priority, _ := own.Body["priority"].(int)
	for _, c := range planned {
		switch {
		case c.Action == "none":
		case c.Kind == own.Kind && wildcard.Match(pattern, name) && (s.Template == "" || s.Template == TemplateName || s.Priority < priority),
			c.Kind != own.Kind && s.Composed:
			return true
		}
	}
	return false
}

// conflicts are fields that a mapping has and that do not go together with what
// is added to events, in words; mapped tells whether it knows what is added.
func conflicts(mappings object, parts []string) (problems []string, mapped bool) {
	want := wanted(parts)
	props, _ := mappings["properties"].(object)
	seen := map[string]bool{}
	leaves("", props, func(path string, field object) {
		t, asked := want[path]
		if !asked {
			// Something of our own below it makes this a problem too.
			for p := range want {
				if strings.HasPrefix(p, path+".") && field["type"] != "nested" {
					problems = append(problems, fmt.Sprintf("%s is mapped as %v, but fields of the program are below it", path, field["type"]))
					return
				}
			}
			return
		}
		seen[path] = true
		if have, _ := field["type"].(string); !fits(have, t) {
			problems = append(problems, fmt.Sprintf("%s is mapped as %s instead of %s", path, have, t))
		}
	})
	mapped = seen["arcanna.ioc.event_id"]
	if at := strict(mappings, "arcanna", "ioc"); at != "" && !mapped {
		problems = append(problems, at+" is dynamic: strict, which refuses every event with fields that are not mapped")
	}
	slices.Sort(problems)
	return problems, mapped
}

// strict names the innermost of the objects on the way to a field that decides
// about fields that are not mapped, where that refuses them; empty: it does not.
func strict(mappings object, path ...string) (at string) {
	at, decided := "", any(nil)
	name := "the mapping"
	for i := 0; ; i++ {
		if d, ok := mappings["dynamic"]; ok {
			at, decided = name, d
		}
		if i == len(path) {
			break
		}
		props, _ := mappings["properties"].(object)
		below, ok := props[path[i]].(object)
		if !ok {
			break
		}
		mappings, name = below, strings.Join(path[:i+1], ".")
	}
	if decided != "strict" {
		return ""
	}
	return at
}

func (s *Shape) by() string {
	if s.Template == "" {
		return "no index template applies to it"
	}
	return fmt.Sprintf("index template %q (priority %d) applies to it", s.Template, s.Priority)
}

// Faults are the problems with who makes them, and the mend.
func (s *Shape) Faults() (all []string) {
	mend := "mend its mapping, or compose it of %q last"
	if s.Template == "" {
		mend = "make one with %q in its composed_of"
	}
	for _, p := range s.Problems {
		all = append(all, fmt.Sprintf("%s; %s: "+mend, p, s.by(), ComponentName))
	}
	return all
}

// Hint says that what is added would be mapped by guess; empty: it would not.
func (s *Shape) Hint() string {
	if !s.Missing || len(s.Problems) > 0 {
		return ""
	}
	if s.Template == TemplateName {
		return s.by() + ", but does not map what is added: run vtsidecar setup"
	}
	mend := "add %q to its composed_of"
	if s.Template == "" {
		mend = "make one with %q in its composed_of"
	}
	return fmt.Sprintf("what is added to events would be mapped by guess; %s: "+mend, s.by(), ComponentName)
}

// whose is the template that applies to a name: the one of the highest priority
// whose patterns match.
func (m *Simulator) whose(name string) *Shape {
	s, best := &Shape{}, -1.0
	for _, x := range m.templates {
		entry, _ := x.(object)
		body, _ := entry["index_template"].(object)
		priority, _ := body["priority"].(float64)
		patterns, _ := body["index_patterns"].([]any)
		for _, p := range patterns {
			if pattern, _ := p.(string); wildcard.Match(pattern, name) && priority > best {
				best = priority
				s.Template, _ = entry["name"].(string)
				s.Priority = int(priority)
				composed, _ := body["composed_of"].([]any)
				s.Composed = slices.Contains(composed, any(ComponentName))
			}
		}
	}
	return s
}

package elasticsearch

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"vtsidecar/internal/wildcard"
)

// This file asks of what an index would be made, and whether what the program adds
// to events goes together with that. Nothing is written.

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

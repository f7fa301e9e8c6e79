package esstandin

import (
	"net/http"
	"path"
	"strings"
)

// at is what stands at a path of decoded JSON; nil: nothing.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func has(v any, key string) bool {
	m, _ := v.(map[string]any)
	_, ok := m[key]
	return ok
}

// list is the array at a path, or its one element where that stands alone.
func list(v any, keys ...string) []any {
	switch v := at(v, keys...).(type) {
	case nil:
		return nil
	case []any:
		return v
	default:
		return []any{v}
	}
}

// filtered is an answer less what the request's filter_path leaves out. As in
// the real servers an element of a list of which nothing is left goes too.
func filtered(r *http.Request, v any) any {
	q := r.URL.Query().Get("filter_path")
	if q == "" {
		return v
	}
	var patterns [][]string
	for p := range strings.SplitSeq(q, ",") {
		patterns = append(patterns, strings.Split(strings.TrimSpace(p), "."))
	}
	out, ok := filter(v, patterns)
	if !ok {
		return map[string]any{}
	}
	return out
}

func filter(v any, patterns [][]string) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			var rest [][]string
			whole := false
			for _, p := range patterns {
				if len(p) == 0 {
					continue
				}
				if ok, _ := path.Match(p[0], key); !ok { // a broken pattern matches nothing
					continue
				}
				whole = whole || len(p) == 1
				rest = append(rest, p[1:])
			}
			if whole {
				out[key] = value
			} else if kept, ok := filter(value, rest); ok {
				out[key] = kept
			}
		}
		return out, len(out) > 0
	case []any:
		var out []any
		for _, e := range v {
			if kept, ok := filter(e, patterns); ok {
				out = append(out, kept)
			}
		}
		return out, len(out) > 0
	default:
		return nil, false
	}
}

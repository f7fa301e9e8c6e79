package esstandin

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
)

// ServeHTTP answers as the cluster does, and, for scripts, /_standin/….
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	segments, err := split(r.URL.EscapedPath())
	if err != nil {
		s.complain("a path that is not escaped")
		s.failure(w, http.StatusBadRequest, "illegal_argument_exception", "a path that is not escaped")
		return
	}
	last := segments[len(segments)-1]
	if s.cfg.Discard && last == "_bulk" && r.Method == http.MethodPost {
		s.bulk(w, r, "")
		return
	}
	if segments[0] == "_standin" {
		s.admin(w, r, last)
		return
	}
	s.mu.Lock()
	s.stats.Requests[r.Method+" "+r.URL.Path]++
	s.mu.Unlock()
	given := r.Header.Get("Authorization")
	if s.cfg.NoCredentials && given != "" {
		s.complain("credentials came to a host that they do not belong to")
	}
	if segments[0] == redirected[1:] {
		if given != "" {
			s.complain("credentials came to a host that a redirect named")
		} else {
			s.complain("a redirect was followed")
		}
		s.failure(w, http.StatusNotFound, "resource_not_found_exception", "nothing here")
		return
	}
	if s.cfg.Authorization != "" && !sameCredentials(given, s.cfg.Authorization) {
		w.Header().Set("WWW-Authenticate", `Basic realm="security", charset="UTF-8"`)
		s.failure(w, http.StatusUnauthorized, "security_exception", "unable to authenticate with provided credentials")
		return
	}
	if last == "_bulk" && len(segments) <= 2 && (r.Method == http.MethodPost || r.Method == http.MethodPut) {
		target := ""
		if len(segments) == 2 {
			target = segments[0]
		}
		s.bulk(w, r, target)
		return
	}
	s.rest(w, r, segments)
}

// sameCredentials compares two Authorization headers; their schemes are the same
// in upper and lower case.
func sameCredentials(a, b string) bool {
	schemeA, restA, _ := strings.Cut(a, " ")
	schemeB, restB, _ := strings.Cut(b, " ")
	return strings.EqualFold(schemeA, schemeB) && restA == restB
}

// split are the parts of a path, unescaped; of "/" one that is empty.
func split(escaped string) ([]string, error) {
	parts := strings.Split(strings.Trim(escaped, "/"), "/")
	for i, p := range parts {
		u, err := url.PathUnescape(p)
		if err != nil {
			return nil, err
		}
		parts[i] = u
	}
	return parts, nil
}

// product says which server this is, where the real one does.
func (s *Server) product(h http.Header, status int) {
	if !s.cfg.OpenSearch && status != http.StatusUnauthorized && status != http.StatusRequestEntityTooLarge {
		h.Set("X-Elastic-Product", "Elasticsearch")
	}
}

func (s *Server) count(status int) {
	s.mu.Lock()
	s.stats.Answers[fmt.Sprint(status)]++
	s.mu.Unlock()
}

// answer writes an answer to anything; nil: without a body.
func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	s.product(h, status)
	s.count(status)
	if v == nil {
		h.Set("Content-Length", "0")
		w.WriteHeader(status)
		return
	}
	h.Set("Content-Type", "application/json")
	if s.cfg.OpenSearch {
		h.Set("Content-Type", "application/json; charset=UTF-8")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that went away is its own business
}

// failure is an error of the whole request.
func (s *Server) failure(w http.ResponseWriter, status int, errType, reason string) {
	s.answer(w, status, fail(status, errType, reason))
}

// rest answers all but bulks.
func (s *Server) rest(w http.ResponseWriter, r *http.Request, segments []string) {
	var body any
	raw, _, err := readBody(r, 8<<20)
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &body)
	}
	if err != nil {
		s.complain("%s %s: a body that is not JSON", r.Method, r.URL.Path)
		s.failure(w, http.StatusBadRequest, "parse_exception", "Failed to parse content to map")
		return
	}
	name := ""
	if len(segments) > 1 {
		name = segments[len(segments)-1]
	}
	s.mu.Lock()
	var status int
	var out any
	switch first, method := segments[0], r.Method; {
	case first == "" && (method == http.MethodGet || method == http.MethodHead):
		status, out = http.StatusOK, s.root()
	case first == "_cluster" && name == "health":
		status, out = http.StatusOK, map[string]any{
			"cluster_name": "test", "status": "green", "timed_out": false, "number_of_nodes": 1, "number_of_data_nodes": 1,
			"active_shards": len(s.indices), "unassigned_shards": 0,
		}
	case first == "_component_template":
		status, out = s.stored(method, name, body, s.components, "component_templates", "component_template", s.checkComponent)
	case first == "_index_template" && len(segments) == 3 && (segments[1] == "_simulate_index" || segments[1] == "_simulate"):
		status, out = s.simulate(segments[1], name, body)
	case first == "_index_template":
		status, out = s.stored(method, name, body, s.templates, "index_templates", "index_template", s.checkTemplate)
	case first == "_ingest" && len(segments) > 1 && segments[1] == "pipeline":
		status, out = s.pipeline(method, segments, body)
	case first == "_security" && name == "_has_privileges" && !s.cfg.OpenSearch:
		status, out = s.privileges(body)
	case first == "_data_stream" && name != "":
		status, out = s.stream(method, name)
	case first == "_resolve" && len(segments) == 3 && segments[1] == "index":
		status, out = s.resolve(name)
	case first == "_alias" && name != "":
		status, out = http.StatusNotFound, fail(http.StatusNotFound, "aliases_not_found_exception", "alias ["+name+"] missing")
		if target, ok := s.aliases[name]; ok {
			status, out = http.StatusOK, map[string]any{target: map[string]any{"aliases": map[string]any{name: map[string]any{}}}}
		}
	case first != "" && !strings.HasPrefix(first, "_"):
		status, out = s.index(method, segments, body)
	default:
		status, out = noHandler(r)
	}
	s.mu.Unlock()
	if status < 300 {
		out = filtered(r, out)
	}
	if r.Method == http.MethodHead {
		out = nil
	}
	s.answer(w, status, out)
}

func noHandler(r *http.Request) (int, any) {
	return http.StatusBadRequest, map[string]any{"error": fmt.Sprintf("no handler found for uri [%s] and method [%s]", r.URL.RequestURI(), r.Method)}
}

// fail is the body of such an error.
func fail(status int, errType, reason string) any {
	cause := map[string]any{"type": errType, "reason": reason}
	return map[string]any{"error": map[string]any{"root_cause": []any{cause}, "type": errType, "reason": reason}, "status": status}
}

var done = map[string]any{"acknowledged": true}

func (s *Server) root() any {
	version := map[string]any{
		"number": "8.19.21", "build_flavor": "default", "build_type": "zip", "build_snapshot": false, "lucene_version": "9.12.2",
		"minimum_wire_compatibility_version": "7.17.0", "minimum_index_compatibility_version": "7.0.0",
	}
	tagline := "You Know, for Search"
	if s.cfg.OpenSearch {
		version = map[string]any{
			"distribution": "opensearch", "number": "2.19.6", "build_type": "zip", "build_snapshot": false, "lucene_version": "9.12.3",
			"minimum_wire_compatibility_version": "7.10.0", "minimum_index_compatibility_version": "7.0.0",
		}
		tagline = "The OpenSearch Project: https://opensearch.org/"
	}
	return map[string]any{"name": "n1", "cluster_name": "test", "cluster_uuid": "aaaaaaaaaaaaaaaaaaaaaa", "version": version, "tagline": tagline}
}

// stored puts, gives and deletes one of the named things that are kept as they
// came. With mu.
func (s *Server) stored(method, name string, body any, kept map[string]any, plural, singular string, check func(name string, body any) string) (int, any) {
	switch method {
	case http.MethodPut, http.MethodPost:
		if _, ok := body.(map[string]any); !ok || name == "" {
			return http.StatusBadRequest, fail(http.StatusBadRequest, "parse_exception", "request body is required")
		}
		if reason := check(name, body); reason != "" {
			kind := "illegal_argument_exception"
			switch {
			case strings.Contains(reason, "unknown field"):
				kind = "x_content_parse_exception"
			case strings.Contains(reason, "that do not exist"):
				kind = "invalid_index_template_exception"
			}
			return http.StatusBadRequest, fail(http.StatusBadRequest, kind, reason)
		}
		if t, ok := at(body, "template").(map[string]any); ok && t["settings"] != nil {
			flat := map[string]any{} // all are given back as texts, below "index"
			flatten(flat, "", t["settings"])
			t["settings"] = nested(flat)
		}
		kept[name] = body
		return http.StatusOK, done
	case http.MethodDelete:
		if _, ok := kept[name]; !ok {
			break
		}
		delete(kept, name)
		return http.StatusOK, done
	case http.MethodGet, http.MethodHead:
		found := []any{}
		for _, n := range slices.Sorted(maps.Keys(kept)) {
			if ok, _ := path.Match(name, n); ok || name == "" {
				found = append(found, map[string]any{"name": n, singular: kept[n]})
			}
		}
		if len(found) > 0 || name == "" || strings.Contains(name, "*") {
			return http.StatusOK, map[string]any{plural: found}
		}
	}
	return http.StatusNotFound, fail(http.StatusNotFound, "resource_not_found_exception", strings.ReplaceAll(singular, "_", " ")+" matching ["+name+"] not found")
}

func (s *Server) checkComponent(name string, body any) string {
	for key := range body.(map[string]any) { // stored has looked
		if key != "template" && key != "version" && key != "_meta" && key != "deprecated" {
			return fmt.Sprintf("[component_template] unknown field [%s]", key)
		}
	}
	if !has(body, "template") {
		return "[component_template] required field [template] is missing"
	}
	return unknownTemplate(body)
}

// unknownTemplate says what is wrong within "template".
func unknownTemplate(body any) string {
	t, _ := at(body, "template").(map[string]any)
	for key := range t {
		if key != "settings" && key != "mappings" && key != "aliases" && key != "lifecycle" {
			return fmt.Sprintf("[template] unknown field [%s]", key)
		}
	}
	return ""
}

func (s *Server) checkTemplate(name string, body any) string {
	if len(list(body, "index_patterns")) == 0 {
		return "[index_template] required field [index_patterns] is missing"
	}
	ignored := list(body, "ignore_missing_component_templates")
	for _, c := range list(body, "composed_of") {
		if _, ok := s.components[fmt.Sprint(c)]; !ok && !slices.Contains(ignored, c) {
			return fmt.Sprintf("index_template [%s] invalid, cause [index template [%s] specifies component templates [%s] that do not exist]", name, name, c)
		}
	}
	for other, t := range s.templates {
		if other != name && number(t, "priority") == number(body, "priority") && overlap(list(t, "index_patterns"), list(body, "index_patterns")) {
			return fmt.Sprintf("index template [%s] has index patterns %v matching patterns from existing templates [%s] with patterns (%s => %v) that have the same priority [%v], multiple index templates may not match during index creation, please use a different priority",
				name, list(body, "index_patterns"), other, other, list(t, "index_patterns"), number(body, "priority"))
		}
	}
	return unknownTemplate(body)
}

func number(v any, key string) float64 {
	n, _ := at(v, key).(float64)
	return n
}

// overlap reports whether a name may match a pattern of each: near enough to
// what the real servers compute.
func overlap(a, b []any) bool {
	for _, x := range a {
		for _, y := range b {
			p, q := fmt.Sprint(x), fmt.Sprint(y)
			like := strings.NewReplacer("*", "0")
			one, _ := path.Match(p, like.Replace(q))
			two, _ := path.Match(q, like.Replace(p))
			if one || two {
				return true
			}
		}
	}
	return false
}

// simulate composes what a new index would get. With mu.
func (s *Server) simulate(how, name string, body any) (int, any) {
	templates := maps.Clone(s.templates)
	var winner string
	if _, there := s.streams[name]; there && s.cfg.OpenSearch && how == "_simulate_index" {
		return http.StatusInternalServerError, fail(http.StatusInternalServerError, "illegal_state_exception",
			"index, alias, and data stream names need to be unique, but the following duplicates were found [data stream ["+name+"] conflicts with index]")
	}
	switch {
	case how == "_simulate" && body == nil:
		if _, ok := templates[name]; !ok {
			return http.StatusBadRequest, fail(http.StatusBadRequest, "illegal_argument_exception", "unable to simulate template ["+name+"] that does not exist")
		}
		winner = name
	case how == "_simulate":
		templates[name] = body
		winner = name
	default:
		if body != nil {
			templates["simulate_index_template"] = body
		}
		kept := s.templates
		s.templates = templates
		winner = s.winner(name)
		s.templates = kept
	}
	if winner == "" {
		return http.StatusOK, map[string]any{}
	}
	composed := map[string]any{}
	for _, c := range list(templates[winner], "composed_of") {
		merge(composed, at(s.components[fmt.Sprint(c)], "template"))
	}
	merge(composed, at(templates[winner], "template"))
	for _, part := range []string{"settings", "mappings", "aliases"} {
		if composed[part] == nil {
			composed[part] = map[string]any{}
		}
	}
	overlapping := []any{}
	for _, n := range slices.Sorted(maps.Keys(templates)) {
		same := how == "_simulate_index" && matches(templates[n], name) || how == "_simulate" && overlap(list(templates[n], "index_patterns"), list(templates[winner], "index_patterns"))
		if n != winner && same {
			overlapping = append(overlapping, map[string]any{"name": n, "index_patterns": list(templates[n], "index_patterns")})
		}
	}
	return http.StatusOK, map[string]any{"template": composed, "overlapping": overlapping}
}

// merge puts what is in from over into, object by object; lists of dynamic
// templates are joined.
func merge(into map[string]any, from any) {
	m, _ := from.(map[string]any)
	for key, v := range m {
		old, oldIs := into[key].(map[string]any)
		_, newIs := v.(map[string]any)
		switch {
		case oldIs && newIs:
			merge(old, v)
		case newIs:
			fresh := map[string]any{}
			merge(fresh, v)
			into[key] = fresh
		case key == "dynamic_templates":
			into[key] = slices.Concat(list(into, key), list(m, key))
		default:
			into[key] = v
		}
	}
}

// pipeline puts, gives and deletes ingest pipelines. With mu.
func (s *Server) pipeline(method string, segments []string, body any) (int, any) {
	name := ""
	if len(segments) > 2 {
		name = segments[2]
	}
	switch method {
	case http.MethodPut:
		if body == nil || name == "" {
			return http.StatusBadRequest, fail(http.StatusBadRequest, "parse_exception", "[processors] required property is missing")
		}
		s.pipelines[name] = body
		return http.StatusOK, done
	case http.MethodDelete:
		if _, ok := s.pipelines[name]; ok {
			delete(s.pipelines, name)
			return http.StatusOK, done
		}
		return http.StatusNotFound, fail(http.StatusNotFound, "resource_not_found_exception", "pipeline ["+name+"] is missing")
	}
	found := map[string]any{}
	for n, p := range s.pipelines {
		if ok, _ := path.Match(name, n); ok || name == "" {
			found[n] = p
		}
	}
	if len(found) == 0 && name != "" {
		return http.StatusNotFound, map[string]any{}
	}
	return http.StatusOK, found
}

// privileges answers as for a user who has all but those that SetMissing names.
// With mu.
func (s *Server) privileges(body any) (int, any) {
	all := true
	has := func(asked []any) map[string]any {
		out := map[string]any{}
		for _, p := range asked {
			ok := !slices.Contains(s.missing, fmt.Sprint(p))
			all = all && ok
			out[fmt.Sprint(p)] = ok
		}
		return out
	}
	indices := map[string]any{}
	for _, block := range list(body, "index") {
		for _, name := range list(block, "names") {
			indices[fmt.Sprint(name)] = has(list(block, "privileges"))
		}
	}
	cluster := has(list(body, "cluster"))
	return http.StatusOK, map[string]any{"username": "tester", "has_all_requested": all, "cluster": cluster, "index": indices, "application": map[string]any{}}
}

// SetMissing names the privileges, of the cluster or of any index, that the
// user lacks when asked by _has_privileges.
func (s *Server) SetMissing(privileges ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing = privileges
}

func (s *Server) stream(method, name string) (int, any) {
	backing, ok := s.streams[name]
	switch {
	case method == http.MethodPut && !ok && s.isStream(name):
		s.roll(name)
		return http.StatusOK, done
	case method == http.MethodPut && !ok:
		return http.StatusBadRequest, fail(http.StatusBadRequest, "illegal_argument_exception", "no matching index template found for data stream ["+name+"]")
	case !ok:
		return http.StatusNotFound, fail(http.StatusNotFound, "index_not_found_exception", "no such index ["+name+"]")
	case method == http.MethodDelete:
		for _, b := range backing {
			delete(s.indices, b)
		}
		delete(s.streams, name)
		return http.StatusOK, done
	}
	indices := make([]any, len(backing))
	for i, b := range backing {
		indices[i] = map[string]any{"index_name": b, "index_uuid": "aaaaaaaaaaaaaaaaaaaaaa"}
	}
	return http.StatusOK, map[string]any{"data_streams": []any{map[string]any{
		"name": name, "timestamp_field": map[string]any{"name": "@timestamp"}, "indices": indices, "generation": len(backing), "status": "GREEN", "template": s.winner(name),
	}}}
}

// resolve says what stands behind names and patterns. With mu.
func (s *Server) resolve(target string) (int, any) {
	indices, aliases, streams := []any{}, []any{}, []any{}
	hit := func(name string) bool {
		return slices.ContainsFunc(strings.Split(target, ","), func(p string) bool {
			ok, _ := path.Match(p, name)
			return ok
		})
	}
	for _, n := range slices.Sorted(maps.Keys(s.indices)) {
		if hit(n) {
			state := "open"
			if s.indices[n].closed {
				state = "closed"
			}
			indices = append(indices, map[string]any{"name": n, "attributes": []any{state}})
		}
	}
	for _, n := range slices.Sorted(maps.Keys(s.aliases)) {
		if hit(n) {
			aliases = append(aliases, map[string]any{"name": n, "indices": []any{s.aliases[n]}})
		}
	}
	for _, n := range slices.Sorted(maps.Keys(s.streams)) {
		if hit(n) {
			streams = append(streams, map[string]any{"name": n, "backing_indices": s.streams[n], "timestamp_field": "@timestamp"})
		}
	}
	if len(indices)+len(aliases)+len(streams) == 0 && !s.cfg.OpenSearch && !strings.ContainsAny(target, "*,") {
		return http.StatusNotFound, fail(http.StatusNotFound, "index_not_found_exception", "no such index ["+target+"]")
	}
	return http.StatusOK, map[string]any{"indices": indices, "aliases": aliases, "data_streams": streams}
}

// index answers what begins with the name of an index. With mu.
func (s *Server) index(method string, segments []string, body any) (int, any) {
	name, what, rest := segments[0], "", ""
	if len(segments) > 1 {
		what = segments[1]
	}
	if len(segments) > 2 {
		rest = segments[2]
	}
	if what == "" && method == http.MethodPut {
		if reason := illegalName(name); reason != "" {
			return http.StatusBadRequest, fail(http.StatusBadRequest, "invalid_index_name_exception", "Invalid index name ["+name+"], "+reason)
		}
		if s.indices[name] != nil {
			return http.StatusBadRequest, fail(http.StatusBadRequest, "resource_already_exists_exception", "index ["+name+"] already exists")
		}
		ix := s.create(name)
		flatten(ix.settings, "", at(body, "settings"))
		ix.mappings = at(body, "mappings")
		aliases, _ := at(body, "aliases").(map[string]any)
		for alias := range aliases {
			s.aliases[alias] = name
		}
		return http.StatusOK, map[string]any{"acknowledged": true, "shards_acknowledged": true, "index": name}
	}
	names := s.matching(name)
	if len(names) == 0 && !strings.Contains(name, "*") {
		return http.StatusNotFound, fail(http.StatusNotFound, "index_not_found_exception", "no such index ["+name+"]")
	}
	each := func(key string, f func(n string, ix *index) any) (int, any) {
		out := map[string]any{}
		for _, n := range names {
			out[n] = map[string]any{key: f(n, s.indices[n])}
		}
		return http.StatusOK, out
	}
	switch {
	case what == "" && (method == http.MethodGet || method == http.MethodHead):
		return each("aliases", func(string, *index) any { return map[string]any{} })
	case what == "" && method == http.MethodDelete:
		for _, n := range names {
			delete(s.indices, n)
		}
		return http.StatusOK, done
	case what == "_settings" && method == http.MethodPut:
		for _, n := range names {
			flatten(s.indices[n].settings, "", body)
		}
		return http.StatusOK, done
	case what == "_settings":
		return each("settings", func(_ string, ix *index) any { return nested(ix.settings) })
	case what == "_mapping" && method == http.MethodPut:
		for _, n := range names {
			s.indices[n].mappings = body
		}
		return http.StatusOK, done
	case what == "_mapping":
		return each("mappings", func(_ string, ix *index) any { return ix.mappings })
	case what == "_close" || what == "_open":
		for _, n := range names {
			s.indices[n].closed = what == "_close"
		}
		return http.StatusOK, done
	case what == "_refresh" || what == "_flush":
		return http.StatusOK, map[string]any{"_shards": map[string]any{"total": 1, "successful": 1, "failed": 0}}
	case what == "_rollover":
		s.roll(name)
		return http.StatusOK, map[string]any{"acknowledged": true, "rolled_over": true}
	case what == "_count":
		n := 0
		for _, in := range names {
			n += len(s.indices[in].docs)
		}
		return http.StatusOK, map[string]any{"count": n, "_shards": map[string]any{"total": 1, "successful": 1, "failed": 0}}
	case what == "_doc" && method == http.MethodGet:
		for _, n := range names {
			if d := s.indices[n].docs[rest]; d != nil {
				return http.StatusOK, map[string]any{
					"_index": n, "_id": rest, "_version": d.Version, "_seq_no": d.SeqNo, "_primary_term": 1, "found": true, "_source": json.RawMessage(d.Source),
				}
			}
		}
		return http.StatusNotFound, map[string]any{"_index": name, "_id": rest, "found": false}
	}
	return http.StatusBadRequest, map[string]any{"error": fmt.Sprintf("no handler found for uri [/%s] and method [%s]", strings.Join(segments, "/"), method)}
}

// matching are the concrete indices behind a name, or a pattern of names. With mu.
func (s *Server) matching(name string) []string {
	if first, rest, several := strings.Cut(name, ","); several {
		out := slices.Concat(s.matching(first), s.matching(rest))
		slices.Sort(out)
		return slices.Compact(out)
	}
	if !strings.Contains(name, "*") {
		return s.concrete(name)
	}
	var out []string
	for _, all := range [][]string{slices.Collect(maps.Keys(s.indices)), slices.Collect(maps.Keys(s.streams)), slices.Collect(maps.Keys(s.aliases))} {
		for _, n := range all {
			if ok, _ := path.Match(name, n); ok {
				out = append(out, s.concrete(n)...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// flatten writes settings, however they are nested, under their whole names;
// null takes one away.
func flatten(into map[string]any, prefix string, v any) {
	m, ok := v.(map[string]any)
	if !ok {
		switch {
		case prefix == "":
			return
		case !strings.HasPrefix(prefix, "index."):
			prefix = "index." + prefix
		}
		if v == nil || reflect.ValueOf(v).IsZero() && v != false && v != 0.0 {
			delete(into, prefix)
			return
		}
		if l, ok := v.([]any); ok {
			into[prefix] = l
			return
		}
		into[prefix] = fmt.Sprint(v) // the real servers give all of them as text
		return
	}
	for key, value := range m {
		name := key
		if prefix != "" {
			name = prefix + "." + key
		}
		flatten(into, name, value)
	}
}

// nested is the other way round.
func nested(flat map[string]any) map[string]any {
	out := map[string]any{}
	for name, v := range flat {
		m := out
		parts := strings.Split(name, ".")
		for _, p := range parts[:len(parts)-1] {
			next, ok := m[p].(map[string]any)
			if !ok {
				next = map[string]any{}
				m[p] = next
			}
			m = next
		}
		m[parts[len(parts)-1]] = v
	}
	return out
}

// admin lets scripts drive a stand-in:
//
//	GET  /_standin/stats   Stats
//	POST /_standin/faults  a list of Fault; [] ends them
//	POST /_standin/rules   a list of Rule
//	POST /_standin/limits  Limits
//	POST /_standin/reset   forget the documents and what was seen
func (s *Server) admin(w http.ResponseWriter, r *http.Request, what string) {
	read := func(v any) error {
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
		d.DisallowUnknownFields()
		return d.Decode(v)
	}
	var err error
	switch r.Method + " " + what {
	case "GET stats":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Stats()) // a client that went away is its own business
		return
	case "POST faults":
		var faults []Fault
		if err = read(&faults); err == nil {
			err = s.SetFaults(faults...)
		}
	case "POST rules":
		var rules []Rule
		if err = read(&rules); err == nil {
			s.SetRules(rules...)
		}
	case "POST limits":
		var l Limits
		if err = read(&l); err == nil {
			s.SetLimits(l)
		}
	case "POST reset":
		s.Reset()
	default:
		http.Error(w, "no such thing", http.StatusNotFound)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

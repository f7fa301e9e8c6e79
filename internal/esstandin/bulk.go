package esstandin

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"vtsidecar/internal/standin"
)

// maxID is the bound of a document's identity in bytes.
const maxID = 512

// conflict is the type of the error of a document that is there already.
const conflict = "version_conflict_engine_exception"

// action is one document of a bulk and what should be done with it.
type action struct {
	op, index, id, pipeline string
	requireAlias            bool
	source                  []byte
	fields                  map[string]json.RawMessage // of source, its top level
	duplicate               string                     // a key that source has twice
}

// bulk answers POST /_bulk and POST /INDEX/_bulk.
func (s *Server) bulk(w http.ResponseWriter, r *http.Request, target string) {
	if s.cfg.Discard {
		s.discard(w, r, target)
		return
	}
	fault := s.takeFault()
	s.mu.Lock()
	s.inFlight++
	s.stats.InFlight = max(s.stats.InFlight, s.inFlight)
	limits := s.limits
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inFlight--
		s.mu.Unlock()
	}()

	if !s.faultBeforeBody(r, fault) {
		return
	}
	body, sent, err := readBody(r, limits.MaxContentLength)
	var large *tooLarge
	if errors.As(err, &large) {
		s.answer(w, http.StatusRequestEntityTooLarge, nil)
		return
	}
	if err != nil {
		if r.Context().Err() == nil {
			s.complain("a bulk's body cannot be read: %v", err)
		}
		s.failure(w, http.StatusBadRequest, "parse_exception", "Failed to read the body")
		return
	}
	s.mu.Lock()
	s.stats.Bytes += sent
	s.stats.MaxBulk = max(s.stats.MaxBulk, len(body))
	s.mu.Unlock()
	if limits.IndexingPressure > 0 && int64(len(body)) > limits.IndexingPressure {
		s.failure(w, http.StatusTooManyRequests, "es_rejected_execution_exception", fmt.Sprintf(
			"rejected execution of coordinating operation [coordinating_and_primary_bytes=0, replica_bytes=0, all_bytes=0, coordinating_operation_bytes=%d, max_coordinating_and_primary_bytes=%d]",
			len(body), limits.IndexingPressure))
		return
	}
	s.checkHeaders(r)
	actions, err := s.parse(body, target, r.URL.Query().Get("pipeline"))
	if err != nil {
		s.failure(w, http.StatusBadRequest, "illegal_argument_exception", err.Error())
		return
	}
	if s.cfg.NoExplicitIndex && target == "" {
		s.failure(w, http.StatusBadRequest, "illegal_argument_exception", "explicit index in bulk is not allowed")
		return
	}
	if !standin.Pause(r.Context(), s.done, s.cfg.Delay+s.shards(actions, r.URL.Query().Get("timeout"))) {
		panic(http.ErrAbortHandler)
	}
	var long []string
	for i, a := range actions {
		// The whole request is refused for one of these.
		if len(a.id) > maxID {
			long = append(long, fmt.Sprintf("%d: id [%s] is too long, must be no longer than 512 bytes but was: %d;", i+1, a.id, len(a.id)))
		}
	}
	if long != nil {
		s.failure(w, http.StatusBadRequest, "action_request_validation_exception", "Validation Failed: "+strings.Join(long, ""))
		return
	}
	s.mu.Lock()
	s.stats.Lines += int64(len(actions))
	items := make([]item, len(actions))
	for i, a := range actions {
		if s.settled[a.id] {
			s.stats.Resent++
		}
		if fault.Kind == "" || fault.Stored {
			items[i] = s.apply(a, limits)
		} else {
			items[i] = item{op: a.op, index: a.index, id: a.id, status: http.StatusCreated, version: 1} // a lie
		}
	}
	s.mu.Unlock()
	if fault.Kind != "" {
		s.faultyAnswer(w, r, fault, items)
		return
	}
	s.mu.Lock()
	for i, it := range items {
		s.note(actions[i].id, it)
	}
	s.mu.Unlock()
	if mark := r.Header.Get("X-Opaque-Id"); mark != "" {
		w.Header().Set("X-Opaque-Id", mark)
	}
	s.answerItems(w, r, items)
}

// shards is how long a bulk waits for a shard that no node has.
func (s *Server) shards(actions []action, timeout string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(actions, func(a action) bool { return s.indices[a.index] != nil && s.indices[a.index].settings[NoShard] != nil }) {
		return 0
	}
	if d, err := time.ParseDuration(timeout); err == nil {
		return d
	}
	return time.Minute + time.Millisecond // it begins after the client's own minute
}

// note remembers what an honest answer says of a document that was sent under an
// identity. With mu.
func (s *Server) note(id string, it item) {
	key := fmt.Sprint(it.status)
	if it.errType != "" {
		key += " " + it.errType
	}
	s.stats.Items[key]++
	switch {
	case it.status < 300, it.status == http.StatusConflict && it.op == "create" && it.errType == conflict:
		s.settled[id] = true
	case it.status == http.StatusConflict: // of another kind: it says nothing about the document
	case it.status < 500 && it.status != http.StatusTooManyRequests:
		s.refused[id] = true
	}
}

func (s *Server) answerItems(w http.ResponseWriter, r *http.Request, items []item) {
	rendered := make([]any, len(items))
	failed := false
	for i, it := range items {
		rendered[i] = it.render()
		failed = failed || it.status > 299
	}
	s.answer(w, http.StatusOK, filtered(r, map[string]any{"took": 3, "errors": failed, "items": rendered}))
}

// tooLarge is a body over the server's bound.
type tooLarge struct{}

func (*tooLarge) Error() string { return "too large" }

// readBody reads a body and inflates it; sent is its length on the wire.
func readBody(r *http.Request, limit int64) (body []byte, sent int64, err error) {
	wire := &counted{r: r.Body}
	var from io.Reader = wire
	bounded := func(from io.Reader) ([]byte, error) {
		if limit <= 0 {
			return io.ReadAll(from)
		}
		b, err := io.ReadAll(io.LimitReader(from, limit+1))
		if err == nil && int64(len(b)) > limit {
			// What was not read would make the client wait for the connection.
			_, _ = io.Copy(io.Discard, r.Body)
			return nil, &tooLarge{}
		}
		return b, err
	}
	switch e := r.Header.Get("Content-Encoding"); e {
	case "", "identity":
	case "gzip":
		raw, err := bounded(from)
		if err != nil {
			return nil, wire.n, err
		}
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, wire.n, err
		}
		from = z
	default:
		return nil, wire.n, fmt.Errorf("content encoding %q", e)
	}
	body, err = bounded(from)
	return body, wire.n, err
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// checkHeaders complains about a bulk that is not said to be one.
func (s *Server) checkHeaders(r *http.Request) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || kind != "application/x-ndjson" && kind != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		s.complain("a bulk with the content type %q", r.Header.Get("Content-Type"))
	}
}

// actionKeys are what an action line may say here.
var actionKeys = map[string]bool{"_index": true, "_id": true, "pipeline": true, "require_alias": true, "require_data_stream": true}

// parse reads a body as strictly as nobody else does: the real servers take
// broken action lines, so a mistake in ours would never be seen.
func (s *Server) parse(body []byte, target, pipeline string) ([]action, error) {
	malformed := func(line int, what string) error {
		s.complain("bulk line %d: %s", line, what)
		return fmt.Errorf("malformed action/metadata line [%d], %s", line, what)
	}
	if len(body) == 0 {
		s.complain("a bulk without a line")
		return nil, errors.New("request body is required")
	}
	if body[len(body)-1] != '\n' {
		s.complain("a bulk that does not end with a newline")
		return nil, errors.New("the bulk request must be terminated by a newline [\\n]")
	}
	lines := bytes.Split(body[:len(body)-1], []byte("\n"))
	if len(lines)%2 != 0 {
		return nil, malformed(len(lines), "an action without its document")
	}
	actions := make([]action, 0, len(lines)/2)
	for i := 0; i < len(lines); i += 2 {
		a := action{index: target, pipeline: pipeline}
		outer, again, err := members(lines[i])
		switch {
		case err != nil:
			return nil, malformed(i+1, "an action that is not one JSON object")
		case len(outer) != 1:
			return nil, malformed(i+1, "an action with more or less than one operation")
		case bytes.IndexByte(lines[i], '\r') >= 0 || again != "":
			return nil, malformed(i+1, "an action with a carriage return or a key that comes twice")
		}
		for a.op = range outer {
		}
		if a.op != "create" && a.op != "index" {
			return nil, malformed(i+1, fmt.Sprintf("the operation %q", a.op))
		}
		inner, again, err := members(outer[a.op])
		if err != nil || again != "" {
			return nil, malformed(i+1, "an operation that is not an object, or has a key twice")
		}
		for key, raw := range inner {
			if !actionKeys[key] {
				return nil, malformed(i+1, fmt.Sprintf("the key %q", key))
			}
			if strings.HasPrefix(key, "require_") {
				if json.Unmarshal(raw, new(bool)) != nil {
					return nil, malformed(i+1, key+" is no boolean")
				}
				a.requireAlias = a.requireAlias || key == "require_alias" && string(raw) == "true"
				continue
			}
			var text *string
			if json.Unmarshal(raw, &text) != nil || text == nil || !utf8.Valid(raw) {
				return nil, malformed(i+1, key+" is no string")
			}
			switch key {
			case "_index":
				a.index = *text
			case "_id":
				a.id = *text
			case "pipeline":
				a.pipeline = *text
			}
		}
		if a.id == "" {
			return nil, malformed(i+1, "no _id")
		}
		if a.index == "" {
			return nil, malformed(i+1, "no _index")
		}
		a.source = lines[i+1]
		a.fields, a.duplicate, err = members(a.source)
		switch {
		case err != nil || !utf8.Valid(a.source):
			return nil, malformed(i+2, "a document that is not one JSON object")
		case bytes.IndexByte(a.source, '\r') >= 0:
			return nil, malformed(i+2, "a document with a carriage return")
		case a.fields["@metadata"] != nil:
			s.complain("bulk line %d: a document with @metadata", i+2)
		}
		actions = append(actions, a)
	}
	return actions, nil
}

// members are the keys of one JSON object that is all there is in b; again is
// one that comes twice.
func members(b []byte) (out map[string]json.RawMessage, again string, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	open, err := d.Token()
	if err != nil {
		return nil, "", err
	}
	if open != json.Delim('{') {
		return nil, "", errors.New("no object")
	}
	out = map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, "", err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, "", err
		}
		name := key.(string) // the grammar allows no other
		if _, dup := out[name]; dup {
			again = name
		}
		out[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, "", err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, "", errors.New("something behind the object")
	}
	return out, again, nil
}

// item is what is answered about one action.
type item struct {
	op, index, id   string
	status          int
	version, seq    int64
	result          string
	errType, reason string
	failed          bool // it is in a failure store
}

func (it item) render() map[string]any {
	in := map[string]any{"_index": it.index, "_id": it.id, "status": it.status}
	if it.failed {
		in["failure_store"] = "used"
	}
	if it.errType != "" {
		e := map[string]any{"type": it.errType, "reason": it.reason}
		if it.status == http.StatusConflict {
			e["index"], e["shard"], e["index_uuid"] = it.index, "0", "aaaaaaaaaaaaaaaaaaaaaa"
		}
		in["error"] = e
	} else {
		result := it.result
		if result == "" {
			result = "created"
		}
		in["result"], in["_version"], in["_seq_no"], in["_primary_term"] = result, it.version, it.seq, 1
		in["_shards"] = map[string]any{"total": 2, "successful": 1, "failed": 0}
	}
	return map[string]any{it.op: in}
}

func (it item) fail(status int, errType, reason string, a ...any) item {
	it.status, it.errType, it.reason = status, errType, fmt.Sprintf(reason, a...)
	return it
}

// apply does what an action says. With mu.
func (s *Server) apply(a action, limits Limits) item {
	it := item{op: a.op, index: a.index, id: a.id}
	r := s.rule(a)
	if r != nil && r.FailureStore {
		s.stats.FailureStore++
		it.index, it.id, it.failed = ".fs-"+a.index+"-000001", fmt.Sprintf("failure-%d", s.stats.FailureStore), true
		it.status, it.version = http.StatusCreated, 1
		return it
	}
	if r != nil {
		if r.Stored {
			_ = s.write(a, it, limits) // it is there, whatever the answer says
		}
		return it.fail(r.Status, r.errType(s.cfg.OpenSearch), "%s", r.reason(a))
	}
	return s.write(a, it, limits)
}

// write stores a document. With mu.
func (s *Server) write(a action, it item, limits Limits) item {
	if reason := illegalName(a.index); reason != "" {
		return it.fail(http.StatusBadRequest, "invalid_index_name_exception", "Invalid index name [%s], %s", a.index, reason)
	}
	name := a.index
	if target, ok := s.aliases[name]; ok {
		name = target
	} else if a.requireAlias {
		return it.fail(http.StatusNotFound, "index_not_found_exception", "no such index [%s] and [require_alias] request flag is [true] and [%s] is not an alias", name, name)
	}
	backing, stream := s.streams[name]
	if !stream && s.indices[name] == nil {
		if s.cfg.NoAutoCreate {
			return it.fail(http.StatusNotFound, "index_not_found_exception", "no such index [%s] and [action.auto_create_index] is [false]", name)
		}
		if s.isStream(name) {
			stream = true
			s.roll(name)
			backing = s.streams[name]
		} else {
			s.create(name)
		}
	}
	if stream && a.op != "create" {
		return it.fail(http.StatusBadRequest, "illegal_argument_exception", "only write ops with an op_type of create are allowed in data streams")
	}
	concrete := name
	if stream {
		concrete = backing[len(backing)-1]
	}
	ix := s.indices[concrete]
	pipeline := a.pipeline
	if pipeline == "" {
		pipeline, _ = ix.settings["index.default_pipeline"].(string)
	}
	if pipeline != "" && pipeline != "_none" {
		p, ok := s.pipelines[pipeline]
		if !ok {
			return it.fail(http.StatusBadRequest, "illegal_argument_exception", "pipeline with id [%s] does not exist", pipeline)
		}
		for _, processor := range list(p, "processors") {
			switch {
			case has(processor, "fail"):
				message, _ := at(processor, "fail", "message").(string)
				return it.fail(http.StatusInternalServerError, "fail_processor_exception", "%s", message)
			case has(processor, "drop"):
				it.status, it.result, it.version = http.StatusOK, "noop", -3
				return it
			case has(processor, "set"):
				field, _ := at(processor, "set", "field").(string)
				if field == "_id" {
					a.id, _ = at(processor, "set", "value").(string)
					it.id = a.id
					continue
				}
				value, _ := json.Marshal(at(processor, "set", "value")) // it came as JSON
				a.source = slices.Concat(bytes.TrimRight(a.source, " }"), fmt.Appendf(nil, ",%q:%s}", field, value))
			}
		}
	}
	it.index = concrete
	switch {
	case ix.settings[NoShard] != nil:
		return it.fail(http.StatusServiceUnavailable, "unavailable_shards_exception", "[%s][0] primary shard is not active", concrete)
	case ix.closed:
		return it.fail(http.StatusBadRequest, "index_closed_exception", "closed")
	case ix.settings[BlockReadOnlyAllowDelete] == "true":
		return it.fail(http.StatusTooManyRequests, "cluster_block_exception",
			"index [%s] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];", concrete)
	case ix.settings[BlockWrite] == "true":
		return it.fail(http.StatusForbidden, "cluster_block_exception", "index [%s] blocked by: [FORBIDDEN/8/index write (api)];", concrete)
	}
	parsing := "document_parsing_exception"
	if s.cfg.OpenSearch {
		parsing = "mapper_parsing_exception"
	}
	if a.duplicate != "" {
		return it.fail(http.StatusBadRequest, parsing, "failed to parse: Duplicate field '%s'", a.duplicate)
	}
	if stream && a.fields["@timestamp"] == nil {
		return it.fail(http.StatusBadRequest, parsing, "[1:1] data stream timestamp field [@timestamp] is missing")
	}
	var message string
	if limits.MaxMessage > 0 && json.Unmarshal(a.fields["message"], &message) == nil && len(message) > limits.MaxMessage {
		return it.fail(http.StatusBadRequest, "illegal_argument_exception",
			"Document contains at least one immense term in field=\"message\" (whose UTF8 encoding is longer than the max length %d), all of which were skipped. "+
				"Please correct the analyzer to not produce such terms. The prefix of the first immense term is: '%v...'", limits.MaxMessage, []byte(message[:30]))
	}
	doc := ix.docs[a.id]
	switch {
	case doc == nil:
		doc = &Doc{Index: concrete, ID: a.id}
		ix.docs[a.id] = doc
		ix.order = append(ix.order, a.id)
		it.status, it.result = http.StatusCreated, "created"
	case a.op == "create":
		return it.fail(http.StatusConflict, conflict, "[%s]: version conflict, document already exists (current version [%d])", a.id, doc.Version)
	default:
		s.stats.Overwrites++
		it.status, it.result = http.StatusOK, "updated"
	}
	doc.Version++
	doc.SeqNo = ix.seq
	ix.seq++
	doc.Pipeline = a.pipeline
	doc.Source = slices.Clone(a.source) // the body is one allocation for all
	it.version, it.seq = doc.Version, doc.SeqNo
	return it
}

// illegalName says what a server has against the name of an index.
func illegalName(name string) string {
	switch {
	case name == "." || name == "..":
		return "must not be '.' or '..'"
	case strings.ContainsAny(name, `\/*?"<>| ,`):
		return `must not contain the following characters ['\','/','*','?','"','<','>','|',' ',',']`
	case strings.ContainsAny(name, "#"):
		return "must not contain '#'"
	case strings.ContainsAny(name, ":"):
		return "must not contain ':'"
	case strings.HasPrefix(name, "_"), strings.HasPrefix(name, "-"), strings.HasPrefix(name, "+"):
		return "must not start with '_', '-', or '+'"
	case len(name) > 255:
		return fmt.Sprintf("index name is too long, (%d > 255)", len(name))
	case name != strings.ToLower(name):
		return "must be lowercase"
	}
	return ""
}

// isStream reports whether the template that a new index of this name would
// get makes it a data stream. With mu.
func (s *Server) isStream(name string) bool {
	t := s.winner(name)
	return t != "" && has(s.templates[t], "data_stream")
}

// winner is the name of the index template that an index would get. With mu.
func (s *Server) winner(name string) string {
	best, priority := "", -1.0
	for _, n := range slices.Sorted(maps.Keys(s.templates)) {
		if p, _ := at(s.templates[n], "priority").(float64); matches(s.templates[n], name) && p > priority {
			best, priority = n, p
		}
	}
	return best
}

// matches reports whether one of a template's patterns matches a name.
func matches(template any, name string) bool {
	return slices.ContainsFunc(list(template, "index_patterns"), func(p any) bool {
		pattern, _ := p.(string)
		ok, _ := path.Match(pattern, name) // a broken pattern matches nothing
		return ok
	})
}

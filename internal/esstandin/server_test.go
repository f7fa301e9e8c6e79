package esstandin

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller asks a stand-in over a network.
type caller struct {
	t   *testing.T
	s   *Server
	url string
	hc  *http.Client
}

func start(t *testing.T, cfg Config) *caller {
	s := New(cfg)
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.Close()
	})
	return &caller{t: t, s: s, url: h.URL, hc: h.Client()}
}

func (c *caller) do(method, path, body string, header ...string) (*http.Response, string, error) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	require.NoError(c.t, err)
	req.Header.Set("Content-Type", "application/x-ndjson")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// ask is do where an answer must come.
func (c *caller) ask(method, path, body string, header ...string) (int, map[string]any) {
	c.t.Helper()
	resp, b, err := c.do(method, path, body, header...)
	require.NoError(c.t, err)
	var v map[string]any
	if b != "" {
		require.NoError(c.t, json.Unmarshal([]byte(b), &v), b)
	}
	return resp.StatusCode, v
}

// bulk sends documents and returns each one's status and error type.
func (c *caller) bulk(body string) []string {
	c.t.Helper()
	code, v := c.ask("POST", "/_bulk", body)
	require.Equal(c.t, 200, code, "%v", v)
	var out []string
	for _, it := range v["items"].([]any) {
		for _, in := range it.(map[string]any) {
			word := fmt.Sprint(at(in, "status"))
			if e, ok := at(in, "error", "type").(string); ok {
				word += " " + e
			}
			out = append(out, word)
		}
	}
	return out
}

func line(op, index, id, doc string) string {
	return fmt.Sprintf(`{%q:{"_index":%q,"_id":%q}}`, op, index, id) + "\n" + doc + "\n"
}

func create(index, id string) string {
	return line("create", index, id, fmt.Sprintf(`{"@timestamp":"2026-01-02T03:04:05Z","message":%q}`, id))
}

func TestDocumentsAreKept(t *testing.T) {
	c := start(t, Config{})
	assert.Equal(t, []string{"201", "201", "409 version_conflict_engine_exception"}, c.bulk(create("a", "1")+create("a", "2")+create("a", "1")))
	assert.Equal(t, []string{"200", "201"}, c.bulk(line("index", "a", "1", `{"new":true}`)+create("b", "1")))
	docs := c.s.Docs("a")
	require.Len(t, docs, 2)
	assert.Equal(t, Doc{Index: "a", ID: "1", Version: 2, SeqNo: 2, Source: []byte(`{"new":true}`)}, docs[0])
	assert.Len(t, c.s.Find("1"), 2)
	assert.Len(t, c.s.Docs(""), 3)
	assert.True(t, c.s.Settled("1"))
	assert.False(t, c.s.Settled("3"))
	st := c.s.Stats()
	assert.Equal(t, 1, st.Overwrites)
	assert.Equal(t, 2, st.Resent, "1 came twice more after its answer; the second of one bulk came before it")
	assert.EqualValues(t, 5, st.Lines)
	assert.Empty(t, st.Complaints)

	code, v := c.ask("GET", "/a/_doc/1", "")
	assert.Equal(t, 200, code)
	assert.Equal(t, map[string]any{"new": true}, v["_source"])
	_, v = c.ask("GET", "/a,b/_count", "")
	assert.EqualValues(t, 3, v["count"])
	_, v = c.ask("GET", "/a/_count", "")
	assert.EqualValues(t, 2, v["count"])
	c.s.Reset()
	assert.Empty(t, c.s.Docs(""))
}

func TestDataStreams(t *testing.T) {
	c := start(t, Config{})
	c.s.PutTemplate("winlogbeat", "winlogbeat-*", 150, true)
	got := c.bulk(create("winlogbeat-8", "1") + line("index", "winlogbeat-8", "2", `{"@timestamp":1}`) + line("create", "winlogbeat-8", "3", `{}`) + create("logs-a-b", "4"))
	assert.Equal(t, []string{"201", "400 illegal_argument_exception", "400 document_parsing_exception", "201"}, got)
	assert.Regexp(t, `^\.ds-winlogbeat-8-\d{4}\.\d\d\.\d\d-000001$`, c.s.Docs("winlogbeat-8")[0].Index)
	c.s.Rollover("winlogbeat-8")
	assert.Equal(t, []string{"201"}, c.bulk(create("winlogbeat-8", "1")), "a rollover forgets identities")
	assert.Len(t, c.s.Find("1"), 2)
	_, v := c.ask("GET", "/_data_stream/winlogbeat-8", "")
	assert.EqualValues(t, 2, list(v, "data_streams")[0].(map[string]any)["generation"])
	code, _ := c.ask("DELETE", "/_data_stream/winlogbeat-8", "")
	assert.Equal(t, 200, code)
	assert.Empty(t, c.s.Docs("winlogbeat-8"))
}

// What items are answered besides 201, in both flavours.
func TestItems(t *testing.T) {
	for _, openSearch := range []bool{false, true} {
		parsing := map[bool]string{false: "document_parsing_exception", true: "mapper_parsing_exception"}[openSearch]
		for _, tt := range []struct {
			name, body, want string
			before           func(*Server)
		}{
			{"block by a full disk", create("a", "1"), "429 cluster_block_exception", func(s *Server) { s.SetBlock("a", BlockReadOnlyAllowDelete, true) }},
			{"block", create("a", "1"), "403 cluster_block_exception", func(s *Server) { s.SetBlock("a", BlockWrite, true) }},
			{"block lifted", create("a", "1"), "201", func(s *Server) { s.SetBlock("a", BlockWrite, true); s.SetBlock("a", BlockWrite, false) }},
			{"closed", create("a", "1"), "400 index_closed_exception", func(s *Server) { s.CreateIndex("a"); s.SetClosed("a", true) }},
			{"no pipeline", `{"create":{"_index":"a","_id":"1","pipeline":"p"}}` + "\n{}\n", "400 illegal_argument_exception", nil},
			{"pipeline", `{"create":{"_index":"a","_id":"1","pipeline":"p"}}` + "\n{}\n", "201", func(s *Server) { s.PutPipeline("p") }},
			{"pipeline drops", `{"create":{"_index":"a","_id":"1","pipeline":"p"}}` + "\n{}\n", "200", func(s *Server) { s.PutPipeline("p", map[string]any{"drop": map[string]any{}}) }},
			{"pipeline fails", `{"create":{"_index":"a","_id":"1","pipeline":"p"}}` + "\n{}\n", "500 fail_processor_exception", func(s *Server) { s.PutPipeline("p", map[string]any{"fail": map[string]any{"message": "m"}}) }},
			{"two equal keys", line("create", "a", "1", `{"x":1,"x":2}`), "400 " + parsing, nil},
			{"long message", line("create", "a", "1", `{"message":"`+strings.Repeat("x", 101)+`"}`), "400 illegal_argument_exception", func(s *Server) { s.SetLimits(Limits{MaxMessage: 100}) }},
			{"upper case", create("A", "1"), "400 invalid_index_name_exception", nil},
			{"path", create("../x", "1"), "400 invalid_index_name_exception", nil},
			{"256 bytes", create(strings.Repeat("a", 256), "1"), "400 invalid_index_name_exception", nil},
			{"255 bytes", create(strings.Repeat("a", 255), "1"), "201", nil},
			{"rule", create("a", "1"), "400 " + parsing, func(s *Server) { s.SetRules(Rule{Status: 400}) }},
			{"rule for another", create("a", "1"), "201", func(s *Server) { s.SetRules(Rule{Match: `"2"`, Status: 400}) }},
			{"security", create("a", "1"), "403 security_exception", func(s *Server) { s.SetRules(Rule{Status: 403}) }},
			{"alias", create("al", "1"), "201", func(s *Server) { s.CreateIndex("a"); s.SetAlias("al", "a") }},
			{"no alias", `{"create":{"_index":"a","_id":"1","require_alias":true}}` + "\n{}\n", "404 index_not_found_exception", nil},
		} {
			t.Run(fmt.Sprint(tt.name, openSearch), func(t *testing.T) {
				c := start(t, Config{OpenSearch: openSearch})
				if tt.before != nil {
					tt.before(c.s)
				}
				assert.Equal(t, []string{tt.want}, c.bulk(tt.body))
				stored := tt.want == "201"
				assert.Equal(t, stored, len(c.s.Find("1")) == 1)
				assert.Equal(t, strings.HasPrefix(tt.want, "2"), c.s.Settled("1"))
				assert.Equal(t, strings.HasPrefix(tt.want, "40"), c.s.Refused("1"))
				assert.Empty(t, c.s.Complaints())
			})
		}
	}
}

func TestRulesCountTriesOfEachDocument(t *testing.T) {
	c := start(t, Config{})
	c.s.SetRules(Rule{Match: "x", Status: 429, Times: 2}, Rule{Match: "x", Status: 503, Times: 1, Stored: true})
	doc := func(id string) string { return line("create", "a", id, `{"m":"x"}`) }
	assert.Equal(t, []string{"429 es_rejected_execution_exception"}, c.bulk(doc("1")))
	assert.Equal(t, []string{"429 es_rejected_execution_exception", "429 es_rejected_execution_exception"}, c.bulk(doc("1")+doc("2")))
	assert.Empty(t, c.s.Find("1"))
	assert.Equal(t, []string{"503 unavailable_shards_exception"}, c.bulk(doc("1")))
	assert.Len(t, c.s.Find("1"), 1, "stored anyway")
	assert.Equal(t, []string{"409 version_conflict_engine_exception", "429 es_rejected_execution_exception"}, c.bulk(doc("1")+doc("2")))
}

func TestRequestLimits(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write([]byte(line("create", "a", "1", `{"m":"`+strings.Repeat("x", 3000)+`"}`)))
	require.NoError(t, err)
	require.NoError(t, z.Close())

	c := start(t, Config{})
	c.s.SetLimits(Limits{MaxContentLength: 2048})
	for _, header := range [][]string{nil, {"Content-Encoding", "gzip"}} {
		body := strings.Repeat(create("a", "1"), 40)
		if header != nil {
			body = zipped.String()
		}
		resp, text, err := c.do("POST", "/_bulk", body, header...)
		require.NoError(t, err)
		assert.Equal(t, 413, resp.StatusCode)
		assert.Empty(t, text)
		assert.Empty(t, resp.Header.Get("X-Elastic-Product"))
	}
	c.s.SetLimits(Limits{IndexingPressure: 10})
	code, v := c.ask("POST", "/_bulk", create("a", "1"))
	assert.Equal(t, 429, code)
	assert.Equal(t, "es_rejected_execution_exception", at(v, "error", "type"))
	c.s.SetLimits(Limits{})
	code, v = c.ask("POST", "/_bulk", create("a", "1")+create("a", strings.Repeat("i", 513)))
	assert.Equal(t, 400, code)
	assert.Equal(t, "action_request_validation_exception", at(v, "error", "type"), "one document refuses its neighbours")
	assert.Empty(t, c.s.Docs(""))
	code, _ = c.ask("POST", "/_bulk", zipped.String(), "Content-Encoding", "gzip")
	assert.Equal(t, 200, code)
	assert.Empty(t, c.s.Complaints())
}

func TestComplaints(t *testing.T) {
	for _, tt := range []struct{ name, body string }{
		{"no newline at the end", `{"create":{"_index":"a","_id":"1"}}` + "\n{}"},
		{"nothing", ""},
		{"action that the real servers take", `{"create":{"_index":"a","_id":"1"}` + "\n{}\n"},
		{"action is no object", "[]\n{}\n"},
		{"two operations", `{"create":{"_index":"a","_id":"1"},"index":{}}` + "\n{}\n"},
		{"delete", `{"delete":{"_index":"a","_id":"1"}}` + "\n{}\n"},
		{"type", `{"create":{"_index":"a","_id":"1","_type":"_doc"}}` + "\n{}\n"},
		{"key twice", `{"create":{"_index":"a","_id":"1","_id":"2"}}` + "\n{}\n"},
		{"identity is a number", `{"create":{"_index":"a","_id":1}}` + "\n{}\n"},
		{"no identity", `{"create":{"_index":"a"}}` + "\n{}\n"},
		{"no index", `{"create":{"_id":"1"}}` + "\n{}\n"},
		{"something behind the action", `{"create":{"_index":"a","_id":"1"}} x` + "\n{}\n"},
		{"no document", `{"create":{"_index":"a","_id":"1"}}` + "\n"},
		{"empty line", `{"create":{"_index":"a","_id":"1"}}` + "\n\n"},
		{"newline in a document", `{"create":{"_index":"a","_id":"1"}}` + "\n{\n}\n"},
		{"carriage return", `{"create":{"_index":"a","_id":"1"}}` + "\n{\r}\n"},
		{"two documents", `{"create":{"_index":"a","_id":"1"}}` + "\n{}{}\n"},
		{"no object", `{"create":{"_index":"a","_id":"1"}}` + "\n[]\n"},
		{"not UTF-8", `{"create":{"_index":"a","_id":"1"}}` + "\n{\"a\":\"\xff\"}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t, Config{})
			code, _ := c.ask("POST", "/_bulk", tt.body)
			assert.Equal(t, 400, code)
			assert.Len(t, c.s.Complaints(), 1)
			assert.Empty(t, c.s.Docs(""))
		})
	}
	t.Run("metadata", func(t *testing.T) {
		c := start(t, Config{})
		c.bulk(line("create", "a", "1", `{"@metadata":{}}`))
		assert.Len(t, c.s.Complaints(), 1)
	})
	t.Run("content type", func(t *testing.T) {
		c := start(t, Config{})
		for _, kind := range []string{"text/plain", "", "application/json; charset=latin1"} {
			_, _ = c.ask("POST", "/_bulk", create("a", kind+"x"), "Content-Type", kind)
		}
		assert.Len(t, c.s.Complaints(), 3)
		_, _ = c.ask("POST", "/_bulk", create("a", "y"), "Content-Type", "application/json; charset=UTF-8")
		assert.Len(t, c.s.Complaints(), 3)
	})
	t.Run("not gzip", func(t *testing.T) {
		c := start(t, Config{})
		code, _ := c.ask("POST", "/_bulk", create("a", "1"), "Content-Encoding", "gzip")
		assert.Equal(t, 400, code)
		assert.Len(t, c.s.Complaints(), 1)
	})
	t.Run("credentials", func(t *testing.T) {
		c := start(t, Config{NoCredentials: true})
		_, _ = c.ask("GET", "/", "", "Authorization", "Basic x")
		assert.Len(t, c.s.Complaints(), 1)
	})
}

// Every fault, with the documents stored and not: what the client sees, what is
// kept, and that no disturbed answer counts as one that settles.
func TestFaults(t *testing.T) {
	for kind := range faultKinds {
		for _, stored := range []bool{false, true} {
			if kind == "" || kind == "huge" && stored {
				continue
			}
			t.Run(fmt.Sprint(kind, stored), func(t *testing.T) {
				c := start(t, Config{})
				c.hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				c.hc.Transport.(*http.Transport).DisableCompression = true
				require.NoError(t, c.s.SetFaults(Fault{Kind: kind, Status: 503, Stored: stored, Times: 1}))
				if kind == "hang" || kind == "blackhole" {
					time.AfterFunc(10*time.Millisecond, c.s.Close)
				}
				resp, text, err := c.do("POST", "/_bulk", create("a", "1")+create("a", "2"))
				switch kind {
				case "refused", "reset", "eof", "hang", "blackhole", "truncate":
					require.Error(t, err)
				default:
					require.NoError(t, err)
				}
				switch kind {
				case "status", "status_html":
					assert.Equal(t, 503, resp.StatusCode)
				case "redirect":
					assert.Equal(t, 307, resp.StatusCode)
					assert.Contains(t, resp.Header.Get("Location"), "http://localhost:")
				case "few", "many", "order", "wrong_id", "wrong_op", "no_status":
					assert.Equal(t, 200, resp.StatusCode)
					assert.True(t, json.Valid([]byte(text)))
				case "html", "truncate_json", "empty":
					assert.Equal(t, 200, resp.StatusCode)
					assert.False(t, json.Valid([]byte(text)))
				}
				want := 0
				if stored {
					want = 2
				}
				assert.Len(t, c.s.Docs("a"), want)
				assert.False(t, c.s.Settled("1"))
				assert.Empty(t, c.s.Complaints())
				again := "201"
				if stored {
					again = "409 version_conflict_engine_exception"
				}
				assert.Equal(t, []string{again}, c.bulk(create("a", "1")), "once only")
				assert.True(t, c.s.Settled("1"))
				assert.Zero(t, c.s.Stats().Resent)
			})
		}
	}
	require.Error(t, New(Config{}).SetFaults(Fault{Kind: "rain"}))
}

func TestRedirectIsNotFollowed(t *testing.T) {
	c := start(t, Config{})
	require.NoError(t, c.s.SetFaults(Fault{Kind: "redirect", Times: 2}))
	for range 2 {
		_, _ = c.ask("POST", "/_bulk", create("a", "1"))
	}
	assert.Equal(t, []string{"a redirect was followed", "a redirect was followed"}, c.s.Complaints())
}

// Without a network the same comes out.
func TestRoundTrip(t *testing.T) {
	s := New(Config{})
	defer s.Close()
	hc := &http.Client{Transport: s}
	post := func() (string, error) {
		resp, err := hc.Post("http://es/_bulk", "application/x-ndjson", strings.NewReader(create("a", "1")))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	for _, tt := range []struct{ kind, want string }{
		{"refused", "connection refused"}, {"eof", "EOF"}, {"truncate", "unexpected EOF"},
	} {
		require.NoError(t, s.SetFaults(Fault{Kind: tt.kind, Times: 1}))
		_, err := post()
		require.ErrorContains(t, err, tt.want)
	}
	b, err := post()
	require.NoError(t, err)
	assert.Contains(t, b, `"status":201`)
}

func TestTemplates(t *testing.T) {
	for _, openSearch := range []bool{false, true} {
		c := start(t, Config{OpenSearch: openSearch})
		code, _ := c.ask("GET", "/_component_template/c", "")
		assert.Equal(t, 404, code)
		template := `{"index_patterns":["x-*"],"priority":7,"composed_of":["c"],"template":{"mappings":{"properties":{"b":{"type":"long"}}}}}`
		code, v := c.ask("PUT", "/_index_template/t", template)
		assert.Equal(t, 400, code)
		assert.Contains(t, at(v, "error", "reason"), "specifies component templates [c] that do not exist")
		code, _ = c.ask("PUT", "/_component_template/c", `{"template":{"settings":{"number_of_shards":1},"mappings":{"properties":{"a":{"type":"ip"},"b":{"type":"keyword"}}}},"version":1}`)
		assert.Equal(t, 200, code)
		code, _ = c.ask("PUT", "/_index_template/t", template)
		assert.Equal(t, 200, code)
		code, v = c.ask("GET", "/_component_template/c", "")
		assert.Equal(t, 200, code)
		assert.EqualValues(t, 1, at(list(v, "component_templates")[0], "component_template", "version"))
		assert.Equal(t, "1", at(list(v, "component_templates")[0], "component_template", "template", "settings", "index", "number_of_shards"))
		code, _ = c.ask("PUT", "/_index_template/same", `{"index_patterns":["x-a*"],"priority":7}`)
		assert.Equal(t, 400, code)
		code, _ = c.ask("PUT", "/_index_template/over", `{"index_patterns":["x-a*"],"priority":9,"template":{"mappings":{"properties":{"a":{"type":"text"}}}}}`)
		assert.Equal(t, 200, code)
		_, v = c.ask("POST", "/_index_template/_simulate_index/x-b", "")
		assert.Equal(t, map[string]any{"a": map[string]any{"type": "ip"}, "b": map[string]any{"type": "long"}}, at(v, "template", "mappings", "properties"))
		assert.Empty(t, list(v, "overlapping"))
		_, v = c.ask("POST", "/_index_template/_simulate_index/x-a", "")
		assert.Equal(t, "text", at(v, "template", "mappings", "properties", "a", "type"))
		assert.Len(t, list(v, "overlapping"), 1)
		_, v = c.ask("POST", "/_index_template/_simulate/t", "")
		assert.Equal(t, "long", at(v, "template", "mappings", "properties", "b", "type"))
		code, _ = c.ask("DELETE", "/_index_template/t", "")
		assert.Equal(t, 200, code)
		assert.Empty(t, c.s.Complaints())
	}
}

func TestTheRest(t *testing.T) {
	c := start(t, Config{Authorization: "Basic right"})
	right := []string{"Authorization", "Basic right"}
	resp, _, err := c.do("GET", "/", "")
	require.NoError(t, err)
	assert.Equal(t, 401, resp.StatusCode)
	assert.Empty(t, resp.Header.Get("X-Elastic-Product"))
	resp, body, err := c.do("GET", "/", "", right...)
	require.NoError(t, err)
	assert.Equal(t, "Elasticsearch", resp.Header.Get("X-Elastic-Product"))
	assert.Contains(t, body, "You Know, for Search")
	get := func(want int, method, path, body string) map[string]any {
		t.Helper()
		code, v := c.ask(method, path, body, right...)
		assert.Equal(t, want, code, "%s %s: %v", method, path, v)
		return v
	}
	assert.Equal(t, "green", get(200, "GET", "/_cluster/health", "")["status"])
	get(404, "GET", "/_ingest/pipeline/p", "")
	get(200, "PUT", "/_ingest/pipeline/p", `{"processors":[]}`)
	assert.Contains(t, get(200, "GET", "/_ingest/pipeline/p", ""), "p")
	get(200, "PUT", "/ix", `{"settings":{"index":{"blocks":{"write":true}}}}`)
	get(400, "PUT", "/ix", "")
	assert.Equal(t, "true", at(get(200, "GET", "/ix/_settings", ""), "ix", "settings", "index", "blocks", "write"))
	get(200, "PUT", "/ix/_settings", `{"index.blocks.write":null}`)
	assert.Nil(t, at(get(200, "GET", "/i*/_settings", ""), "ix", "settings", "index"))
	get(404, "GET", "/none/_settings", "")
	c.s.SetMissing("create_doc")
	v := get(200, "POST", "/_security/user/_has_privileges", `{"cluster":["monitor"],"index":[{"names":["a"],"privileges":["create_doc","auto_configure"]}]}`)
	assert.Equal(t, false, v["has_all_requested"])
	assert.Equal(t, map[string]any{"create_doc": false, "auto_configure": true}, at(v, "index", "a"))
	get(400, "GET", "/_ilm/policy", "")
	assert.Equal(t, map[string]any{"tagline": "You Know, for Search"}, get(200, "GET", "/?filter_path=tagline", ""))

	o := start(t, Config{OpenSearch: true})
	resp, body, err = o.do("GET", "/", "")
	require.NoError(t, err)
	assert.Empty(t, resp.Header.Get("X-Elastic-Product"))
	assert.Contains(t, body, "opensearch")
	code, _ := o.ask("POST", "/_security/user/_has_privileges", "{}")
	assert.Equal(t, 400, code)
}

func TestFilterPath(t *testing.T) {
	c := start(t, Config{})
	c.s.SetRules(Rule{Match: `"2"`, Status: 400})
	_, v := c.ask("POST", "/_bulk?filter_path=errors,items.*.error.type,items.*.status", create("a", "1")+create("a", "2"))
	assert.Equal(t, map[string]any{"errors": true, "items": []any{
		map[string]any{"create": map[string]any{"status": 201.0}},
		map[string]any{"create": map[string]any{"status": 400.0, "error": map[string]any{"type": "document_parsing_exception"}}},
	}}, v)
	_, v = c.ask("POST", "/_bulk?filter_path=items.*.error", create("a", "3"))
	assert.Empty(t, v)
}

func TestDiscard(t *testing.T) {
	c := start(t, Config{Discard: true})
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	body := create(`a\"b`, "1") + line("index", "b", "2", `{"_id":"x"}`)
	_, err := z.Write([]byte(body))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	for _, header := range [][]string{nil, {"Content-Encoding", "gzip"}, nil} {
		send := body
		if header != nil {
			send = zipped.String()
		}
		_, text, err := c.do("POST", "/_bulk?filter_path=x", send, header...)
		require.NoError(t, err)
		assert.JSONEq(t, `{"errors":false,"items":[{"create":{"_index":"a\\\"b","_id":"1","status":201}},{"index":{"_index":"b","_id":"2","status":201}}]}`, text)
	}
	for _, torn := range []string{"{}", "{}\n", "{}\n{}"} {
		code, _ := c.ask("POST", "/_bulk", torn)
		assert.Equal(t, 400, code)
	}
	st := c.s.Stats()
	assert.EqualValues(t, 6, st.Lines)
	assert.Equal(t, 3, st.Requests["POST /_bulk"])
	assert.Len(t, st.Complaints, 3)
	code, _ := c.ask("GET", "/", "")
	assert.Equal(t, 200, code)
}

func TestAdmin(t *testing.T) {
	c := start(t, Config{})
	for _, tt := range []struct {
		path, body string
		want       int
	}{
		{"faults", `[{"kind":"status","status":503,"times":1}]`, 204}, {"faults", `[{"kind":"rain"}]`, 400}, {"faults", `{}`, 400},
		{"rules", `[{"match":"\"2\"","status":429}]`, 204}, {"rules", `[{"colour":1}]`, 400}, {"limits", `{"MaxMessage":10}`, 204}, {"rain", ``, 404},
	} {
		resp, _, err := c.do("POST", "/_standin/"+tt.path, tt.body)
		require.NoError(t, err)
		assert.Equal(t, tt.want, resp.StatusCode, tt.path)
	}
	code, _ := c.ask("POST", "/_bulk", create("a", "1"))
	assert.Equal(t, 503, code)
	assert.Equal(t, []string{"201", "429 es_rejected_execution_exception"}, c.bulk(create("a", "1")+create("a", "2")))
	_, v := c.ask("GET", "/_standin/stats", "")
	assert.Equal(t, map[string]any{"201": 1.0, "429 es_rejected_execution_exception": 1.0}, v["items"])
	resp, _, err := c.do("POST", "/_standin/reset", "")
	require.NoError(t, err)
	assert.Equal(t, 204, resp.StatusCode)
	assert.Empty(t, c.s.Docs(""))
}

func BenchmarkDiscard(b *testing.B) {
	var body []byte
	for i := range 1000 {
		body = append(body, create("logs-a-b", fmt.Sprintf("%032x", i))...)
	}
	b.SetBytes(int64(len(body)))
	var out []byte
	for b.Loop() {
		out, _, _ = appendCreated(out[:0], body)
	}
}

package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/finding"
)

const secretPassword = "p4ssw0rd-that-nobody-may-see"

// testOutput runs the command, in words and as JSON, which must say the same.
func testOutput(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	args = append([]string{"test", "output", "--path.data", filepath.Join(t.TempDir(), "data")}, args...)
	p := start(t, nil, "", args...)
	status = p.wait(t)
	stdout, stderr = p.stdout.String(), p.stderr.String()
	assert.NotContains(t, stdout+stderr, secretPassword)
	assert.NotContains(t, stderr, "goroutine ")
	if status == 2 {
		assert.Empty(t, stdout)
		return status, stdout, stderr
	}
	p = start(t, nil, "", append(args, "--json")...)
	assert.Equal(t, status, p.wait(t))
	var found finding.List
	require.NoError(t, json.Unmarshal([]byte(p.stdout.String()), &found), p.stdout.String())
	assert.Equal(t, status == 1, found.Count(finding.Wrong) > 0)
	var again strings.Builder
	require.NoError(t, printFindings(&again, found))
	assert.Equal(t, stdout, again.String())
	return status, stdout, stderr
}

// untouched is a stand-in in which nothing may be stored.
func untouched(t *testing.T, cfg esstandin.Config) (*esstandin.Server, string) {
	t.Helper()
	s, url := cluster(t, cfg)
	t.Cleanup(func() { assert.Zero(t, s.Stats().Lines, "a test stores nothing") })
	return s, url
}

// put makes something in a stand-in.
func put(t *testing.T, url, path, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// The cluster's templates may be many and long: they are read once for their
// patterns and once for what they are, however many names are tried.
func TestOutputReadsTemplatesOnce(t *testing.T) {
	s, url := untouched(t, esstandin.Config{})
	put(t, url, "/_index_template/one", `{"index_patterns":["logs-one-*"],"priority":500,"template":{}}`)
	put(t, url, "/_index_template/two", `{"index_patterns":["logs-two-*"],"priority":500,"template":{}}`)
	p := start(t, nil, "", "test", "output", "--path.data", filepath.Join(t.TempDir(), "data"), "--output.elasticsearch.hosts", url)
	require.Zero(t, p.wait(t), "%s", p.stdout.String())
	require.Contains(t, p.stdout.String(), "logs-two-sample by two")
	assert.Equal(t, 2, s.Stats().Requests["GET /_index_template"])
}

func TestOutputFindsWhatIsWrongInACluster(t *testing.T) {
	const ours = `{"index_patterns":["winlogbeat-*"],"priority":500,"composed_of":["vtsidecar@mappings"],"template":{}}`
	for name, test := range map[string]struct {
		cfg  esstandin.Config
		make func(t *testing.T, s *esstandin.Server, url string)
		args []string
		want []string // lines, each with these words in order, with … between them
		not  []string
		good bool
	}{
		"all right": {
			make: func(t *testing.T, _ *esstandin.Server, url string) { put(t, url, "/_index_template/mine", ours) },
			args: []string{"--output.elasticsearch.index", "winlogbeat-1", "--output.elasticsearch.allowed_indices", "winlogbeat-*"},
			want: []string{"ok … Elasticsearch 8.19", "ok … privileges: events may be stored in logs-vtsidecar-fallback, winlogbeat-1", `ok … winlogbeat-1 (output.elasticsearch.index): it would be made by index template "mine"`, "ok … none of the indices"},
			not:  []string{"unknown ", "warning "}, good: true,
		},
		"OpenSearch does not tell privileges": {
			cfg:  esstandin.Config{OpenSearch: true},
			want: []string{"ok … OpenSearch 2.19", "unknown … privileges: … no security, or is OpenSearch"}, good: true,
		},
		"credentials": {
			cfg:  esstandin.Config{Authorization: "Basic other"},
			args: []string{"--output.elasticsearch.username", "u", "--output.elasticsearch.password", secretPassword},
			want: []string{"wrong … credentials are wrong or missing (401) … api_key"}, not: []string{"privileges"},
		},
		"a privilege on what the settings name": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) { s.SetMissing("create_doc") },
			want: []string{"wrong … privileges: create_doc is missing on logs-vtsidecar-fallback", "warning … create_doc is missing on *beat-* … allowed_indices"},
		},
		"an operation has a privilege of its own": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) { s.SetMissing("index") },
			args: []string{"--output.elasticsearch.op_type", "index"},
			want: []string{"wrong … privileges: index is missing on logs-vtsidecar-fallback"},
		},
		"either privilege makes indices": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) { s.SetMissing("auto_configure") },
			want: []string{"ok … privileges"}, good: true,
		},
		"nothing makes indices": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) { s.SetMissing("auto_configure", "create_index") },
			want: []string{"warning … privileges: auto_configure is missing on logs-vtsidecar-fallback"}, good: true,
		},
		"no pipeline": {
			args: []string{"--output.elasticsearch.pipeline", "missing"},
			want: []string{`wrong … output.elasticsearch.pipeline: there is no pipeline "missing"`},
		},
		"a pipeline": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) { s.PutPipeline("there") },
			args: []string{"--output.elasticsearch.pipeline", "there"},
			want: []string{`ok … pipeline "there" exists`}, good: true,
		},
		"the index has no default pipeline": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) {
				s.SetSetting("plain", "index.default_pipeline", "gone")
			},
			args: []string{"--output.elasticsearch.index", "plain"},
			want: []string{`wrong … plain (output.elasticsearch.index) index.default_pipeline: there is no pipeline "gone"`},
		},
		"a block": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) {
				s.SetBlock("plain", "index.blocks.read_only_allow_delete", true)
			},
			args: []string{"--output.elasticsearch.index", "plain"},
			want: []string{"wrong … plain (output.elasticsearch.index): it takes nothing: index.blocks.read_only_allow_delete is set: make room"},
		},
		"closed": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) { s.CreateIndex("plain"); s.SetClosed("plain", true) },
			args: []string{"--output.elasticsearch.index", "plain"},
			want: []string{"wrong … the index is closed: open it (POST /plain/_open)"},
		},
		"only what is written to counts": {
			make: func(t *testing.T, s *esstandin.Server, url string) {
				put(t, url, "/_data_stream/logs-app-default", "")
				s.SetBlock("logs-app-default", "index.blocks.write", true)
				s.Rollover("logs-app-default")
				s.SetBlock("oldbeat-2020", "index.blocks.write", true)
			},
			want: []string{"ok … none of the indices"}, not: []string{"wrong "}, good: true,
		},
		"a stream that events choose is blocked": {
			make: func(t *testing.T, s *esstandin.Server, url string) {
				put(t, url, "/_data_stream/logs-app-default", "")
				s.SetBlock("logs-app-default", "index.blocks.write", true)
			},
			want: []string{"wrong … output.elasticsearch.allowed_indices: events for these wait: .ds-logs-app-default- … index.blocks.write"},
		},
		"a disk is full": {
			make: func(_ *testing.T, s *esstandin.Server, _ string) {
				s.SetBlock("filebeat-7", "index.blocks.read_only_allow_delete", true)
			},
			want: []string{"wrong … events for these wait: filebeat-7: index.blocks.read_only_allow_delete"},
		},
		"a stream takes create only": {
			make: func(t *testing.T, _ *esstandin.Server, url string) { put(t, url, "/_data_stream/logs-app-default", "") },
			args: []string{"--output.elasticsearch.index", "logs-app-default", "--output.elasticsearch.op_type", "index"},
			want: []string{"wrong … it is a data stream, which takes no op_type index"},
		},
		"a stream that is there, in OpenSearch": {
			cfg: esstandin.Config{OpenSearch: true},
			make: func(t *testing.T, _ *esstandin.Server, url string) {
				put(t, url, "/_index_template/theirs", `{"index_patterns":["logs-app-*"],"priority":7,"data_stream":{},"template":{"mappings":{"properties":{"arcanna":{"type":"keyword"}}}}}`)
				put(t, url, "/_data_stream/logs-app-default", "")
			},
			args: []string{"--output.elasticsearch.index", "logs-app-default"},
			want: []string{`wrong … logs-app-default (output.elasticsearch.index): arcanna is mapped as keyword, … index template "theirs"`}, not: []string{"cannot be asked"},
		},
		"the fallback is a stream, whatever op_type says": {
			make: func(t *testing.T, _ *esstandin.Server, url string) {
				put(t, url, "/_data_stream/logs-vtsidecar-fallback", "")
			},
			args: []string{"--output.elasticsearch.op_type", "index"},
			not:  []string{"op_type"}, good: true,
		},
		"without a mapping, with a template and without one": {
			make: func(t *testing.T, _ *esstandin.Server, url string) {
				put(t, url, "/_index_template/theirs", `{"index_patterns":["filebeat-9*"],"priority":7,"template":{}}`)
			},
			args: []string{"--output.elasticsearch.allowed_indices", "*beat-*,other-*"},
			want: []string{
				`warning … mapped by guess: filebeat-9sample by theirs; add "vtsidecar@mappings" to composed_of in their templates`,
				`warning … mapped by guess: filebeat-sample; other-sample; no index template applies to them: make one with "vtsidecar@mappings" in its composed_of`,
			}, good: true,
		},
		"a foreign template": {
			make: func(t *testing.T, _ *esstandin.Server, url string) {
				put(t, url, "/_index_template/theirs", `{"index_patterns":["their-*"],"priority":7,"template":{"mappings":{"properties":{"arcanna":{"properties":{"ioc":{"properties":{"is_malicious":{"type":"long"}}}}}}}}}`)
			},
			args: []string{"--output.elasticsearch.index", "their-%{+yyyy}"},
			want: []string{`wrong … their-20 … arcanna.ioc.is_malicious is mapped as long instead of boolean; index template "theirs" (priority 7)`},
		},
		"a foreign template that events may choose": {
			make: func(t *testing.T, _ *esstandin.Server, url string) {
				put(t, url, "/_index_template/theirs", `{"index_patterns":["filebeat-9*"],"priority":7,"template":{"mappings":{"properties":{"arcanna":{"type":"keyword"}}}}}`)
			},
			want: []string{`wrong … an index such as filebeat-9sample: arcanna is mapped as keyword, … index template "theirs"`},
		},
		"a template that takes no new fields": {
			make: func(t *testing.T, _ *esstandin.Server, url string) {
				put(t, url, "/_index_template/theirs", `{"index_patterns":["their-*"],"template":{"mappings":{"dynamic":"strict","properties":{}}}}`)
			},
			args: []string{"--output.elasticsearch.index", "their-1"},
			want: []string{`wrong … their-1 … dynamic: strict`},
		},
		"what is there already": {
			make: func(t *testing.T, _ *esstandin.Server, url string) {
				put(t, url, "/plain", `{"mappings":{"properties":{"arcanna":{"properties":{"ioc":{"properties":{"global":{"type":"keyword"}}}}}}}}`)
			},
			args: []string{"--output.elasticsearch.index", "plain"},
			want: []string{"wrong … plain … in what is there already arcanna.ioc.global is mapped as keyword"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, url := untouched(t, test.cfg)
			if !test.cfg.OpenSearch && test.cfg.Authorization == "" {
				p := start(t, nil, "", "setup", "--output.elasticsearch.hosts", url)
				require.Zero(t, p.wait(t), p.stderr.String())
			}
			if test.make != nil {
				test.make(t, s, url)
			}
			status, stdout, stderr := testOutput(t, append([]string{"--output.elasticsearch.hosts", url}, test.args...)...)
			if test.good {
				assert.Zero(t, status, stdout+stderr)
				assert.NotContains(t, stdout, "wrong ")
			} else {
				assert.Equal(t, 1, status, stdout+stderr)
				assert.Contains(t, stderr, "must be mended")
			}
			for _, want := range test.want {
				assert.True(t, hasLine(stdout, strings.Split(want, "…")), "%q is not in\n%s", want, stdout)
			}
			for _, not := range test.not {
				assert.NotContains(t, stdout, not)
			}
		})
	}
}

// hasLine reports whether a line has all words, in their order.
func hasLine(text string, words []string) bool {
lines:
	for line := range strings.Lines(text) {
		for _, w := range words {
			i := strings.Index(line, strings.TrimSpace(w))
			if i < 0 {
				continue lines
			}
			line = line[i+len(strings.TrimSpace(w)):]
		}
		return true
	}
	return false
}

// A dry run warns of other templates as the run itself does, though not of what
// the templates mend that it would install.
func TestSetupWarnsBefore(t *testing.T) {
	_, url := untouched(t, esstandin.Config{OpenSearch: true})
	put(t, url, "/_index_template/theirs", `{"index_patterns":["filebeat-*"],"priority":7,"template":{"mappings":{"properties":{"arcanna":{"type":"keyword"}}}}}`)
	run := func(args ...string) (stdout, stderr string) {
		p := start(t, nil, "", append([]string{"setup", "--output.elasticsearch.hosts", url}, args...)...)
		require.Zero(t, p.wait(t), p.stderr.String())
		return p.stdout.String(), p.stderr.String()
	}
	const (
		theirs = `an index named filebeat-sample: arcanna is mapped as keyword, but fields of the program are below it; index template "theirs" (priority 7)`
		nobody = `an index named logs-sample-sample: what is added to events would be mapped by guess; no index template applies to it: make one with "vtsidecar@mappings" in its composed_of`
	)
	stdout, before := run("--dry-run")
	assert.Contains(t, stdout, "would be created")
	assert.Contains(t, before, theirs)
	assert.Contains(t, before, nobody)
	assert.NotContains(t, before, "logs-vtsidecar-fallback")
	_, after := run()
	assert.Equal(t, before, after)

	// What an older run left of the mapping, in a template of theirs.
	put(t, url, "/_component_template/vtsidecar@mappings", `{"template":{},"_meta":{"managed_by":"vtsidecar"}}`)
	put(t, url, "/_index_template/theirs", `{"index_patterns":["filebeat-*"],"priority":7,"composed_of":["vtsidecar@mappings"],"template":{}}`)
	stdout, again := run("--dry-run")
	assert.Contains(t, stdout, "would be updated")
	assert.NotContains(t, again, "filebeat-sample")
	assert.Contains(t, again, nobody)

	// One before ours stays before it.
	_, url = untouched(t, esstandin.Config{OpenSearch: true})
	put(t, url, "/_index_template/first", `{"index_patterns":["logs-vtsidecar-*"],"priority":900,"template":{}}`)
	_, last := run("--dry-run")
	assert.Contains(t, last, `an index named logs-vtsidecar-fallback: what is added to events would be mapped by guess; index template "first" (priority 900) applies to it: add`)
}

// An index setting of which nothing can come but the fallback is a mistake in the
// settings, at the start and before.
func TestIndexThatOnlyTheFallbackIsLeftOf(t *testing.T) {
	for _, command := range [][]string{{"test", "config"}, {"serve"}} {
		for index, want := range map[string]string{
			"%{[agent][type]}-Prod":   `output.elasticsearch.index (flag): "%{[agent][type]}-Prod" makes no index, whatever stands in an event: it has upper-case letters`,
			"events-%{[agent][type]}": `output.elasticsearch.index (flag): "events-%{[agent][type]}" makes no name that output.elasticsearch.allowed_indices (logs-*-*) allows: add "events-*" there`,
		} {
			p := start(t, nil, "", append(command, "--path.data", t.TempDir(), "--output.elasticsearch.hosts", "http://127.0.0.1:1", "--output.elasticsearch.allowed_indices", "logs-*-*", "--output.elasticsearch.index", index)...)
			assert.Equal(t, exitUsage, p.wait(t))
			assert.Contains(t, p.stderr.String(), want)
		}
	}
}

// Nobody is told the credentials who is not the cluster.
func TestOutputSaysWhyAHostIsNotReached(t *testing.T) {
	id := newIdentity(t, 1, "elsewhere.example")
	dir := t.TempDir()
	id.lay(t, dir)
	_, plain := untouched(t, esstandin.Config{})
	var reached bool // by what should be told nothing
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached = true }))
	t.Cleanup(other.Close)
	handler := func(status int, header, body string) string {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", header)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(h.Close)
		return h.URL
	}
	stand := esstandin.New(esstandin.Config{})
	secure := httptest.NewUnstartedServer(stand)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{id.pair}}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are broken off
	secure.StartTLS()
	t.Cleanup(func() { stand.Close(); secure.Close() })
	_, port, err := net.SplitHostPort(secure.Listener.Addr().String())
	require.NoError(t, err)
	sum := sha256.Sum256(id.pair.Certificate[0])

	for name, test := range map[string]struct {
		host string
		args []string
		want string // empty: all is right
	}{
		"plain":             {plain, nil, ""},
		"nobody listens":    {nobody, nil, "nobody listens there"},
		"no such name":      {"no-such-host.invalid", nil, "no-such-host.invalid cannot be resolved"},
		"unknown authority": {secure.URL, nil, "an authority that is not trusted here"},
		"known authority":   {secure.URL, []string{"--output.elasticsearch.ssl.certificate_authorities", filepath.Join(dir, "tls.crt")}, ""},
		"another name":      {"https://localhost:" + port, []string{"--output.elasticsearch.ssl.certificate_authorities", filepath.Join(dir, "tls.crt")}, "its certificate is for another name"},
		"no TLS there":      {strings.Replace(plain, "http", "https", 1), nil, "it speaks no TLS on this port"},
		"TLS there":         {"http://127.0.0.1:" + port, nil, "it speaks TLS on this port: write https://"},
		"other fingerprint": {secure.URL, []string{"--output.elasticsearch.ssl.ca_trusted_fingerprint", hex.EncodeToString(sum[:31]) + "00"}, "an authority that is not trusted here"},
		"redirected":        {handler(302, other.URL, ""), nil, "sends elsewhere (302)"},
		"no cluster":        {handler(200, "", "<html>"), nil, "not as Elasticsearch or OpenSearch"},
		"no master":         {handler(503, "", "{}"), nil, "has trouble of its own (503)"},
		"may not ask":       {handler(403, "", `{"error":{"type":"security_exception","reason":"action [cluster:monitor/main] is unauthorized"},"status":403}`), nil, ""},
		"a closed proxy":    {"http://es.example:9200", []string{"--output.elasticsearch.proxy_url", handler(407, "", "<html>")}, "the proxy wants a user and a password"},
		"a firewall":        {handler(403, "", "<html>"), nil, "answers 403, and not in the words"},
		"an account":        {handler(403, "", `{"Message":"User: anonymous is not authorized"}`), nil, "answers 403, and not in the words"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--output.elasticsearch.hosts", test.host,
				"--output.elasticsearch.username", "elastic", "--output.elasticsearch.password", secretPassword}, test.args...)
			status, stdout, stderr := testOutput(t, args...)
			if test.want == "" {
				assert.Zero(t, status, stdout+stderr)
				return
			}
			assert.Equal(t, 1, status, stdout+stderr)
			assert.Contains(t, stdout, test.want)
			assert.Equal(t, 1, strings.Count(stdout, "\n"), "a host that is not reached is asked no more")
			switch name {
			case "nobody listens", "no such name", "unknown authority", "another name", "no TLS there":
				p := start(t, nil, "", append([]string{"setup"}, args...)...)
				assert.Equal(t, 1, p.wait(t))
				assert.Contains(t, p.stderr.String(), test.want, "setup says so too")
			}
		})
	}
	assert.False(t, reached, "a redirect is never followed")

	// One of three is enough to go on, and each is told of.
	status, stdout, _ := testOutput(t, "--output.elasticsearch.hosts", nobody+","+plain)
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "nobody listens")
	assert.Contains(t, stdout, "privileges")
}

func TestOutputLogstash(t *testing.T) {
	dir := t.TempDir()
	id := newIdentity(t, 1)
	id.lay(t, dir)
	serve := func(args ...string) string {
		p := start(t, nil, "", append([]string{"--input.address", "127.0.0.1:0", "--admin.address", "off", "--vt.enabled=false", "--path.data", t.TempDir(), "--output.file.path", filepath.Join(t.TempDir(), "e.ndjson")}, args...)...)
		return p.address(t)
	}
	plain := serve()
	secure := serve("--input.ssl.certificate", filepath.Join(dir, "tls.crt"), "--input.ssl.key", filepath.Join(dir, "tls.key"))
	// One that answers nothing to nothing, as Logstash.
	silent := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	rude := listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "220 smtp.example ESMTP\r\n") })
	trust := []string{"--output.logstash.ssl.certificate_authorities", filepath.Join(dir, "tls.crt")}
	for name, test := range map[string]struct {
		host string
		args []string
		want string
		good bool
	}{
		"another of its kind": {plain, nil, "over TCP", true},
		"over TLS":            {secure, trust, "over TLS", true},
		"silent":              {silent, nil, "takes connections over TCP and waits for events", true},
		"TLS there":           {secure, nil, "it speaks TLS on this port: set output.logstash.ssl.enabled", false},
		"no TLS there":        {plain, trust, "it closes the connection", false},
		"not trusted":         {secure, []string{"--output.logstash.ssl.enabled"}, "name the authority in output.logstash.ssl.certificate_authorities", false},
		"another protocol":    {rude, nil, "is no beats input", false},
	} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := testOutput(t, append([]string{"--output.logstash.hosts", test.host}, test.args...)...)
			assert.Equal(t, !test.good, status == 1, stdout+stderr)
			assert.Contains(t, stdout, test.want)
		})
	}
}

// listen serves one connection after the other.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestOutputFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "taken")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	for name, test := range map[string]struct {
		path string
		want string
		good bool
	}{
		"a folder":            {filepath.Join(dir, "events.ndjson"), "files can be written in " + dir, true},
		"a file":              {file, "files can be written in " + dir, true},
		"no folder yet":       {filepath.Join(dir, "a", "b", "events.ndjson"), "is not there yet; it can be made in " + dir, true},
		"a file for a folder": {filepath.Join(file, "events.ndjson"), "not a directory", false},
		"a folder for a file": {dir, "is no regular file", false},
	} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := testOutput(t, "--output.file.path", test.path)
			assert.Equal(t, !test.good, status == 1, stdout+stderr)
			assert.Contains(t, stdout, test.want)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			assert.Len(t, entries, 1, "nothing is left")
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Equal(t, "x", string(data))
		})
	}
	status, _, stderr := testOutput(t, "--output.file.path", "a", "--output.elasticsearch.hosts", "b")
	assert.Equal(t, 2, status)
	assert.Contains(t, stderr, "more than one destination")
}

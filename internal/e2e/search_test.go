//go:build real

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// node is a real Elasticsearch or OpenSearch, as scripts/search-node.sh makes one.
type node struct {
	engine   string // es or os
	dir      string
	port     string
	settings []string
	secured  bool // TLS, and the user admin with adminPassword
	url      string
	leash    *os.File // the node ends when this is closed, and so with this process
}

// startNode starts an empty node. Settings are as -E of the server takes them.
func startNode(t *testing.T, engine string, settings ...string) *node {
	t.Helper()
	n := &node{engine: engine, settings: settings}
	n.begin(t)
	return n
}

func (n *node) begin(t *testing.T) {
	t.Helper()
	engine := n.engine
	dir, err := os.MkdirTemp("", "vtsidecar-"+engine+"-") // t.TempDir is closed to the user that a node runs as
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(free.Addr().String())
	require.NoError(t, err)
	require.NoError(t, free.Close())
	n.dir, n.port = dir, port
	t.Cleanup(func() {
		n.stop(t)
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("the last words of %s:\n%s", engine, log[max(0, len(log)-4000):])
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	n.start(t)
}

// start starts the node on its port, over the data that it has.
func (n *node) start(t *testing.T) {
	t.Helper()
	args := []string{"start", n.engine, n.dir, n.port, "-E", "transport.port=0"}
	for _, s := range n.settings {
		args = append(args, "-E", s)
	}
	held, leash, err := os.Pipe()
	require.NoError(t, err)
	defer held.Close()
	n.leash = leash
	n.url = n.script(t, held, args...)
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	n.script(t, nil, "stop", n.dir)
	if n.leash != nil {
		n.leash.Close()
		n.leash = nil
	}
}

// script runs the nodes' script and returns what it prints. What it starts ends
// when nobody holds the other end of the pipe held any more.
func (n *node) script(t *testing.T, held *os.File, args ...string) string {
	t.Helper()
	name := os.Getenv("SEARCH_NODE")
	require.NotEmpty(t, name, "these tests are run by make test-real")
	c := exec.Command(name, args...)
	c.Env = os.Environ()
	if n.secured {
		c.Env = append(c.Env, "SECURE=1")
	}
	if held != nil {
		c.Stdin, c.Env = held, append(c.Env, "LEASH=1")
	}
	out, err := c.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		t.Logf("%s", failed.Stderr)
	}
	require.NoError(t, err, "%s %s", name, args)
	return strings.TrimSpace(string(out))
}

// ask returns what the node answers.
func (n *node) ask(t *testing.T, method, path, body string) (status int, answer map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, n.url+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DisableKeepAlives: true} // the node may come and go
	if n.secured {
		transport.TLSClientConfig = n.trust(t)
		r.SetBasicAuth("admin", adminPassword)
	}
	c := http.Client{Timeout: patience, Transport: transport}
	got, err := c.Do(r)
	require.NoError(t, err)
	defer got.Body.Close()
	d := json.NewDecoder(got.Body)
	d.UseNumber()
	if err := d.Decode(&answer); err != io.EOF {
		require.NoError(t, err, "%s %s", method, path)
	}
	return got.StatusCode, answer
}

// do is ask for what must succeed.
func (n *node) do(t *testing.T, method, path, body string) map[string]any {
	t.Helper()
	status, answer := n.ask(t, method, path, body)
	require.Less(t, status, 300, "%s %s: %v", method, path, answer)
	return answer
}

// count is how many documents an index has, or those of a pattern.
func (n *node) count(t *testing.T, index string) int {
	t.Helper()
	n.do(t, "POST", "/"+index+"/_refresh", "")
	count, err := n.do(t, "GET", "/"+index+"/_count", "")["count"].(json.Number).Int64()
	require.NoError(t, err)
	return int(count)
}

// tally counts the documents of an index by the values of fields, exactly.
func (n *node) tally(t *testing.T, index string, fields ...string) map[string]int {
	t.Helper()
	type source = map[string]any
	var sources []source
	for _, f := range fields {
		sources = append(sources, source{f: source{"terms": source{"field": f, "missing_bucket": true}}})
	}
	all := make(map[string]int)
	for after := any(nil); ; {
		composite := source{"size": 10_000, "sources": sources}
		if after != nil {
			composite["after"] = after
		}
		query, err := json.Marshal(source{"size": 0, "aggs": source{"by": source{"composite": composite}}})
		require.NoError(t, err)
		by := n.do(t, "POST", "/"+index+"/_search", string(query))["aggregations"].(source)["by"].(source)
		for _, b := range by["buckets"].([]any) {
			b := b.(source)
			var values []any
			for _, f := range fields {
				values = append(values, b["key"].(source)[f])
			}
			count, err := b["doc_count"].(json.Number).Int64()
			require.NoError(t, err)
			all[key(values...)] += int(count)
		}
		if after = by["after_key"]; after == nil {
			return all
		}
	}
}

// key names a combination of values.
func key(values ...any) string {
	for i, v := range values {
		if b, ok := v.(*bool); ok { // an opinion
			if values[i] = nil; b != nil {
				values[i] = *b
			}
		}
	}
	return fmt.Sprint(values...)
}

// verify holds an index against what was sent: each line is there once, and
// searches by the flat fields give the stand-in's verdicts.
func (n *node) verify(t *testing.T, index string, lines span) {
	t.Helper()
	require.Equal(t, lines.count, n.count(t, index), "documents in %s", index)
	byLine := n.tally(t, index, "n")
	for i := range lines.count {
		require.Equal(t, 1, byLine[key(json.Number(fmt.Sprint(lines.first+i)))], "documents of line %d", lines.first+i)
	}
	table := newTable()
	parts, global := make(map[string]map[string]int), make(map[string]int)
	for i := range lines.count {
		worst := "none"
		for name, w := range indicators(lines.first + i) {
			p := table.part(w)
			if parts[name] == nil {
				parts[name] = make(map[string]int)
			}
			parts[name][key(p.Value, p.Result, p.IsMalicious, p.Status)]++
			if rank[p.Result] > rank[worst] {
				worst = p.Result
			}
		}
		global[key(worst, opinion(worst), opinion(worst), "complete")]++
	}
	const ioc = "arcanna.ioc."
	for name, want := range parts {
		require.Equal(t, want, n.tally(t, index, ioc+name+".value", ioc+name+".result", ioc+name+".is_malicious", ioc+name+".status"), "%s in %s", name, index)
	}
	require.Equal(t, global, n.tally(t, index, ioc+"global.result", ioc+"global.is_malicious", ioc+"is_malicious", ioc+"global.status"), "what is said of the parts together in %s", index)
}

// startStoring starts the program with a node as its output.
func startStoring(t *testing.T, vt string, n *node, args ...string) *sidecar {
	t.Helper()
	dir := t.TempDir()
	s := &sidecar{dir: dir, address: "127.0.0.1:0", args: append(surroundings(dir, vt), args...)}
	s.args = append(s.args, "--output.elasticsearch.hosts", n.url)
	s.start(t)
	return s
}

// command runs a command of the program with settings, and returns its standard
// output and exit status.
func command(t *testing.T, settings []string, words ...string) (stdout string, code int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Getenv("VTSIDECAR"), append(words, settings...)...)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		require.NoError(t, err)
	}
	t.Logf("%s: %s%s", strings.Join(words, " "), out, errs.String())
	return string(out), c.ProcessState.ExitCode()
}

// ready is what the program answers when it is asked whether it takes events.
func (s *sidecar) ready(t *testing.T) (ok bool, body string) {
	t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := c.Get("http://" + s.say(t, listens, 1)[1] + "/readyz")
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode == http.StatusOK, string(text)
}

// buries waits until all is sent, and ends the program: so many events are in the
// dead letter, and nothing is the matter.
func (s *sidecar) buries(t *testing.T, sent *process, events int) {
	t.Helper()
	require.Zero(t, sent.wait(t), "the sender's exit status")
	require.EqualValues(t, events, s.metric(t, "vtsidecar_events_dead_lettered_total"))
	ok, why := s.ready(t)
	require.True(t, ok, "%s", why)
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
}

// unready waits until the program says that it is not ready, in these words.
func (s *sidecar) unready(t *testing.T, words ...string) {
	t.Helper()
	var body string
	require.Eventually(t, func() bool {
		var ok bool
		ok, body = s.ready(t)
		for _, w := range words {
			ok = ok || !strings.Contains(body, w)
		}
		return !ok
	}, patience, 50*time.Millisecond, "readiness never names %q", words)
	t.Logf("readiness: %s", body)
}

// searchLine is the log's line number n with values that every index takes: the
// oddities are beyond what Elasticsearch's numbers hold.
func searchLine(n int) string { return strings.Replace(line(n), `"odd":`+oddities+`,`, "", 1) }

// TestSearch stores in real nodes, both kinds of them. A node takes long to
// start, so most share one.
func TestSearch(t *testing.T) {
	for _, engine := range []string{"es", "os"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, engine)
			vt := startStandIn(t)
			for _, c := range []struct {
				name string
				test func(*testing.T, *node, string)
			}{
				{"setup", installed},
				{"foreign template", foreignTemplate},
				{"mapping conflict", mappingConflict},
				{"blocks", blocked},
				{"missing pipelines", missingPipelines},
				{"answers about pipelines", mixedPipelines},
				{"an index without a shard", withoutShard},
				{"Filebeat and a node that restarts", nodeRestarts},
				{"Filebeat and a program that is killed", killedStoring},
			} {
				if !t.Run(c.name, func(t *testing.T) { c.test(t, n, vt) }) && c.name == "setup" {
					t.FailNow() // without templates nothing is as it should be
				}
			}
		})
	}
}

// Setup makes the templates the first time, and finds nothing to do the second.
func installed(t *testing.T, n *node, vt string) {
	args := append(surroundings(t.TempDir(), vt), "--output.elasticsearch.hosts", n.url)
	first, code := command(t, args, "setup")
	require.Zero(t, code)
	require.Contains(t, first, "_component_template/vtsidecar@mappings created")
	require.Contains(t, first, "_index_template/logs-vtsidecar created")
	before := n.do(t, "GET", "/_component_template/vtsidecar@mappings", "")
	second, code := command(t, args, "setup")
	require.Zero(t, code)
	require.Equal(t, 2, strings.Count(second, "is up to date"), "%s", second)
	require.Equal(t, before, n.do(t, "GET", "/_component_template/vtsidecar@mappings", ""))
}

// An index is closed for writing, as an operator and as a full disk do it: the
// events wait, none is refused, and all are stored once it is open again.
func blocked(t *testing.T, n *node, vt string) {
	const index, count = "logs-blocked-e2e", 1_000
	s := startStoring(t, vt, n, "--output.elasticsearch.index", index)
	n.do(t, "PUT", "/_index_template/blocked", `{"index_patterns":["`+index+`"],"composed_of":["vtsidecar@mappings"],"priority":300}`)
	n.do(t, "PUT", "/"+index, "")
	for k, block := range []string{"index.blocks.write", "index.blocks.read_only_allow_delete"} {
		n.do(t, "PUT", "/"+index+"/_settings", `{"`+block+`":true}`)
		sent := s.send(t, firstLine+k*count, count, searchLine)
		s.unready(t, "output.elasticsearch", index)
		n.do(t, "PUT", "/"+index+"/_settings", `{"`+block+`":null}`)
		require.Zero(t, sent.wait(t), "the sender's exit status")
		s.recovered(t)
	}
	require.Zero(t, s.metric(t, "vtsidecar_events_dead_lettered_total"))
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	n.verify(t, index, span{firstLine, 2 * count})
}

// A pipeline that does not exist is an outage where the settings name it, and
// ends when it is made. Where one event names it, that event alone is refused.
func missingPipelines(t *testing.T, n *node, vt string) {
	const count = 1_000
	t.Run("of the settings", func(t *testing.T) {
		const index = "logs-vtsidecar-pipeline"
		s := startStoring(t, vt, n, "--output.elasticsearch.index", index, "--output.elasticsearch.pipeline", "made-later")
		sent := s.send(t, firstLine, count, searchLine)
		s.unready(t, "output.elasticsearch", "made-later")
		n.do(t, "PUT", "/_ingest/pipeline/made-later", `{"processors":[{"set":{"field":"tagged","value":"yes"}}]}`)
		require.Zero(t, sent.wait(t), "the sender's exit status")
		s.recovered(t)
		require.Zero(t, s.metric(t, "vtsidecar_events_dead_lettered_total"))
		require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
		n.verify(t, index, span{firstLine, count})
		require.Equal(t, map[string]int{"yes": count}, n.tally(t, index, "tagged"))
	})
	t.Run("of an event", func(t *testing.T) {
		const index = "logs-vtsidecar-own"
		s := startStoring(t, vt, n, "--output.elasticsearch.index", index)
		sent := s.send(t, firstLine, count, func(n int) string {
			if n == firstLine+count-1 {
				return strings.Replace(searchLine(n), "{", `{"@metadata":{"pipeline":"never-made"},`, 1)
			}
			return searchLine(n)
		})
		s.buries(t, sent, 1)
		n.verify(t, index, span{firstLine, count - 1})
	})
}

// Several pipelines that fail events make OpenSearch answer in another order, and one
// that sets _id makes the answer name another document. None of it is taken for no
// answer, which would stop everything, nor for one about another event.
func mixedPipelines(t *testing.T, n *node, vt string) {
	const index, count = "logs-vtsidecar-mixed", 1_000
	n.do(t, "PUT", "/_ingest/pipeline/failing", `{"processors":[{"set":{"field":"@timestamp.a","value":"b"}}]}`)
	n.do(t, "PUT", "/_ingest/pipeline/renaming", `{"processors":[{"set":{"field":"_id","value":"another"}}]}`)
	s := startStoring(t, vt, n, "--output.elasticsearch.index", index)
	pipelines := map[int]string{100: "failing", 200: "never-made", 300: "failing", 400: "renaming", 500: "never-made-either"}
	sent := s.send(t, firstLine, count, func(n int) string {
		if p := pipelines[n-firstLine]; p != "" {
			return strings.Replace(searchLine(n), "{", `{"@metadata":{"pipeline":"`+p+`"},`, 1)
		}
		return searchLine(n)
	})
	s.buries(t, sent, 4)
	require.Equal(t, count-4, n.count(t, index))
	letters, code := command(t, s.args, "dlq", "list", "--json")
	require.Zero(t, code)
	for _, reason := range []string{`"reason":"pipeline"`, `"reason":"refused"`} {
		require.Contains(t, letters, reason)
	}
	require.Equal(t, 2, strings.Count(letters, `"letters":2`), "%s", letters)
}

// An index whose shard no node has: events for it wait, those of other windows do
// not, though a node answers for all of a request at once.
func withoutShard(t *testing.T, n *node, vt string) {
	const index, gone, count = "logs-vtsidecar-others", "logs-gone-e2e", 1_000
	n.do(t, "PUT", "/_index_template/gone", `{"index_patterns":["`+gone+`"],"composed_of":["vtsidecar@mappings"],"priority":300}`)
	n.do(t, "PUT", "/"+gone+"?wait_for_active_shards=0", `{"settings":{"index.routing.allocation.require._name":"nobody"}}`)
	s := startStoring(t, vt, n, "--output.elasticsearch.index", index)
	waits := s.send(t, firstLine, count, func(n int) string {
		if n == firstLine+count/2 {
			return strings.Replace(searchLine(n), "{", `{"@metadata":{"index":"`+gone+`"},`, 1)
		}
		return searchLine(n)
	})
	for k := 1; k < 4; k++ {
		require.Zero(t, s.send(t, firstLine+k*count, count, searchLine).wait(t), "the sender's exit status")
	}
	select {
	case <-waits.exited:
		require.Fail(t, "an event is acknowledged that is nowhere")
	default:
	}
	n.do(t, "PUT", "/"+gone+"/_settings", `{"index.routing.allocation.require._name":null}`)
	require.Zero(t, waits.wait(t), "the sender's exit status")
	require.Zero(t, s.metric(t, "vtsidecar_events_dead_lettered_total"))
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	require.Equal(t, 4*count-1, n.count(t, index))
	require.Equal(t, 1, n.count(t, gone))
}

// send sends lines as a Beat would, each at a place and time of its own.
func (s *sidecar) send(t *testing.T, first, count int, line func(int) string) *process {
	t.Helper()
	log := filepath.Join(t.TempDir(), "events.ndjson")
	writeLines(t, log, first, count, func(n int) string {
		return strings.Replace(line(n), "{", fmt.Sprintf(`{"@timestamp":"2026-01-02T03:04:05.000Z","agent":{"id":"e2e","type":"filebeat"},"log":{"offset":%d,"file":{"path":"/e2e.log"}},`, n), 1)
	})
	return start(t, "vtsidecar send", os.Getenv("VTSIDECAR"), "send", "--to", s.address, "--timeout", "3m", log)
}

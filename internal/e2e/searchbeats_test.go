//go:build real

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// many is how many lines Filebeat sends to a node: enough that what happens to
// the node or the program happens to windows under way.
const many = 200_000

// swift is a Filebeat that finds the program soon after a restart.
const swift = "backoff: {init: 200ms, max: 1s}\n"

// The node is stopped and started again while real Filebeat's lines go into a
// data stream. The program waits for the node, Filebeat for the program.
func nodeRestarts(t *testing.T, n *node, vt string) {
	const stream = "logs-restarted-e2e"
	n.compose(t, stream, `"data_stream":{},`)
	s := startStoring(t, vt, n, "--output.elasticsearch.index", stream)
	log := filepath.Join(t.TempDir(), "app.log")
	writeLines(t, log, firstLine, many, searchLine)
	f := startFilebeat(t, log, settings{output: swift}, s.address)

	s.stores(t, many/2, f.process)
	n.stop(t)
	s.unready(t, "output.elasticsearch")
	n.start(t)
	f.acked(t, log, s.process)
	require.Zero(t, f.terminate(t), "Filebeat's exit status")

	require.Zero(t, s.metric(t, "vtsidecar_events_dead_lettered_total"))
	t.Logf("%d lines; the program did without the node for %s s; %v were sent again by Filebeat, and the node had %v before",
		many, s.say(t, outlived, 1)[1], s.metric(t, "vtsidecar_events_received_total")-many, s.metric(t, existing))
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	require.Empty(t, s.letters(t))
	n.verify(t, stream, span{firstLine, many})
	n.finds(t, stream, span{firstLine, many})
}

// outlived is what the program says at an outage's end.
var outlived = regexp.MustCompile(`Elasticsearch takes events again.*"seconds":([0-9]+)`)

// SIGKILL five times while real Filebeat's lines go into an index for each day,
// of which every request has several.
func killedStoring(t *testing.T, n *node, vt string) {
	const prefix, days, kills = "filebeat-killed-", 4, 5
	n.compose(t, prefix+"*", "")
	s := startStoring(t, vt, n, "--output.elasticsearch.index", prefix+"%{+yyyy.MM.dd}")
	log := filepath.Join(t.TempDir(), "app.log")
	writeLines(t, log, firstLine, many, func(n int) string {
		return strings.Replace(searchLine(n), "{", fmt.Sprintf(`{"@timestamp":"2026-01-%02dT03:04:05.678Z",`, 1+n%days), 1)
	})
	f := startFilebeat(t, log, settings{output: swift, input: "json.overwrite_keys: true\n"}, s.address)

	received, had := 0.0, 0.0 // at least: what came after the last look dies with the program
	for range kills {
		s.stores(t, many/(kills+2), f.process) // each time new ones, so that the last kill is before the end
		received += s.metric(t, "vtsidecar_events_received_total")
		had += s.metric(t, existing)
		s.crash(t)
	}
	f.acked(t, log, s.process)
	require.Zero(t, f.terminate(t), "Filebeat's exit status")

	require.Zero(t, s.metric(t, "vtsidecar_events_dead_lettered_total"))
	t.Logf("%d lines, %d kills; %v or more were sent again by Filebeat, and the node had %v or more before",
		many, kills, received+s.metric(t, "vtsidecar_events_received_total")-many, had+s.metric(t, existing))
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	require.Empty(t, s.letters(t))
	n.verify(t, prefix+"*", span{firstLine, many})
	n.finds(t, prefix+"*", span{firstLine, many})
	for day := range days {
		index := fmt.Sprintf("%s2026.01.%02d", prefix, 1+day)
		require.Equal(t, many/days, n.count(t, index), "documents in %s", index)
	}
}

// compose makes a template for indices of a pattern, or with more for data
// streams, as a user makes one that takes the mapping.
func (n *node) compose(t *testing.T, pattern, more string) {
	t.Helper()
	_, code := command(t, append(surroundings(t.TempDir(), "http://127.0.0.1:1"), "--output.elasticsearch.hosts", n.url), "setup")
	require.Zero(t, code)
	name, _, _ := strings.Cut(pattern, "*")
	n.do(t, "PUT", "/_index_template/"+name, `{"index_patterns":["`+pattern+`"],`+more+`"priority":300,"composed_of":["vtsidecar@mappings"],
		"template":{"settings":{"refresh_interval":"30s","translog.flush_threshold_size":"32mb"},"mappings":{"dynamic_templates":[{"words":{"match_mapping_type":"string","mapping":{"type":"keyword"}}}]}}}`)
}

// The series of events that a node took, and of those that it had before.
const (
	created  = `vtsidecar_output_items_total{outcome="stored",reason="created"}`
	existing = `vtsidecar_output_items_total{outcome="stored",reason="exists"}`
)

// stores waits until the node has taken so many events of the program since that
// was started. It may take as long as it goes on.
func (s *sidecar) stores(t *testing.T, count float64, others ...*process) {
	t.Helper()
	for has := -1.0; has < count; {
		was := has
		await(t, fmt.Sprintf("the node takes more than %v events, and %v in the end", was, count), func() bool {
			has = s.metric(t, created)
			return has > was
		}, append(others, s.process)...)
	}
}

// finds searches an index as a user does, by the flat fields, for one indicator
// of each kind and result.
func (n *node) finds(t *testing.T, index string, lines span) {
	t.Helper()
	table := newTable()
	kept, counts := make(map[string]wanted), make(map[wanted]map[string]int) // what is searched for, and how many lines have it where
	for i := range lines.count {
		for name, w := range indicators(lines.first + i) {
			kind := name + " " + table.part(w).Result
			if _, ok := kept[kind]; !ok {
				kept[kind] = w
			}
			if counts[w] == nil {
				counts[w] = make(map[string]int)
			}
			counts[w][name]++
		}
	}
	for kind, w := range kept {
		name, _, _ := strings.Cut(kind, " ")
		field := "arcanna.ioc." + name
		p := table.part(w)
		terms := []any{
			map[string]any{"term": map[string]any{field + ".value": w.value}},
			map[string]any{"term": map[string]any{field + ".result": p.Result}},
		}
		if p.IsMalicious != nil {
			terms = append(terms, map[string]any{"term": map[string]any{field + ".is_malicious": *p.IsMalicious}})
		}
		query, err := json.Marshal(map[string]any{"query": map[string]any{"bool": map[string]any{"filter": terms}}})
		require.NoError(t, err)
		got, err := n.do(t, "POST", "/"+index+"/_count", string(query))["count"].(json.Number).Int64()
		require.NoError(t, err)
		require.Equal(t, counts[w][name], int(got), "%s", query)
	}
	require.Greater(t, len(kept), 5)
}

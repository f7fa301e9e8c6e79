package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
)

// cluster is a stand-in Elasticsearch that complains.
func cluster(t *testing.T, cfg esstandin.Config) (*esstandin.Server, string) {
	t.Helper()
	s := esstandin.New(cfg)
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.Close()
		assert.Empty(t, s.Complaints())
	})
	return s, h.URL
}

// buried reads the dead letter: the letters by the "n" of their events.
func buried(t *testing.T, data string) map[int][]map[string]any {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "dead-letter", "*.ndjson"))
	require.NoError(t, err)
	number := regexp.MustCompile(`"n":([0-9]+)`)
	out := map[int][]map[string]any{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		for line := range strings.Lines(string(b)) {
			var l map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &l))
			m := number.FindStringSubmatch(fmt.Sprint(l["event"]))
			require.NotNil(t, m, "a letter without its event")
			n, _ := strconv.Atoi(m[1]) // digits
			out[n] = append(out[n], l)
		}
	}
	return out
}

// What a sender may not do to its neighbours: each bad event is stored, or
// buried with a reason, once; the others of its window are stored, and the
// window is acknowledged.
func TestBadEventsOnTheirWayToElasticsearch(t *testing.T) {
	const fallback = "logs-vtsidecar-fallback"
	const stamp = `"@timestamp":"2026-01-02T03:04:05.678Z"`
	named := func(index string) string {
		b, err := json.Marshal(index)
		require.NoError(t, err)
		return fmt.Sprintf(`{"n":2,%s,"@metadata":{"index":%s}}`, stamp, b)
	}
	for _, tt := range []struct {
		name  string
		event string   // has "n":2
		index string   // where it is stored; empty: it is buried
		dead  string   // the reason, or a part of it, where it is buried
		more  []string // settings
	}{
		{name: "a long message", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b"},"message":"` + strings.Repeat("x", 32767) + `"}`, dead: "illegal_argument_exception"},
		{name: "a message just short enough", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b"},"message":"` + strings.Repeat("x", 32766) + `"}`, index: "logs-a-b"},
		{name: "an identity of 512 bytes", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b","_id":"` + strings.Repeat("i", 512) + `"}}`, index: "logs-a-b"},
		{name: "an identity of 513 bytes", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b","_id":"` + strings.Repeat("i", 513) + `"}}`, index: "logs-a-b"},
		{name: "an identity with quote and newline", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b","_id":"a\"}}\n{\"delete\":{\"_id\":\"1\"}}\n"}}`, index: "logs-a-b"},
		{name: "an index outside", event: named("../x"), index: fallback},
		{name: "an index that begins with a dot", event: named(".security"), index: fallback},
		{name: "an index within the dots", event: named("logs-a-b/../x"), index: fallback},
		{name: "an index in upper case", event: named("LOGS-A-B"), index: ""},
		{name: "an index of 256 bytes", event: named("logs-a-" + strings.Repeat("b", 249)), index: fallback},
		{name: "an index of 255 bytes", event: named("logs-a-" + strings.Repeat("b", 248)), index: "logs-a-" + strings.Repeat("b", 248)},
		{name: "an index that is empty", event: named(""), index: fallback},
		{name: "a newline in the index", event: named("logs-a-b\"}}\n{\"delete\":{\"_index\":\"logs-a-b\",\"_id\":\"1\"}}\n"), index: fallback},
		{name: "a quote in the index", event: named(`logs-a-b"`), index: fallback},
		{name: "a wildcard as the index", event: named("logs-*-*"), index: fallback},
		{name: "a newline in the pipeline", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b","pipeline":"p\"}}\n{}\n"}}`, dead: "illegal_argument_exception"},
		{name: "an index that is not allowed", event: named("secrets"), index: fallback},
		{name: "delete", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b","op_type":"delete","_id":"neighbour"}}`, index: "logs-a-b"},
		{name: "no timestamp", event: `{"n":2,"@metadata":{"index":"winlogbeat-8.1.0"}}`, index: "winlogbeat-8.1.0"},
		{name: "no timestamp for a data stream", event: `{"n":2,"@metadata":{"index":"logs-a-b"}}`, dead: "document_parsing_exception"},
		{name: "no timestamp for a dated index", event: `{"n":2,"@metadata":{"beat":"winlogbeat"}}`, index: "logs-vtsidecar", more: []string{
			"--output.elasticsearch.index", "%{[@metadata][beat]}-%{+yyyy.MM.dd}", "--output.elasticsearch.fallback_index", "logs-vtsidecar"}},
		{name: "metadata is null", event: `{"n":2,` + stamp + `,"@metadata":null}`, index: fallback},
		{name: "metadata is a boolean", event: `{"n":2,` + stamp + `,"@metadata":true}`, index: fallback},
		{name: "metadata is a number", event: `{"n":2,` + stamp + `,"@metadata":-1.5e3}`, index: fallback},
		{name: "metadata is a text", event: `{"n":2,` + stamp + `,"@metadata":"logs-a-b"}`, index: fallback},
		{name: "metadata is a list", event: `{"n":2,` + stamp + `,"@metadata":[{"index":"logs-a-b"}]}`, index: fallback},
		{name: "metadata is empty", event: `{"n":2,` + stamp + `,"@metadata":{}}`, index: fallback},
		{name: "metadata of other types", event: `{"n":2,` + stamp + `,"@metadata":{"index":["logs-a-b"],"pipeline":{"a":1},"_id":5,"op_type":null}}`, index: fallback},
		{name: "metadata twice", event: `{"n":2,` + stamp + `,"@metadata":{"index":"secrets"},"@metadata":{"index":"logs-a-b"}}`, index: "logs-a-b"},
		{name: "an event over max_event", event: `{"n":2,` + stamp + `,"message":"` + strings.Repeat("x", 100<<20) + `"}`, dead: "oversize"},
		{name: "an event just under max_event", event: `{"n":2,` + stamp + `,"@metadata":{"index":"logs-a-b"},"pad":"` + strings.Repeat("x", 15<<20) + `"}`, index: "logs-a-b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			es, url := cluster(t, esstandin.Config{})
			es.SetLimits(esstandin.Limits{MaxMessage: 32766})
			_, vt := standIn(t)
			data := t.TempDir()
			p := startServer(t, data, vt, append([]string{
				"--output.elasticsearch.hosts", url, "--output.elasticsearch.index", "%{[@metadata][index]}",
			}, tt.more...)...)
			events := []string{
				`{"n":0,` + stamp + `,"@metadata":{"index":"logs-a-b","beat":"winlogbeat"},"source":{"ip":"203.0.113.7"}}`,
				`{"n":1,` + stamp + `,"@metadata":{"index":"logs-a-b","beat":"winlogbeat","_id":"neighbour1"}}`,
				tt.event,
				`{"n":3,` + stamp + `,"@metadata":{"index":"logs-a-b","beat":"winlogbeat"}}`,
			}
			window(t, p.address(t), events...)
			p.stop()
			require.Zero(t, p.wait(t), p.stderr.String())

			where := map[int][]string{}
			for _, d := range es.Docs("") {
				var doc map[string]any
				require.NoError(t, json.Unmarshal(d.Source, &doc))
				n := int(doc["n"].(float64))
				where[n] = append(where[n], d.Index)
				assert.EqualValues(t, 1, d.Version)
				assert.Nil(t, doc["@metadata"])
			}
			letters := buried(t, data)
			for n := range events {
				assert.Equal(t, 1, len(where[n])+len(letters[n]), "event %d is stored %d times and buried %d times", n, len(where[n]), len(letters[n]))
				if n != 2 {
					assert.Empty(t, letters[n], "a neighbour is buried")
				}
			}
			if tt.dead == "" && tt.index != "" {
				require.Len(t, where[2], 1, "%v", letters[2])
				assert.Contains(t, where[2][0], tt.index)
			}
			if tt.dead != "" {
				require.Len(t, letters[2], 1)
				assert.Contains(t, fmt.Sprint(letters[2][0]["reason"], " ", letters[2][0]["detail"]), tt.dead)
			}
			assert.Zero(t, es.Stats().Items["400 invalid_index_name_exception"], "the cluster is never asked for what cannot be")
			assert.NotContains(t, p.stderr.String(), "xxxxxxxxxx", "payloads never reach the log")
		})
	}
}

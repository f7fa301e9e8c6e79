package elasticsearch_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
	"vtsidecar/output/elasticsearch"
)

// Where an event goes, as the cluster sees it: by the settings, by its
// @metadata, by its own fields.
func TestRoutes(t *testing.T) {
	const (
		fallback = "logs-vtsidecar-fallback"
		beats    = "%{[@metadata][beat]}-%{[@metadata][version]}"
		stamp    = "2026-01-02T03:04:05.678Z"
	)
	long := func(n int) string { return "logs-a-" + strings.Repeat("b", n-len("logs-a-")) }
	for _, tt := range []struct {
		name                    string
		index, pipeline         string // settings
		allowed                 []string
		meta, doc               string
		wantIndex, wantPipeline string
	}{
		{name: "Logstash's convention", meta: `{"beat":"winlogbeat","type":"_doc","version":"8.19.1"}`, wantIndex: "winlogbeat-8.19.1"},
		{name: "no metadata", wantIndex: fallback},
		{name: "no version", meta: `{"beat":"winlogbeat"}`, wantIndex: fallback},
		{name: "an empty version", meta: `{"beat":"winlogbeat","version":""}`, wantIndex: fallback},
		{name: "a number as the version", meta: `{"beat":"winlogbeat","version":8}`, wantIndex: "winlogbeat-8"},
		{name: "a date", index: beats + "-%{+yyyy.MM.dd}", meta: `{"beat":"filebeat","version":"7.17.29"}`, wantIndex: "filebeat-7.17.29-2026.01.02"},
		{name: "a date in another zone", index: "events-%{+yyyy.MM.dd.HH}", doc: `{"@timestamp":"2026-01-01T23:30:00-02:00"}`, wantIndex: "events-2026.01.02.01"},
		{name: "a week", index: "events-%{+xxxx.ww}", doc: `{"@timestamp":"2027-01-01T00:00:00Z"}`, wantIndex: "events-2026.53"},
		{name: "a day of the year", index: "events-%{+yyyy.DDD}", doc: `{"@timestamp":"2024-12-31T00:00:00Z"}`, wantIndex: "events-2024.366"},
		{name: "no timestamp", index: "events-%{+yyyy.MM.dd}", doc: `{}`, wantIndex: fallback},
		{name: "a timestamp that is none", index: "events-%{+yyyy.MM.dd}", doc: `{"@timestamp":"yesterday"}`, wantIndex: fallback},
		{name: "a year beyond four digits", index: "events-%{+yyyy.MM.dd}", doc: `{"@timestamp":"19999-01-01T00:00:00Z"}`, wantIndex: fallback},
		{name: "a text", index: "events", wantIndex: "events"},
		{name: "a text and an allowed name that differs", index: "events", allowed: []string{"x"}, wantIndex: "events"},
		{name: "a field", index: "logs-%{[event][dataset]}-default", doc: `{"event":{"dataset":"system.auth"}}`, wantIndex: "logs-system.auth-default"},
		{name: "a field, dotted", index: "logs-%{event.dataset}-default", doc: `{"event":{"dataset":"system.auth"}}`, wantIndex: "logs-system.auth-default"},
		{name: "a field that is missing", index: "logs-%{event.dataset}-default", doc: `{}`, wantIndex: fallback},
		{name: "a field that climbs", index: "logs-%{event.dataset}-default", doc: `{"event":{"dataset":"../../x"}}`, wantIndex: fallback},
		{name: "a field in upper case", index: "logs-%{event.dataset}-default", doc: `{"event":{"dataset":"System"}}`, wantIndex: fallback},
		{name: "a data stream", doc: `{"data_stream":{"type":"logs","dataset":"nginx","namespace":"prod"}}`, meta: `{"beat":"filebeat","version":"8"}`, wantIndex: "logs-nginx-prod"},
		{name: "a data stream that lacks a part", doc: `{"data_stream":{"type":"logs","dataset":"nginx"}}`, meta: `{"beat":"filebeat","version":"8"}`, wantIndex: "filebeat-8"},
		{name: "a data stream where the settings name an index", index: "events", doc: `{"data_stream":{"type":"logs","dataset":"nginx","namespace":"prod"}}`, wantIndex: "events"},
		{name: "metadata.index", meta: `{"beat":"filebeat","version":"8","index":"logs-a-b"}`, wantIndex: "logs-a-b"},
		{name: "metadata.raw_index", meta: `{"beat":"filebeat","version":"8","raw_index":"logs-a-b"}`, wantIndex: "logs-a-b"},
		{name: "index before raw_index", meta: `{"raw_index":"logs-a-c","index":"logs-a-b"}`, wantIndex: "logs-a-b"},
		{name: "alias before index", meta: `{"alias":"filebeat-write","raw_index":"logs-a-c","index":"logs-a-b"}`, wantIndex: "filebeat-write"},
		{name: "an index not allowed", meta: `{"index":"secrets"}`, wantIndex: fallback},
		{name: "an index allowed by the settings", allowed: []string{"sec*"}, meta: `{"index":"secrets"}`, wantIndex: "secrets"},
		{name: "nothing is allowed", allowed: []string{}, meta: `{"beat":"filebeat","version":"8"}`, wantIndex: fallback},
		{name: "a dot first", allowed: []string{"*"}, meta: `{"index":".security-7"}`, wantIndex: fallback},
		{name: "a path", allowed: []string{"*"}, meta: `{"index":"../x"}`, wantIndex: fallback},
		{name: "dots", allowed: []string{"*"}, meta: `{"index":".."}`, wantIndex: fallback},
		{name: "a wildcard", allowed: []string{"*"}, meta: `{"index":"logs-*"}`, wantIndex: fallback},
		{name: "a comma", allowed: []string{"*"}, meta: `{"index":"logs-a,secrets"}`, wantIndex: fallback},
		{name: "date mathematics", allowed: []string{"*"}, meta: `{"index":"<logs-{now/d}>"}`, wantIndex: fallback},
		{name: "another cluster", allowed: []string{"*"}, meta: `{"index":"other:logs"}`, wantIndex: fallback},
		{name: "a newline", allowed: []string{"*"}, meta: `{"index":"logs-a-b\"}}\n{\"delete\":{}}"}`, wantIndex: fallback},
		{name: "a newline alone", allowed: []string{"*"}, meta: `{"index":"logs-a-b\n"}`, wantIndex: fallback},
		{name: "a quote", allowed: []string{"*"}, meta: `{"index":"a\"b"}`, wantIndex: fallback},
		{name: "half a character", allowed: []string{"*"}, meta: `{"index":"a\ud800b"}`, wantIndex: "a\ufffdb"},
		{name: "255 bytes", meta: `{"index":"` + long(255) + `"}`, wantIndex: long(255)},
		{name: "what the Beat did not resolve", meta: `{"index":"filebeat-%{[agent.version]}"}`, wantIndex: fallback},
		{name: "a version that nobody resolved", meta: `{"beat":"filebeat","version":"%{[v]}"}`, wantIndex: fallback},
		{name: "256 bytes", meta: `{"index":"` + long(256) + `"}`, wantIndex: fallback},
		{name: "255 bytes of two each", allowed: []string{"*"}, meta: `{"index":"` + strings.Repeat("é", 128) + `"}`, wantIndex: fallback},
		{name: "a Turkish capital", allowed: []string{"*"}, meta: `{"index":"İ"}`, wantIndex: fallback},
		{name: "the fallback itself", allowed: []string{"x"}, meta: `{"index":"` + fallback + `"}`, wantIndex: fallback},
		{name: "metadata is a text", meta: `"logs-a-b"`, wantIndex: fallback},
		{name: "metadata is a list", meta: `[{"index":"logs-a-b"}]`, wantIndex: fallback},
		{name: "metadata is null", meta: `null`, wantIndex: fallback},
		{name: "metadata of other types", meta: `{"index":["logs-a-b"],"alias":{},"raw_index":1,"beat":true,"version":null,"pipeline":[],"op_type":7}`, wantIndex: fallback},
		{name: "metadata of a hundred KiB", meta: `{"index":"logs-a-b","x":"` + strings.Repeat("x", 100<<10) + `"}`, wantIndex: fallback},

		{name: "a pipeline", index: "events", pipeline: "%{[@metadata][pipeline]}", meta: `{"pipeline":"filebeat-8.1-Nginx"}`, wantIndex: "events", wantPipeline: "filebeat-8.1-nginx"},
		{name: "a pipeline that is not asked for", index: "events", meta: `{"pipeline":"p"}`, wantIndex: "events"},
		{name: "a pipeline for all", index: "events", pipeline: "mine", meta: `{"pipeline":"p"}`, wantIndex: "events", wantPipeline: "mine"},
		{name: "no pipeline", index: "events", pipeline: "%{[@metadata][pipeline]}", wantIndex: "events"},
		{name: "a pipeline with a quote and a newline", index: "events", pipeline: "%{[@metadata][pipeline]}", meta: `{"pipeline":"p\"}}\n{}\n"}`, wantIndex: "events", wantPipeline: "p\"}}\n{}\n"},

		{name: "another operation", index: "events", meta: `{"op_type":"delete"}`, wantIndex: "events"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, esstandin.Config{OpenSearch: true}, func(c *elasticsearch.Config) {
					c.Index, c.Pipeline, c.AllowedIndices = tt.index, tt.pipeline, tt.allowed
				})
				if tt.wantPipeline != "" {
					b.es.PutPipeline(tt.wantPipeline)
				}
				e := some(1, 2)
				e[0].meta = tt.meta
				if tt.doc != "" {
					e[0].line = tt.doc
				}
				require.NoError(t, b.returned(b.store(t.Context(), e), time.Second))
				docs := b.es.Find(e[0].id)
				require.Len(t, docs, 1, "%v", b.dead.of(e[0].line))
				assert.Equal(t, tt.wantIndex, docs[0].Index)
				assert.Equal(t, tt.wantPipeline, docs[0].Pipeline)
				assert.Equal(t, map[string]int{"201": 1}, b.es.Stats().Items)
				b.close()
			})
		})
	}
}

// With op_type index the names that are data streams by their kind are created
// in all the same: they take nothing else. What the user names is as it is said.
func TestIndexIsNoOperationOfStreams(t *testing.T) {
	const stamped = `"@timestamp":"2026-01-02T03:04:05.678Z"`
	for _, tt := range []struct {
		name, index, meta, doc string
		wantIndex              string
		overwrites             int
		ignored                float64 // operations that the event asked for
	}{
		{name: "data_stream", doc: `{` + stamped + `,"data_stream":{"type":"logs","dataset":"nginx","namespace":"prod"}}`, wantIndex: ".ds-logs-nginx-prod"},
		{name: "data_stream, by itself to be created in", meta: `{"op_type":"create"}`, doc: `{` + stamped + `,"data_stream":{"type":"logs","dataset":"nginx","namespace":"prod"}}`, wantIndex: ".ds-logs-nginx-prod"},
		{name: "the fallback", doc: `{` + stamped + `}`, wantIndex: ".ds-logs-vtsidecar-fallback"},
		{name: "the fallback, for a name that is not allowed", meta: `{"index":"secrets","op_type":"index"}`, doc: `{` + stamped + `}`, wantIndex: ".ds-logs-vtsidecar-fallback", ignored: 2},
		{name: "the fallback, by the event's own choice", meta: `{"index":"logs-vtsidecar-fallback"}`, doc: `{` + stamped + `}`, wantIndex: ".ds-logs-vtsidecar-fallback"},
		{name: "the setting", index: "events", doc: `{}`, wantIndex: "events", overwrites: 1},
		{name: "the convention", meta: `{"beat":"filebeat","version":"8.1.0"}`, doc: `{}`, wantIndex: "filebeat-8.1.0", overwrites: 1},
		{name: "the convention, though to be created in", meta: `{"beat":"filebeat","version":"8.1.0","op_type":"create"}`, doc: `{}`, wantIndex: "filebeat-8.1.0", overwrites: 1, ignored: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := metrics.New("", "", "")
				b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.OpType, c.Index, c.Metrics = "index", tt.index, m })
				e := some(1, 2)
				e[0].meta, e[0].line = tt.meta, tt.doc
				for range 2 {
					require.NoError(t, b.returned(b.store(t.Context(), e), time.Second))
				}
				docs := b.es.Find(e[0].id)
				require.Len(t, docs, 1, "%v", b.dead.of(e[0].line))
				assert.Contains(t, docs[0].Index, tt.wantIndex)
				assert.Equal(t, tt.overwrites, b.es.Stats().Overwrites)
				assert.InDelta(t, tt.ignored, metric(t, m, "vtsidecar_output_op_type_ignored_total"), 0)
				b.close()
			})
		})
	}
}

// The pipeline _none, of an event or of the settings, skips that of the index, as
// with Beats.
func TestNoPipelineAtAll(t *testing.T) {
	for _, tt := range []struct{ pipeline, meta string }{
		{"%{[@metadata][pipeline]}", `{"pipeline":"_NONE"}`}, {"_none", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Pipeline = tt.pipeline })
			b.es.SetSetting("events", "index.default_pipeline", "gone")
			e := some(1, 2)
			e[0].meta = tt.meta
			require.NoError(t, b.returned(b.store(t.Context(), e), time.Second))
			require.Len(t, b.es.Find(e[0].id), 1)
			assert.Equal(t, "_none", b.es.Find(e[0].id)[0].Pipeline)
			b.close()
		})
	}
}

// metric is the sum of a counter's series, or of those with a label of that value.
func metric(t *testing.T, m *metrics.Set, name string, label ...string) (sum float64) {
	t.Helper()
	families, err := m.Registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			for _, x := range f.GetMetric() {
				has := len(label) == 0
				for _, l := range x.GetLabel() {
					has = has || l.GetValue() == label[0]
				}
				if has {
					sum += x.GetCounter().GetValue() + x.GetGauge().GetValue() // it is one of them
				}
			}
		}
	}
	return sum
}

// A data stream that the user or the event names is a mistake of theirs.
func TestIndexIntoAStreamThatIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.OpType, c.Index = "index", "logs-app-default" })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, b.returned(b.store(ctx, some(0, 1)), longest), context.DeadlineExceeded)
		require.ErrorContains(t, b.out.Ready(), "output.elasticsearch.index")
		named := some(1, 2)
		named[0].meta = `{"index":"logs-a-b"}`
		require.NoError(t, b.returned(b.store(t.Context(), named), time.Second))
		require.Len(t, b.dead.of(named[0].line), 1)
		assert.Equal(t, "index", b.dead.of(named[0].line)[0].Reason)
		b.close()
	})
}

// Events of one bulk go each its own way.
func TestRoutesStandSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{OpenSearch: true}, func(c *elasticsearch.Config) {
			c.Index, c.Pipeline = "", "%{[@metadata][pipeline]}"
		})
		b.es.PutPipeline("p")
		events := some(0, 3000)
		want := map[string]int{}
		for i := range events {
			index := fmt.Sprintf("winlogbeat-%d", i%1200) // more than are remembered
			events[i].meta = fmt.Sprintf(`{"beat":"winlogbeat","version":"%d"}`, i%1200)
			if i%7 == 0 {
				index = fmt.Sprintf("logs-a-%d", i%5)
				events[i].meta = fmt.Sprintf(`{"index":%q,"pipeline":"P"}`, index)
			}
			want[index]++
		}
		require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
		got := map[string]int{}
		for _, d := range b.es.Docs("") {
			got[d.Index]++
			assert.Equal(t, strings.HasPrefix(d.Index, "logs-"), d.Pipeline == "p")
		}
		assert.Equal(t, want, got)
		b.once(events)
		b.close()
	})
}

// What the settings may not say.
func TestOpenRefuses(t *testing.T) {
	doer := wire{esstandin.New(esstandin.Config{})}
	dead := &grave{}
	for _, tt := range []struct {
		name string
		cfg  elasticsearch.Config
		want string
	}{
		{"no client", elasticsearch.Config{Dead: dead}, "client"},
		{"no dead letter", elasticsearch.Config{Doer: doer}, "dead letter"},
		{"operation", elasticsearch.Config{OpType: "delete"}, "op_type"},
		{"upper case", elasticsearch.Config{Index: "Events"}, "output.elasticsearch.index"},
		{"a dot first", elasticsearch.Config{Index: ".events"}, "output.elasticsearch.index"},
		{"a brace that stays open", elasticsearch.Config{Index: "events-%{[a]"}, "output.elasticsearch.index"},
		{"no field", elasticsearch.Config{Index: "events-%{}"}, "output.elasticsearch.index"},
		{"half a field", elasticsearch.Config{Index: "events-%{[a][]}"}, "output.elasticsearch.index"},
		{"metadata as a whole", elasticsearch.Config{Index: "events-%{[@metadata]}"}, "output.elasticsearch.index"},
		{"an unknown date", elasticsearch.Config{Index: "events-%{+yyyy.QQ}"}, "output.elasticsearch.index"},
		{"an empty date", elasticsearch.Config{Index: "events-%{+}"}, "output.elasticsearch.index"},
		{"upper case beside a field", elasticsearch.Config{Index: "%{[@metadata][beat]}-Prod"}, "upper-case letters"},
		{"a dot before a field", elasticsearch.Config{Index: ".beat-%{[a]}"}, "begin with a dot"},
		{"an underscore before a field", elasticsearch.Config{Index: "_beat-%{[a]}"}, "begins with -, _ or +"},
		{"a space beside a field", elasticsearch.Config{Index: "filebeat-%{[a]} x"}, "holds a space"},
		{"a date with slashes beside a field", elasticsearch.Config{Index: "%{[a]}beat-%{+yyyy/MM/dd}"}, "holds a space"},
		{"no name is allowed", elasticsearch.Config{Index: "events-%{[a]}", AllowedIndices: []string{"event", "logs-*-*"}}, `allowed_indices (event, logs-*-*) allows: add "events-*" there`},
		{"no name is allowed, by its end", elasticsearch.Config{Index: "%{[a]}-prod", AllowedIndices: []string{"*-test", "x"}}, `add "*-prod" there`},
		{"nothing is allowed", elasticsearch.Config{Index: "%{[a]}", AllowedIndices: []string{}}, "output.elasticsearch.allowed_indices"},
		{"a bad fallback", elasticsearch.Config{FallbackIndex: "a b"}, "output.elasticsearch.fallback_index"},
		{"a fallback with a field", elasticsearch.Config{FallbackIndex: "logs-%{[a]}"}, "output.elasticsearch.fallback_index"},
		{"a bad pipeline", elasticsearch.Config{Pipeline: "%{"}, "output.elasticsearch.pipeline"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want != "client" {
				tt.cfg.Doer = doer
			}
			if tt.want != "dead letter" {
				tt.cfg.Dead = dead
			}
			_, err := elasticsearch.Open(tt.cfg)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// What may come to be allowed is left to the events.
func TestCheckIndexAllows(t *testing.T) {
	for _, tt := range []struct {
		index   string
		allowed []string
	}{
		{"%{[a]}", []string{"events"}},
		{"ev%{[a]}s", []string{"events"}},
		{"ev%{[a]}", []string{"events-*"}},
		{"events-%{[a]}-%{+yyyy}", []string{"ev*"}},
		{"events-%{[a]}-prod", []string{"x", "*-prod"}},
		{"%{[a]}events", []string{"logs-*-*"}},
		{"%{[@metadata][beat]}-%{[@metadata][version]}", elasticsearch.DefaultAllowed},
		{"logs-%{[event][dataset]}-default", elasticsearch.DefaultAllowed},
		{"events", nil},
		{"events-%{+yyyy.MM.dd}", nil},
	} {
		require.NoError(t, elasticsearch.CheckIndex(tt.index, tt.allowed), tt.index)
	}
}

// Nothing in an event can make a line of its own, leave the allowed indices, or
// refuse its neighbour.
func FuzzRoutes(f *testing.F) {
	f.Add(`{"index":"logs-a-b\"}}\n{\"delete\":{}}","pipeline":"\n","_id":"x"}`, "a\"\n\\", "../x")
	f.Add(`{"beat":"winlogbeat","version":"\ud800"}`, "\xff", "\x00")
	f.Add(`[`, "", "é")
	f.Fuzz(func(t *testing.T, meta, id, set string) {
		es := esstandin.New(esstandin.Config{OpenSearch: true})
		dead := &grave{t: t, es: es, letters: map[string][]event.DeadLetter{}}
		out, err := elasticsearch.Open(elasticsearch.Config{Doer: wire{es}, Dead: dead, Index: "logs-%{data_stream.dataset}-default", Pipeline: "%{[@metadata][pipeline]}"})
		require.NoError(t, err)
		events := some(0, 3)
		l := linesOf(out, events)
		l.Routing[1].Meta, l.Routing[1].ID = []byte(meta), []byte(id)
		for i := range l.Routing[1].Values {
			l.Routing[1].Values[i] = []byte(set)
		}
		require.NoError(t, out.Store(t.Context(), l))
		require.NoError(t, out.Close(t.Context()))
		assert.Empty(t, es.Complaints())
		assert.Len(t, es.Docs(""), 3-dead.count())
		for _, d := range es.Docs("") {
			ok := strings.HasPrefix(d.Index, "logs-") || strings.Contains(d.Index, "beat-")
			assert.True(t, ok, "stored in %q", d.Index)
		}
		assert.Zero(t, es.Stats().Items["400 invalid_index_name_exception"])
		for _, i := range []int{0, 2} {
			assert.Len(t, es.Find(events[i].id), 1)
		}
	})
}

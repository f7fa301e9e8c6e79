package elasticsearch_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/output/elasticsearch"
)

// Who will write to documents later is told which index has each, before Store
// returns: of a data stream the one that has it now, not the one that is written to.
func TestPlaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Index, c.BulkMaxBytes = "logs-app-default", 1000 })
		b.es.PutTemplate("logs", "logs-app-*", 500, true)
		placed := func(events []one) []string {
			t.Helper()
			var mu sync.Mutex
			at := make([]string, len(events))
			l := linesOf(b.out, events)
			l.Placed = func(line int, index string) {
				mu.Lock()
				defer mu.Unlock()
				assert.Empty(t, at[line], "event %d is told twice", line)
				at[line] = index
			}
			done := make(chan error, 1)
			go func() { done <- b.out.Store(t.Context(), l) }()
			require.NoError(t, b.returned(done, longest))
			mu.Lock()
			defer mu.Unlock()
			return at
		}
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 400}, esstandin.Rule{Match: word(4), Status: 503, Times: 2}, esstandin.Rule{Match: word(5), Status: 503, Times: 1, Stored: true})
		events := some(0, 20)
		events[7].meta, events[8].meta = `{"index":"filebeat-8.1"}`, `{"index":"logs-\u00e9-x"}`
		first := placed(events)
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 400})
		b.es.Rollover("logs-app-default")
		again := placed(append(some(3, 6), some(100, 101)...)) // in another backing index, all of them
		b.es.SetRules()
		for i, e := range events {
			if i == 3 {
				assert.Empty(t, first[i], "it is nowhere")
				continue
			}
			docs := b.es.Find(e.id)
			require.NotEmpty(t, docs, "event %d", i)
			assert.Contains(t, []string{docs[0].Index, docs[len(docs)-1].Index}, first[i], "event %d", i)
		}
		assert.Equal(t, "filebeat-8.1", first[7])
		assert.Equal(t, "logs-é-x", first[8])
		assert.Empty(t, again[0])
		assert.Equal(t, b.es.Find(some(100, 101)[0].id)[0].Index, again[3])
		assert.NotEqual(t, first[4], again[1])

		second := placed(some(100, 101))
		assert.Equal(t, again[3:], second, "what is there already")
		require.NoError(t, b.returned(b.store(t.Context(), some(200, 210)), time.Second), "nobody asks")
		b.close()
	})
}

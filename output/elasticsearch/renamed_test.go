package elasticsearch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/metrics"
	"vtsidecar/output/elasticsearch"
)

// A pipeline may give events another _id, that of a document that is there too: the
// cluster's answer then names that one, and is an answer all the same.
func TestPipelineSetsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetSetting("events", "index.default_pipeline", "renames")
		b.es.PutPipeline("renames", map[string]any{"set": map[string]any{"field": "_id", "value": "another"}})
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 400}, esstandin.Rule{Match: word(4), Status: 503, Times: 1})
		events := some(0, 10)
		require.NoError(t, b.returned(b.store(t.Context(), events), 5*time.Second))
		require.NoError(t, b.out.Ready())
		for i, e := range events {
			assert.Equal(t, i != 3, b.es.Settled(e.id), "event %d", i)
			assert.Equal(t, i == 3, len(b.dead.of(e.line)) == 1, "event %d", i)
		}
		assert.Len(t, b.es.Find("another"), 1)
		before := b.bulks()
		require.NoError(t, b.returned(b.store(t.Context(), some(10, 20)), time.Second))
		assert.Equal(t, before+1, b.bulks(), "what is known is found out again")
		b.close()
	})
}

// What the cluster keeps in a data stream's failure store is kept, under an _id that
// nobody has sent.
func TestFailureStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New("", "", "")
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Metrics = m })
		b.es.SetRules(esstandin.Rule{Match: word(3), FailureStore: true})
		events := some(0, 10)
		require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
		require.NoError(t, b.out.Ready())
		b.once(append(events[:3:3], events[4:]...))
		assert.Equal(t, 2, b.es.Stats().FailureStore)
		assert.Zero(t, b.dead.count())
		require.NoError(t, b.returned(b.store(t.Context(), some(3, 4)), time.Second))
		assert.Equal(t, 3, b.es.Stats().FailureStore)
		assert.InDelta(t, 2, metric(t, m, "vtsidecar_output_items_total", "failure_store"), 0)
		b.close()
	})
}

// OpenSearch answers in another order where several events fail in pipelines.
func TestAnswersOutOfOrder(t *testing.T) { answersSpelledOtherwise(t, "order", 11) }

// An answer of the right length that names nothing is taken in its order.
func TestAnswersWithoutIDs(t *testing.T) { answersSpelledOtherwise(t, "no_id", 10) }

func answersSpelledOtherwise(t *testing.T, kind string, n int) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetRules(esstandin.Rule{Match: word(2), Status: 400}, esstandin.Rule{Match: word(3), Status: 503, Times: 1})
		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: kind, Stored: true}))
		events := some(0, n)
		b.dead.allow(events[2].id) // it was refused in a disturbance
		require.NoError(t, b.returned(b.storeUnseen(events), 10*time.Second))
		b.once(events, 2)
		assert.Equal(t, 2, b.bulks())
		b.close()
	})
}

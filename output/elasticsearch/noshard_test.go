package elasticsearch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
)

// An index whose shard no node has keeps a request waiting for it. Its events are
// tried again, and those of other indices go on: the request does not time out.
func TestIndexWithoutAShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetSetting("logs-gone-x", esstandin.NoShard, "nobody")
		events := some(0, 10)
		events[3].meta = `{"index":"logs-gone-x"}`
		done := b.store(t.Context(), events)
		for i := range 20 {
			require.NoError(t, b.returned(b.store(t.Context(), some(20+10*i, 30+10*i)), timeout/2), "window %d", i)
			time.Sleep(20 * time.Second) // of the bubble's clock
		}
		b.waiting(done)
		for i, e := range events {
			assert.Equal(t, i != 3, b.es.Settled(e.id), "event %d", i)
		}
		b.es.DeleteSetting("logs-gone-x", esstandin.NoShard)
		require.NoError(t, b.returned(done, longest))
		b.once(events)
		b.close()
	})
}

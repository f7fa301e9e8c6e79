package elasticsearch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/faketime"
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
		faketime.Pass(t, time.Minute)
		var more []<-chan error
		for i := range 10 {
			held := some(20+i, 21+i)
			held[0].meta = events[3].meta
			more = append(more, b.store(t.Context(), held))
			faketime.Pass(t, time.Minute)
		}
		// They are tried together, and leave a worker to others.
		for i := range 200 {
			require.NoError(t, b.returned(b.store(t.Context(), some(40+i, 41+i)), time.Second), "window %d", i)
			faketime.Pass(t, 3*time.Second)
		}
		b.waiting(done)
		for i, e := range events {
			assert.Equal(t, i != 3, b.es.Settled(e.id), "event %d", i)
		}
		b.es.DeleteSetting("logs-gone-x", esstandin.NoShard)
		require.NoError(t, b.returned(done, longest))
		for _, d := range more {
			require.NoError(t, b.returned(d, longest))
		}
		b.once(events)
		b.close()
	})
}

package elasticsearch_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/faketime"
	"vtsidecar/output/elasticsearch"
)

// The index's own pipeline is missing, and events with another one are stored there
// all the time: that does not end the outage of the others, again and again.
func TestOutageDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Pipeline = elasticsearch.DefaultPipeline })
		b.es.SetSetting("events", "index.default_pipeline", "own")
		var waiting []<-chan error
		var held []one
		for i := range 20 {
			held = append(held, some(2*i, 2*i+1)...)
			waiting = append(waiting, b.store(t.Context(), held[i:]))
			others := some(2*i+1, 2*i+2)
			others[0].meta = `{"pipeline":"_none"}`
			require.NoError(t, b.returned(b.store(t.Context(), others), time.Second))
			synctest.Wait()
			require.ErrorContains(t, b.out.Ready(), "events")
			faketime.Pass(t, 5*time.Second)
		}
		assert.Equal(t, 1, strings.Count(b.log.String(), "\n"), "%s", b.log)
		b.es.PutPipeline("own")
		for _, done := range waiting {
			require.NoError(t, b.returned(done, longest))
		}
		require.NoError(t, b.out.Ready())
		b.once(held)
		assert.Equal(t, 2, strings.Count(b.log.String(), "\n"), "%s", b.log)
		b.close()
	})
}

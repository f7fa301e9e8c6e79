package elasticsearch_test

import (
	"fmt"
	"net/http"
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

// quotes are words of the cluster's about a place, in an event.
var quotes = []string{
	"z is closed, so can't be opened", "pipeline with id [own] does not exist", "pipeline with id [] does not exist",
	"no write index is defined for alias [events]", "only write ops with an op_type of create are allowed in data streams",
	"this action would add [2] shards", "explicit index in bulk is not allowed", "cluster_block_exception",
}

// The cluster quotes what is wrong with an event. Nothing that stands there makes
// the place that the settings name look as if it were at fault: all would wait.
func TestReasonsQuoteEvents(t *testing.T) {
	for _, quote := range quotes {
		for _, words := range []string{"unable to convert [%s] to integer", "field [%s] not present as part of path [a.b]"} {
			t.Run(fmt.Sprintf(words, quote), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Pipeline = "own" })
					b.es.PutPipeline("own")
					b.es.SetRules(esstandin.Rule{Match: word(3), Status: 400, Type: "illegal_argument_exception", Reason: fmt.Sprintf(words, quote)})
					events := some(0, 10)
					require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
					require.NoError(t, b.out.Ready())
					b.once(events, 3)
					assert.Equal(t, "refused", b.dead.of(events[3].line)[0].Reason)
					b.close()
				})
			})
		}
	}
}

// The same of what is said about a whole request: it holds that event alone.
func TestRefusalsQuoteEvents(t *testing.T) {
	for _, quote := range quotes {
		for _, body := range []string{"<html>Bad Request: %s</html>", `{"error":"Bad Request: %s"}`, errorBody("blocked_exception", "by rule 7: %s")} {
			body = strings.ReplaceAll(body, "%s", quote)
			t.Run(body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &between{answer: against(word(3), http.StatusBadRequest, body)}
					b := open(t, esstandin.Config{}, behind(d))
					events := some(0, 10)
					done := b.store(t.Context(), events)
					faketime.Pass(t, time.Minute)
					b.waiting(done)
					for i, e := range events {
						assert.Equal(t, i != 3, b.es.Settled(e.id), "event %d", i)
					}
					d.set(nil)
					require.NoError(t, b.returned(done, longest))
					b.once(events)
					b.close()
				})
			})
		}
	}
}

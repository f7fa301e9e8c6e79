//go:build real

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// longest is the longest request that a node of little means takes, in bytes. It
// has one write under way, and three wait.
const longest = 64 << 10

var littleMeans = []string{fmt.Sprintf("http.max_content_length=%db", longest), "thread_pool.write.size=1", "thread_pool.write.queue_size=3"}

// TestSearchLimits stores in real nodes that take little at a time.
func TestSearchLimits(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"es", "os"} {
		t.Run(engine, func(t *testing.T) {
			n := startNode(t, engine, littleMeans...)
			vt := startStandIn(t)
			_, code := command(t, append(surroundings(t.TempDir(), vt), "--output.elasticsearch.hosts", n.url), "setup")
			require.Zero(t, code, "the exit status of setup")
			n.do(t, "PUT", "/_index_template/limits", `{"index_patterns":["limits-*"],"composed_of":["vtsidecar@mappings"],
				"template":{"settings":{"number_of_replicas":0,"translog.durability":"async"}}}`)
			t.Run("memory", func(t *testing.T) { noMemory(t, n, vt) })
			t.Run("queue", func(t *testing.T) { fullQueue(t, n, vt) })
			t.Run("length", func(t *testing.T) { tooLong(t, n, vt) })
		})
	}
}

// A node that has no memory for requests refuses each as a whole (429). The
// windows wait until it has, and all is stored.
func noMemory(t *testing.T, n *node, vt string) {
	const index, count, limit = "limits-memory", 500, "network.breaker.inflight_requests.limit"
	s := startStoring(t, vt, n, "--output.elasticsearch.index", index)
	lift := func() { n.do(t, "PUT", "/_cluster/settings", `{"persistent":{"`+limit+`":null}}`) }
	defer lift() // also where something fails: others use the node
	n.do(t, "PUT", "/_cluster/settings", `{"persistent":{"`+limit+`":"1kb"}}`)
	sent := s.send(t, firstLine, count, searchLine)
	await(t, "a second request was refused", func() bool { return s.metric(t, `vtsidecar_output_retries_total{reason="busy"}`) >= 2 }, s.process, sent)
	require.Zero(t, s.metric(t, `vtsidecar_output_items_total{outcome="retried",reason="busy"}`), "events that were refused singly")
	lift()
	require.Zero(t, sent.wait(t), "the sender's exit status")
	s.recovered(t)
	s.stored(t, n, index, span{firstLine, count})
}

// Six requests at a time, each with events for two shards, meet a queue of three:
// the node refuses events, all of a request or some (429). Those alone are tried
// again until they are stored, once; none goes to the dead letter.
func fullQueue(t *testing.T, n *node, vt string) {
	const index, senders, count = "limits-queue", 4, 500
	n.do(t, "PUT", "/"+index, `{"settings":{"number_of_shards":2}}`)
	s := startStoring(t, vt, n, "--output.elasticsearch.index", index, "--output.elasticsearch.workers", "6", "--output.elasticsearch.bulk_max_bytes", fmt.Sprint(longest))
	var sent []*process
	for k := range senders {
		sent = append(sent, s.send(t, firstLine+k*count, count, searchLine))
	}
	for _, p := range sent {
		require.Zero(t, p.wait(t), "a sender's exit status")
	}
	items := s.metric(t, `vtsidecar_output_items_total{outcome="retried",reason="busy"}`)
	require.Positive(t, items, "the node refused no event")
	require.GreaterOrEqual(t, s.metric(t, `vtsidecar_output_retries_total{reason="busy"}`), items)
	t.Logf("of %d events %.0f were refused, some more than once", senders*count, items)
	require.EqualValues(t, senders*count, s.metric(t, "vtsidecar_events_stored_total"))
	s.recovered(t)
	s.stored(t, n, index, span{firstLine, senders * count})
}

// A request that is longer than the node takes (413) is halved until it is not,
// and one event that is longer by itself is put aside, alone. The node means what
// a body has before its compression.
func tooLong(t *testing.T, n *node, vt string) {
	const count, large = 2_000, firstLine + 777
	for _, level := range []string{"0", "1"} {
		t.Run("compression level "+level, func(t *testing.T) {
			index := "limits-length-" + level
			s := startStoring(t, vt, n, "--output.elasticsearch.index", index, "--output.elasticsearch.compression_level", level)
			require.Zero(t, s.send(t, firstLine, count, func(n int) string {
				if n == large {
					return strings.Replace(searchLine(n), "{", `{"filling":"`+strings.Repeat("0123456789abcdef", longest/16)+`",`, 1)
				}
				return searchLine(n)
			}).wait(t), "the sender's exit status")
			require.Positive(t, s.metric(t, `vtsidecar_output_retries_total{reason="too_large"}`))
			require.EqualValues(t, 1, s.metric(t, `vtsidecar_events_dead_lettered_total{reason="too_large"}`))
			require.EqualValues(t, count-1, s.metric(t, "vtsidecar_events_stored_total"))
			s.recovered(t)
			require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
			require.Equal(t, map[int]int{large: http.StatusRequestEntityTooLarge}, s.letters(t))

			require.Equal(t, count-1, n.count(t, index))
			byLine := n.tally(t, index, "n")
			for i := firstLine; i < firstLine+count; i++ {
				want := 1
				if i == large {
					want = 0
				}
				require.Equal(t, want, byLine[key(i)], "documents of line %d", i)
			}
		})
	}
}

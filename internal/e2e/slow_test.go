//go:build real

package e2e

import (
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An output that takes longer than Filebeat's timeout: VirusTotal never answers
// here, so a batch with something to look up is stored when vt.wait is over, 8 s
// after it came. The timeout is 5 s.
func startSlowSidecar(t *testing.T, keepalive string) *sidecar {
	t.Helper()
	return startSidecar(t, startStandIn(t, "-latency", "1h"), nil, "--vt.wait", "8s", "--vt.timeout", "1h", "--input.keepalive", keepalive)
}

// Filebeat begins small and connects anew whenever it can: windows of ten
// events, or fewer after a failure, each on a connection of its own. A ttl takes
// pipelining 0.
const renewed = `timeout: 5s
pipelining: 0
slow_start: true
ttl: 2s
backoff: {init: 200ms, max: 1s}
`

// Filebeat has two windows under way and more behind them.
const pipelined = `timeout: 5s
pipelining: 2
bulk_max_size: 10
backoff: {init: 200ms, max: 1s}
`

// Keepalives hold the connection, so each event is sent and received once. Before
// that the program is away, and Filebeat's backoff finds it when it comes.
func TestKeepalivesHoldFilebeat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, output       string
		lines, connections int // connections: at least
	}{
		{"slow_start with ttl", renewed, 21, 3},
		{"two windows under way", pipelined, 40, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := filepath.Join(t.TempDir(), "app.log")
			appendLines(t, log, firstLine, c.lines)
			s := startSlowSidecar(t, "1s")
			s.kill()
			r := startRelay(t, s.address)
			f := startFilebeat(t, log, settings{output: c.output, raw: true, once: true}, r.address())
			f.say(t, failed, 3) // the relay hangs up while there is nothing behind it
			s.start(t)

			require.Zero(t, f.wait(t), "Filebeat's exit status")
			received := s.metric(t, "vtsidecar_events_received_total")
			require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
			sent, copies := r.events(t)
			assert.Equal(t, c.lines, copies, "events that Filebeat sent")
			assert.EqualValues(t, c.lines, received, "events that were received")
			assert.GreaterOrEqual(t, r.connections(), c.connections, "connections")
			verify(t, check{lines: []span{{firstLine, c.lines}}, raw: true, sent: sent, unanswered: true, once: true}, s)
		})
	}
}

// failed is what Filebeat says of a connection that was of no use.
var failed = regexp.MustCompile(`Failed to (?:publish events caused by|connect to)`)

// The other side: with keepalives further apart than the timeout Filebeat gives
// up and sends again. Were that not so, the test above would say nothing.
func TestWithoutKeepalivesFilebeatResends(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, output string }{
		{"slow_start with ttl", renewed},
		{"two windows under way", pipelined},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const count = 10
			log := filepath.Join(t.TempDir(), "app.log")
			appendLines(t, log, firstLine, count)
			s := startSlowSidecar(t, "10s")
			r := startRelay(t, s.address)
			f := startFilebeat(t, log, settings{output: c.output, raw: true, once: true}, r.address())
			f.say(t, failed, 1)
			require.Eventually(t, func() bool {
				return s.metric(t, "vtsidecar_events_received_total") > count
			}, patience, 100*time.Millisecond, "nothing is sent again")
			f.kill()
			_, copies := r.events(t)
			assert.Greater(t, copies, count, "events that Filebeat sent")
		})
	}
}
